import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.tiny import (
    carry_out,
    events_of,
    make_run,
    save_decoder,
    save_encoder,
    tokenized,
)
from trainer_core.run_directory import Result, checkpoints_in, read_json
from trainer_core.training.recipes import language_loss
from trainer_core.training.recipes.language_loss import LanguageLoss, find_logit_map
from trainer_core.training.recipes.recipe import Measured
from trainer_core.training.recipes.token_losses import token_metrics

pytestmark = pytest.mark.slow

FAST = {"learning_rate": 1e-2, "batch_size": 8, "weight_decay": 0.0}
COLOUR_OF = {"sky": "blue", "grass": "green", "blood": "red"}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "decoder")


def _spec(**parts: Any) -> dict[str, Any]:
    return {"task": "causal-lm", "training": {**FAST, "epochs": 3}, **parts}


def _chats(count: int) -> list[dict[str, Any]]:
    things = list(COLOUR_OF)
    asked = [(things[number % 3], number // 3) for number in range(count)]
    return [
        {
            "messages": [
                {"role": "user", "content": f"{number} what is {thing}"},
                {"role": "assistant", "content": COLOUR_OF[thing]},
            ]
        }
        for thing, number in asked
    ]


def test_a_chat_is_learnt_and_answered_after_plain_loading(decoder: Path, tmp_path: Path) -> None:
    spec = _spec(training={**FAST, "epochs": 5})
    directory = make_run(tmp_path / "run", model=decoder, rows=_chats(240), spec=spec)
    outcome = carry_out(directory)
    assert outcome.metrics["token_accuracy"] > 0.95
    assert outcome.metrics["perplexity"] == pytest.approx(math.exp(outcome.metrics["loss"]))

    tokenizer = AutoTokenizer.from_pretrained(directory.model)
    model: Any = AutoModelForCausalLM.from_pretrained(directory.model)
    assert model.config.use_cache
    saved = checkpoints_in(directory.checkpoints)[-1]
    assert read_json(saved / "config.json")["use_cache"] is True
    for thing, colour in COLOUR_OF.items():
        prompt: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"7 what is {thing}"}],
            add_generation_prompt=True,
            return_tensors="pt",
        )
        written = model.generate(**prompt, max_new_tokens=8, do_sample=False)
        answer = tokenizer.decode(written[0, prompt["input_ids"].shape[1] :])
        assert answer == f"{colour}<|im_end|>"  # it stops by itself


def test_the_reported_loss_is_that_of_transformers_over_all_learnt_tokens(
    decoder: Path, tmp_path: Path
) -> None:
    rows = [{"text": "it is " + "red " * number} for number in range(1, 25)]
    held_out = [{"text": "a new " + "blue " * number} for number in range(1, 12)]
    spec = _spec(training={**FAST, "epochs": 1}, evaluation={"batch_size": 4})
    directory = make_run(tmp_path / "run", model=decoder, rows=rows, spec=spec, eval=held_out)
    outcome = carry_out(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory.model)
    model = AutoModelForCausalLM.from_pretrained(directory.model)
    total, count = 0.0, 0
    for row in held_out:
        ids = tokenizer(row["text"], return_tensors="pt").input_ids
        ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert outcome.metrics["loss"] == pytest.approx(total / count, rel=1e-4)


def test_texts_are_joined_and_cut_into_blocks_of_which_nothing_is_lost(
    decoder: Path, tmp_path: Path
) -> None:
    rows = [{"text": f"{number} it is " + "red " * (number % 40)} for number in range(60)]
    spec = _spec(training={**FAST, "epochs": 1}, join_texts=True, max_length=32, data={"eval": 0.2})
    directory = make_run(tmp_path / "run", model=decoder, rows=rows, spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    assert events_of(directory, "warning") == []  # of rows cut
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    num_tokens = sum(len(tokenizer(row["text"])["input_ids"]) + 1 for row in rows)  # an end each
    num_blocks = read_json(directory.lineage)["num_rows"]
    assert 32 * (sum(num_blocks.values()) - 2) < num_tokens <= 32 * sum(num_blocks.values())
    (*_, last) = [line.data for line in events_of(directory, "progress")]
    assert last["num_tokens"] > 32 * (num_blocks["train"] - 1)


def test_too_few_blocks_are_told_as_such(decoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "it is red"}] * 12
    spec = _spec(join_texts=True, data={"eval": None})
    error = carry_out(make_run(tmp_path / "run", model=decoder, rows=rows, spec=spec)).error
    assert error is not None
    assert (error.code, error.param) == ("too_few_rows", "/join_texts")


def test_rows_without_anything_to_learn_are_left_out_and_counted(
    decoder: Path, tmp_path: Path
) -> None:
    long_question = {"role": "user", "content": "old " * 60}
    answer = {"role": "assistant", "content": "red"}
    rows = [*_chats(30), {"messages": [long_question, answer]}]
    spec = _spec(max_length=40, data={"eval": None}, training={**FAST, "epochs": 1})
    directory = make_run(tmp_path / "run", model=decoder, rows=rows, spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    told = {line.data["code"]: line.data["message"] for line in events_of(directory, "warning")}
    assert "1 of 31 train rows are left out" in told["rows_left_out"]
    assert "1 of 31 train rows (3.2%)" in told["rows_truncated"]


def test_nothing_to_learn_at_all_is_an_error(decoder: Path, tmp_path: Path) -> None:
    spec = _spec(max_length=8)
    error = carry_out(make_run(tmp_path / "run", model=decoder, rows=_chats(30), spec=spec)).error
    assert error is not None
    assert (error.code, error.param) == ("too_few_rows", "/max_length")


def test_a_tokenizer_without_a_template_gets_chatml_and_keeps_it(tmp_path: Path) -> None:
    model = save_decoder(tmp_path / "plain", template=None)
    spec = _spec(training={**FAST, "epochs": 1})
    directory = make_run(tmp_path / "run", model=model, rows=_chats(30), spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    tokenizer = AutoTokenizer.from_pretrained(directory.model)
    turns = [{"role": "user", "content": "a"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_contradicting_generation_settings_do_not_cost_the_run(
    decoder: Path, tmp_path: Path
) -> None:
    model = save_decoder(tmp_path / "model")
    (model / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9}))
    spec = _spec(training={**FAST, "epochs": 1})
    directory = make_run(tmp_path / "run", model=model, rows=_chats(30), spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    settings = json.loads((directory.model / "generation_config.json").read_text())
    assert (settings["temperature"], settings["do_sample"]) == (0.6, True)


def test_a_model_that_reads_both_ways_is_refused(tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "encoder")
    rows = [{"text": "it is red"}] * 20
    error = carry_out(make_run(tmp_path / "run", model=model, rows=rows, spec=_spec())).error
    assert error is not None
    assert error.code == "unusable_model"
    assert "'bert'" in error.message


@pytest.mark.parametrize("few_logits", [0, 10**9])
def test_the_sums_of_each_row_are_those_of_its_log_probabilities(
    decoder: Path, few_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_loss, "_FEW_LOGITS", few_logits)  # in chunks, and whole
    model: Any = AutoModelForCausalLM.from_pretrained(decoder).eval()
    ids = torch.randint(1, 300, (3, 7), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, 0] = labels[0, 2:5] = labels[1, 1:] = -100  # the second row has no target
    with torch.no_grad():
        logits = model(input_ids=ids).logits.double().log_softmax(-1)
        labels[2, 3] = logits[2, 2].argmax()
        batch = {"input_ids": ids, "labels": labels}
        measure = LanguageLoss(model, find_logit_map(model))
        loss, output = measure(model, batch, torch.tensor(9))
    sums = measure.sums_of_rows(None, batch, output)
    for row in range(3):
        places = [place for place in range(1, 7) if labels[row, place] != -100]
        nats = [-float(logits[row, place - 1, labels[row, place]]) for place in places]
        right = [bool(logits[row, place - 1].argmax() == labels[row, place]) for place in places]
        assert sums[row].tolist() == pytest.approx([sum(nats), len(places), sum(right)], rel=1e-5)
    assert sums[2, 2] >= 1
    assert float(loss) == pytest.approx(float(sums[:, 0].sum()) / 9, rel=1e-6)


def test_a_hopeless_perplexity_is_infinite_and_no_crash(tmp_path: Path) -> None:
    rows = tokenized(tmp_path, [{"labels": 0}])
    metrics = token_metrics(Measured("eval", rows, [np.array([10_000.0, 10.0, 0.0])]))
    assert metrics["perplexity"] == math.inf
