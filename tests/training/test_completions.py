"""Prompts with completions, and which tokens count in a loss, checked by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.tiny import carry_out, make_run, save_decoder
from trainer_core.run_directory import Result, RunDirectory

pytestmark = pytest.mark.slow

COLOUR_OF = {"sky": "blue", "grass": "green", "blood": "red"}
CALL = {"type": "function", "function": {"name": "see", "arguments": {"what": "sky"}}}
TOOL = {"type": "function", "function": {"name": "see", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "decoder")


def _prompts(count: int) -> list[dict[str, str]]:
    things = list(COLOUR_OF)
    return [
        {"prompt": f"{number} the {things[number % 3]} is ", "completion": answer}
        for number in range(count)
        for answer in [COLOUR_OF[things[number % 3]]]
    ]


def _carried_out(folder: Path, decoder: Path, rows: Any, **spec: Any) -> tuple[RunDirectory, float]:
    """Train a little on rows, and measure on the same: return the run and its loss."""
    whole = {"task": "causal-lm", "training": {"epochs": 1, "learning_rate": 1e-3}, **spec}
    directory = make_run(folder, model=decoder, rows=rows, spec=whole, eval=rows)
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    return directory, outcome.metrics["loss"]


def _nats(model: Any, ids: list[int], learnt: list[bool]) -> list[float]:
    """Return of each learnt token its negative log-probability, from all logits in fp64."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    chances = torch.log_softmax(logits, dim=-1)
    places = [place for place in range(1, len(ids)) if learnt[place]]
    return [-float(chances[place - 1, ids[place]]) for place in places]


def _expected_loss(directory: RunDirectory, pieces: list[list[tuple[str, bool]]]) -> float:
    """Return the mean over all learnt tokens of rows given as pieces of text, learnt or not."""
    tokenizer: Any = AutoTokenizer.from_pretrained(directory.model)
    model = AutoModelForCausalLM.from_pretrained(directory.model).eval()
    nats = []
    for row in pieces:
        ids, learnt = [], []
        for text, is_learnt in row:
            tokens = tokenizer.encode(text, add_special_tokens=False)
            ids += tokens
            learnt += [is_learnt] * len(tokens)
        nats += _nats(model, ids, learnt)
    return sum(nats) / len(nats)


def test_a_completion_is_learnt_and_given_after_plain_loading(
    decoder: Path, tmp_path: Path
) -> None:
    training = {"epochs": 5, "learning_rate": 1e-2, "batch_size": 8, "weight_decay": 0.0}
    directory, _ = _carried_out(tmp_path / "run", decoder, _prompts(240), training=training)
    tokenizer: Any = AutoTokenizer.from_pretrained(directory.model)
    model: Any = AutoModelForCausalLM.from_pretrained(directory.model)
    for thing, colour in COLOUR_OF.items():
        prompt = tokenizer(f"7 the {thing} is ", return_tensors="pt")
        written = model.generate(**prompt, max_new_tokens=8, do_sample=False)
        answer = tokenizer.decode(written[0, prompt["input_ids"].shape[1] :])
        assert answer == f"{colour}<|im_end|>"  # it stops by itself


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_the_loss_of_completions_is_that_of_their_tokens_and_the_end(
    decoder: Path, tmp_path: Path, loss_on: str
) -> None:
    """Whoever generates has the prompt's tokens alone, so the border is between tokens."""
    rows = [*_prompts(18), {"prompt": "grass is gre", "completion": "en"}]
    directory, loss = _carried_out(tmp_path / "run", decoder, rows, loss_on=loss_on)
    tokenizer: Any = AutoTokenizer.from_pretrained(directory.model)
    apart = [*tokenizer.encode("grass is gre"), *tokenizer.encode("en")]
    assert tokenizer.encode("grass is green") != apart
    is_prompt_learnt = loss_on == "all"
    pieces = [
        [(row["prompt"], is_prompt_learnt), (row["completion"], True), ("<|im_end|>", True)]
        for row in rows
    ]
    assert loss == pytest.approx(_expected_loss(directory, pieces), rel=1e-5)


def test_the_loss_of_chats_is_that_of_the_assistants_turns_of_weight_one(
    decoder: Path, tmp_path: Path
) -> None:
    turns = [
        {"role": "user", "content": "what is it"},
        {"role": "assistant", "content": "it is old", "weight": 0},
        {"role": "user", "content": "and the sky"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "it is blue"},
        {"role": "assistant", "content": "blue"},
    ]
    rows = [{"messages": turns, "tools": [TOOL]}] * 12
    spec = {"chat_template": "chatml", "max_length": 1024}
    directory, loss = _carried_out(tmp_path / "run", _with_room(decoder, tmp_path), rows, **spec)
    tokenizer: Any = AutoTokenizer.from_pretrained(directory.model)
    call = '<tool_call>\n{"name": "see", "arguments": {"what": "sky"}}\n</tool_call><|im_end|>'
    whole: str = tokenizer.apply_chat_template(
        [{**turn, "content": turn["content"] or ""} for turn in turns],
        tools=[TOOL],
        tokenize=False,
    )
    before, _, rest = whole.partition(call)
    between, _, after = rest.rpartition("blue<|im_end|>")
    pieces = [(before, False), (call, True), (between, False), ("blue<|im_end|>", True)]
    expected = _expected_loss(directory, [[*pieces, (after, False)]])
    assert loss == pytest.approx(expected, rel=1e-5)


def _with_room(decoder: Path, folder: Path) -> Path:
    """Return the decoder with room for more tokens."""
    model = AutoModelForCausalLM.from_pretrained(decoder, max_position_embeddings=1024)
    tokenizer = AutoTokenizer.from_pretrained(decoder, model_max_length=1024)
    model.save_pretrained(folder / "roomy")
    tokenizer.save_pretrained(folder / "roomy")
    return folder / "roomy"
