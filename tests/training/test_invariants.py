"""What holds for every task: how a step is cut, a stop, and a repetition change nothing.

The cases are rows made of the same texts, of two to nine words, so that a step of eight rows is cut
where only one long row fits.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.commands import START_SECONDS, commands
from tests.training.tiny import (
    COLOURS,
    WORDS,
    carry_out,
    colour_rows,
    events_of,
    make_run,
    save_decoder,
    save_encoder,
    save_masker,
    save_writer,
    stop_after,
)
from trainer_core.run_directory import Result, RunDirectory, file_sha256, read_json
from trainer_core.spec import TASKS
from trainer_core.training.loop.run_loop import RunLoop

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 asks models by a name that transformers 5.23 calls deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

NUM_ROWS = 28  # 4 steps an epoch, the last one of 4 rows
NUM_STEPS = 8
TRAINING = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 8}
SGD = {**TRAINING, "optimizer": "sgd", "learning_rate": 0.1}
LORA = {"r": 4, "dropout": 0.2}
MAKERS: dict[str, Callable[..., Path]] = {
    "encoder": save_encoder,
    "decoder": save_decoder,
    "masker": save_masker,
    "writer": lambda folder, **settings: save_writer(folder, words=WORDS, **settings),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A task with a model, and its row for a text, the colour in it and a number."""

    model: str
    row: Callable[[str, str, int], dict[str, Any]]
    task: str = ""  # empty: as the case is named
    parts: Mapping[str, Any] = field(default_factory=dict)  # of the spec

    def rows(self, count: int, *, seed: int = 1) -> list[dict[str, Any]]:
        """Return rows of texts of two to nine words."""
        made = colour_rows(count, seed=seed)
        return [self.row(row["text"], row["label"], number) for number, row in enumerate(made)]


def _chat(text: str, colour: str, number: int) -> dict[str, Any]:
    asked = {"role": "user", "content": text}
    return {"messages": [asked, {"role": "assistant", "content": colour}]}


def _tagged(text: str, colour: str, number: int) -> dict[str, Any]:
    words = text.split()
    return {"tokens": words, "tags": ["B-HUE" if word in COLOURS else "O" for word in words]}


def _asked(text: str, colour: str, number: int) -> dict[str, Any]:
    answer = {"text": colour, "answer_start": text.index(colour)}
    return {"context": text, "question": "is it", "answers": [answer]}


def _choices(text: str, colour: str, number: int) -> dict[str, Any]:
    choices = [text, "small old", "new", "a cold is it"][: 2 + number % 3]
    return {"question": "is it", "choices": choices, "label": 0}


def _preferred(text: str, colour: str, number: int) -> dict[str, Any]:
    return {"prompt": text, "chosen": f" {colour}", "rejected": " old" * (1 + number % 3)}


def _judged(text: str, colour: str, number: int) -> dict[str, Any]:
    is_good = number % 2 == 0
    return {"prompt": text, "completion": f" {colour if is_good else 'old'}", "label": is_good}


def _text(text: str, colour: str, number: int) -> dict[str, Any]:
    return {"text": text}


def _labelled(text: str, colour: str, number: int) -> dict[str, Any]:
    return {"text": text, "label": colour}


SHORT = {"max_length": 32, "doc_stride": 8, "max_question_length": 8}
BRIEF = {"generation": {"max_new_tokens": 4}}
CASES = {
    "text-classification": Case("encoder", _labelled),
    "token-classification": Case("encoder", _tagged),
    "question-answering": Case("encoder", _asked, parts=SHORT),
    "multiple-choice": Case("encoder", _choices),
    "summarization": Case(
        "writer", lambda text, colour, _: {"source": text, "target": colour}, parts=BRIEF
    ),
    "translation": Case(
        "writer", lambda text, colour, _: {"source": colour, "target": text}, parts=BRIEF
    ),
    "causal-lm": Case("decoder", _text),
    "causal-lm of chats": Case("decoder", _chat, task="causal-lm"),
    "causal-lm, packed": Case("decoder", _text, task="causal-lm", parts={"packing": True}),
    "masked-lm": Case("masker", _text),
    "dpo": Case("decoder", _preferred),
    "kto": Case("decoder", _judged, parts={"beta": 2.0}),  # the divergence counts
    "orpo": Case("decoder", _preferred),
    "reward-model": Case("encoder", _preferred),
    "sentence-embedding": Case(
        "encoder", lambda text, colour, _: {"anchor": colour, "positive": text}
    ),
}
WITH_ADAPTER = {
    f"{name} by LoRA": Case(case.model, case.row, task=name, parts={"adapter": LORA})
    for name, case in CASES.items()
    if name in ("text-classification", "causal-lm")
}
WITH_WORKERS = {
    "masked-lm with workers": Case(
        "masker", _text, task="masked-lm", parts={"training": {"data_loader_workers": 2}}
    )
}
STOPPED = {**CASES, **WITH_ADAPTER, **WITH_WORKERS}


def test_the_cases_are_of_all_tasks() -> None:
    assert {case.task or name for name, case in CASES.items()} == set(TASKS)


class Makers:
    """Makes run directories, and models where they are missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._finished: dict[str, RunDirectory] = {}

    def make(
        self, name: str, *, dropout: float, training: Mapping[str, Any], **splits: Any
    ) -> RunDirectory:
        """Return a new run directory of a case."""
        case = STOPPED[name]
        model = self._folder / f"{case.model}-{dropout}"
        if not model.exists():
            MAKERS[case.model](model, dropout=dropout)
        spec: dict[str, Any] = {
            "task": case.task or name,
            "data": {"eval": None},
            "evaluation": {"baseline": False},
            **case.parts,
            "training": {**training, **case.parts.get("training", {})},
        }
        number = sum(1 for _ in self._folder.iterdir())
        folder = self._folder / f"run-{number}"
        return make_run(folder, model=model, rows=case.rows(NUM_ROWS), spec=spec, **splits)

    def with_dropout(self, name: str) -> RunDirectory:
        """Return a new run directory of a case in which as much as can be is drawn at random."""
        held_out = STOPPED[name].rows(6, seed=2)
        return self.make(name, dropout=0.2, training=TRAINING, eval=held_out)

    def finished(self, name: str) -> RunDirectory:
        """Return a run of a case that nothing interrupted."""
        if name not in self._finished:
            directory = self.with_dropout(name)
            outcome = carry_out(directory)
            assert outcome.result is Result.SUCCEEDED, outcome.error
            self._finished[name] = directory
        return self._finished[name]


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Makers]:
    # The Trainer collects garbage before it begins: half a second for all that was ever imported.
    gc.freeze()
    yield Makers(tmp_path_factory.mktemp("invariants"))
    gc.unfreeze()


def _hashes(directory: RunDirectory) -> list[str]:
    """Return the SHA-256 of the weights handed out and of the last checkpoint's."""
    last = [*(directory.checkpoints / f"checkpoint-{NUM_STEPS}").glob("*.safetensors")]
    assert len(last) == 1
    return [file_sha256(path) for path in (directory.model / "model.safetensors", *last)]


@dataclass(slots=True)
class Fit:
    """What a training did."""

    start: torch.Tensor
    end: torch.Tensor
    num_passes: int


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[Fit]:
    """Watch trainings: all weights before and after, and how many forward passes there were."""
    found: list[Fit] = []
    fit = RunLoop.fit

    def watched(self: Any, *, resume_from: Path | None) -> None:
        passes: list[bool] = []
        model = self.model
        model.register_forward_pre_hook(
            lambda *_: passes.append(model.training and torch.is_grad_enabled())
        )
        start = _weights(model)
        fit(self, resume_from=resume_from)
        found.append(Fit(start, _weights(model), sum(passes)))

    monkeypatch.setattr(RunLoop, "fit", watched)
    return found


def _weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().double().flatten() for weight in model.parameters()])


@pytest.mark.parametrize("name", CASES)
def test_how_a_step_is_cut_changes_no_weight(makers: Makers, fits: list[Fit], name: str) -> None:
    """Sums in another order differ by the last bits of fp32; SGD does not blow them up."""
    told = []
    for micro in (8, 1):
        directory = makers.make(name, dropout=0.0, training={**SGD, "micro_batch_size": micro})
        outcome = carry_out(directory)
        assert (outcome.result, outcome.step) == (Result.SUCCEEDED, NUM_STEPS), outcome.error
        told.append([line.data["metrics"]["loss"] for line in events_of(directory, "metrics")])
    assert told[1] == pytest.approx(told[0], rel=1e-4)
    whole, cut = fits
    assert cut.num_passes > 2 * whole.num_passes
    assert torch.equal(whole.start, cut.start)
    moved = (whole.end - whole.start).norm()
    assert moved > 1e-3 * whole.start.norm()
    assert (whole.end - cut.end).norm() < 1e-4 * moved


@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_run_ends_as_if_it_was_not_stopped(makers: Makers, name: str) -> None:
    directory = makers.with_dropout(name)
    stopped = stop_after(directory, step=5)
    assert (stopped.result, stopped.step) == (Result.STOPPED, 6), stopped.error
    outcome = carry_out(directory)
    assert any("resuming from checkpoint-6" in str(e.data) for e in events_of(directory, "log"))
    assert outcome.to_dict() == read_json(makers.finished(name).outcome)
    assert _hashes(directory) == _hashes(makers.finished(name))


@pytest.mark.parametrize("name", CASES)
def test_the_same_spec_twice_gives_the_same_weights(makers: Makers, name: str) -> None:
    again = makers.with_dropout(name)
    assert carry_out(again).result is Result.SUCCEEDED
    assert _hashes(again) == _hashes(makers.finished(name))


def test_two_processes_give_the_same_weights(makers: Makers) -> None:
    name = "causal-lm by LoRA"
    runs = [makers.with_dropout(name) for _ in range(2)]
    with commands() as start:
        processes = [
            start(str(run.path), "--quiet", PYTHONHASHSEED=str(seed))
            for seed, run in enumerate(runs, 1)
        ]
        assert [process.wait(timeout=START_SECONDS) for process in processes] == [0, 0]
    for run in runs:
        assert _hashes(run) == _hashes(makers.finished(name))
