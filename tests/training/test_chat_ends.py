"""Where an assistant stops, and turns that it is not to learn."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.tiny import CHATML, carry_out, events_of, make_run, save_decoder
from trainer_core.run_directory import Result
from trainer_core.training.data.chats import encode_chat, render

pytestmark = pytest.mark.slow


def _chats(count: int, *, weight: int | None = None) -> list[dict[str, Any]]:
    first: dict[str, Any] = {"role": "assistant", "content": "it is red"}
    if weight is not None:
        first["weight"] = weight
    ask = {"role": "user", "content": "is it red"}
    last = {"role": "assistant", "content": "it is green"}
    return [{"messages": [ask, first, ask, last]} for _ in range(count)]


def test_chatml_on_a_base_model_stops_where_the_turn_ends(tmp_path: Path) -> None:
    model = save_decoder(tmp_path / "model", template=None)
    spec = {
        "task": "causal-lm",
        "training": {"epochs": 12, "learning_rate": 0.02, "batch_size": 8, "seed": 1},
    }
    directory = make_run(tmp_path / "run", model=model, rows=_chats(40), spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    tokenizer = AutoTokenizer.from_pretrained(directory.model)
    trained = AutoModelForCausalLM.from_pretrained(directory.model)
    prompt = tokenizer.apply_chat_template(
        _chats(1)[0]["messages"][:1],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = trained.generate(**prompt, max_new_tokens=60, do_sample=False)
    said = answer[0, prompt["input_ids"].shape[1] :].tolist()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert said.index(end) == len(said) - 1  # it said its end once, and was heard


def test_a_turn_of_weight_zero_is_not_learnt() -> None:
    from tests.training.tiny import chat_tokenizer

    tokenizer = chat_tokenizer(template=CHATML)
    turns = [{"role": t["role"], "content": t["content"]} for t in _chats(1)[0]["messages"]]
    chat = render(tokenizer, turns, left_out=[False, True, False, False])
    ids, is_learnt = encode_chat(tokenizer, chat)
    assert tokenizer.decode(ids[is_learnt]) == "it is green<|im_end|>"
    assert [chat.text[slice(*span)] for span in chat.left_out] == ["it is red<|im_end|>"]


def test_evaluation_that_is_off_while_training_is_made_up_at_the_end(tmp_path: Path) -> None:
    model = save_decoder(tmp_path / "model")
    spec = {
        "task": "causal-lm",
        "training": {"epochs": 1},
        "evaluation": {"strategy": "no", "baseline": False},
        "chat_template": "model",
    }
    directory = make_run(tmp_path / "run", model=model, rows=_chats(40, weight=0), spec=spec)
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED
    assert outcome.metrics["perplexity"] > 1
    measured = [m.data for m in events_of(directory, "metrics") if m.data["split"] == "eval"]
    assert len(measured) == 1


def test_a_setting_that_changes_nothing_is_told(tmp_path: Path) -> None:
    model = save_decoder(tmp_path / "model")
    spec = {
        "task": "causal-lm",
        "training": {"epochs": 1, "optimizer": "sgd", "adam_beta1": 0.5},
    }
    directory = make_run(tmp_path / "run", model=model, rows=_chats(40), spec=spec)
    carry_out(directory)
    warned = [w.data for w in events_of(directory, "warning") if w.data["code"] == "setting_unused"]
    assert [w["message"].split()[0] for w in warned] == ["training.adam_beta1"]
