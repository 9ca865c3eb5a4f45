"""How many rows a run says it used."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import carry_out, make_run, save_decoder
from trainer_core.run_directory import LINEAGE, Result, RunDirectory, read_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "decoder")


def _chat(question: str) -> dict[str, Any]:
    turns = [("user", question), ("assistant", "it is red")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _make(folder: Path, decoder: Path, *, num_short: int, **training: Any) -> RunDirectory:
    """Chats of which the long ones have no answer left within 64 tokens."""
    short = [_chat(f"is it {number}") for number in range(num_short)]
    long_ones = [_chat("is it a small round " * 20 + str(number)) for number in range(12)]
    spec = {
        "task": "causal-lm",
        "max_length": 64,
        "data": {"eval": None},
        "training": {"batch_size": 8, "learning_rate": 1e-3, **training},
    }
    rows = [*short, *long_ones]
    evaluated = [*short[:4], *long_ones[:2]]
    return make_run(folder, model=decoder, rows=rows, spec=spec, eval=evaluated)


def test_rows_that_are_left_out_are_not_counted_as_used(decoder: Path, tmp_path: Path) -> None:
    directory = _make(tmp_path / "run", decoder, num_short=16, epochs=1)
    outcome = carry_out(directory)
    assert (outcome.result, outcome.step) == (Result.SUCCEEDED, 2)
    for lineage in (
        read_json(directory.lineage),
        read_json(directory.checkpoints / "checkpoint-2" / LINEAGE),
    ):
        assert lineage["num_rows"] == {"train": 16, "eval": 4, "test": 0}
        assert lineage["num_rows_left_out"] == {"train": 12, "eval": 2}
    card = (directory.model / "README.md").read_text()
    assert "on 16 rows (4 for eval held out)" in card


def test_too_few_rows_are_told_also_when_the_task_has_left_some_out(
    decoder: Path, tmp_path: Path
) -> None:
    error = carry_out(_make(tmp_path / "run", decoder, num_short=9)).error
    assert error is not None
    assert (error.code, error.param) == ("too_few_rows", "data.train")
    assert error.message.startswith("9 rows are left")


@pytest.mark.parametrize(
    ("training", "told", "untold"),
    [
        ({"max_steps": 2}, "| max_steps | 2 |", "epochs"),
        ({"epochs": 1}, "| epochs | 1", "max_steps"),
    ],
)
def test_a_card_tells_epochs_or_steps_whichever_counts(
    decoder: Path, tmp_path: Path, training: dict[str, Any], told: str, untold: str
) -> None:
    directory = _make(tmp_path / "run", decoder, num_short=16, **training)
    assert carry_out(directory).result is Result.SUCCEEDED
    card = (directory.model / "README.md").read_text()
    assert told in card
    assert untold not in card
