import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.tiny import carry_out, events_of, make_run, measured_again, save_decoder
from trainer_core.run_directory import Result, RunDirectory, file_sha256
from trainer_core.spec.tasks.preferences import Pair
from trainer_core.training.data.chats import chatml_template
from trainer_core.training.recipes.completions import encode_completions
from trainer_core.training.tasks.dpo import build

pytestmark = pytest.mark.slow

FAST = {"learning_rate": 5e-3, "batch_size": 8, "epochs": 4, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "decoder")


def pairs(count: int, *, chats: bool = False) -> list[dict[str, Any]]:
    """Return pairs of which the colour of the thing asked for is the better one."""
    rows = []
    for number in range(count):
        thing, right, wrong = [("sky", "blue", "green"), ("grass", "green", "blue")][number % 2]
        question = f"{number} what is {thing}"
        if chats:
            rows.append(
                {
                    "prompt": [{"role": "user", "content": question}],
                    "chosen": [{"role": "assistant", "content": right}],
                    "rejected": [{"role": "assistant", "content": wrong + " " * (number % 3)}],
                }
            )
        else:
            rows.append({"prompt": question, "chosen": f" {right}", "rejected": f" {wrong}"})
    return rows


def _make(folder: Path, model: Path, *, rows: Any = None, **parts: Any) -> RunDirectory:
    training = {**FAST, **parts.pop("training", {})}
    spec = {"task": "dpo", "training": training, **parts}
    return make_run(folder, model=model, rows=rows or pairs(48), spec=spec)


def _rewards(directory: RunDirectory, base: Path, row: dict[str, Any]) -> list[float]:
    """Return the rewards of a pair by plainly loaded models, the chosen one's first."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    models = [AutoModelForCausalLM.from_pretrained(path) for path in (directory.model, base)]
    rewards = []
    for side in ("chosen", "rejected"):
        prompt = tokenizer(row["prompt"]).input_ids
        ids = [*tokenizer(row["prompt"] + row[side]).input_ids, tokenizer.eos_token_id]
        found = []
        for model in models:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            found.append(sum(float(logits[t - 1, ids[t]]) for t in range(len(prompt), len(ids))))
        rewards.append(0.1 * (found[0] - found[1]))
    return rewards


def test_a_preference_is_learnt_and_its_rewards_are_those_of_plain_models(
    decoder: Path, tmp_path: Path
) -> None:
    held_out = pairs(6)
    spec = {"task": "dpo", "training": {**FAST}, "evaluation": {"batch_size": 4}}
    directory = make_run(tmp_path / "run", model=decoder, rows=pairs(48), spec=spec, eval=held_out)
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    assert outcome.metrics["reward_accuracy"] > 0.95
    rewards = np.array([_rewards(directory, decoder, row) for row in held_out])
    found = [outcome.metrics[name] for name in ("chosen_reward", "rejected_reward")]
    assert found == pytest.approx(rewards.mean(axis=0).tolist(), abs=1e-4)
    margins = rewards[:, 0] - rewards[:, 1]
    assert outcome.metrics["reward_margin"] == pytest.approx(margins.mean(), abs=1e-4)
    expected = np.log1p(np.exp(-margins)).mean()  # equation 7 of the paper
    assert outcome.metrics["loss"] == pytest.approx(expected, abs=1e-4)
    assert not events_of(directory, "warning")


@pytest.mark.parametrize(
    ("adapter", "precision"), [(None, "fp32"), ({"r": 4}, "fp32"), (None, "bf16")]
)
def test_before_the_first_step_nothing_is_preferred(
    decoder: Path, tmp_path: Path, adapter: dict[str, Any] | None, precision: str
) -> None:
    # So small a rate moves no weight by as much as fp32 can tell.
    training = {"learning_rate": 1e-12, "epochs": 1, "precision": precision}
    directory = _make(tmp_path / "run", decoder, training=training, adapter=adapter)
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    told = [line.data["metrics"] for line in events_of(directory, "metrics")]
    losses = [metrics["loss"] for metrics in told]
    assert losses == pytest.approx([np.log(2)] * len(losses), abs=1e-6)
    assert outcome.metrics["reward_margin"] == pytest.approx(0.0, abs=1e-6)
    assert outcome.metrics["baseline_reward_accuracy"] == 0.5
    assert outcome.metrics["baseline_reward_margin"] == 0.0


def test_an_adapter_learns_chats_and_is_merged(decoder: Path, tmp_path: Path) -> None:
    directory = _make(
        tmp_path / "run",
        decoder,
        rows=pairs(48, chats=True),
        adapter={"r": 8},
        training={"learning_rate": 2e-2},
    )
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    assert outcome.metrics["reward_accuracy"] > 0.95
    assert not (directory.model / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(directory.model)
    assert model.config.use_cache
    found = measured_again(directory, base=decoder, model=model, build=build)
    assert found == pytest.approx({name: outcome.metrics[name] for name in found}, abs=1e-4)


def test_whole_conversations_share_their_beginning_as_the_prompt(
    decoder: Path, tmp_path: Path
) -> None:
    explicit = pairs(24, chats=True)
    implicit = [{s: row["prompt"] + row[s] for s in ("chosen", "rejected")} for row in explicit]
    hashes = set()
    for name, rows in (("explicit", explicit), ("implicit", implicit)):
        directory = _make(tmp_path / name, decoder, rows=rows, training={"epochs": 1})
        assert carry_out(directory).result is Result.SUCCEEDED
        hashes.add(file_sha256(directory.model / "model.safetensors"))
    assert len(hashes) == 1


def test_rows_cut_to_nothing_are_left_out_and_counted(decoder: Path, tmp_path: Path) -> None:
    long = {"prompt": "old " * 60, "chosen": "red", "rejected": "blue"}
    alike = {"prompt": "a ", "chosen": "old " * 60 + "red", "rejected": "old " * 60 + "blue"}
    rows = [*pairs(30), long, alike]
    directory = _make(
        tmp_path / "run",
        decoder,
        rows=rows,
        max_length=40,
        data={"eval": None},
        training={"epochs": 1},
    )
    assert carry_out(directory).result is Result.SUCCEEDED
    told = {line.data["code"]: line.data["message"] for line in events_of(directory, "warning")}
    assert "2 of 32 train rows are left out" in told["rows_left_out"]
    assert "2 of 32 train rows (6.2%)" in told["rows_truncated"]


# As several models do: what the assistant thought is shown for its last turn only.
THINKING = (
    "{% for m in messages %}{{ m['role'] + ':' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}"
    "{{ m['content'] + ';' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@pytest.mark.parametrize("task", ["dpo", "kto"])
def test_turns_that_the_template_changes_are_told(tmp_path: Path, task: str) -> None:
    model = save_decoder(tmp_path / "model", template=THINKING)
    roles = ["assistant", "user", "assistant"]
    once, twice = ["red"], ["red", "is it", "blue"]
    rows: list[dict[str, Any]] = []
    for number in range(12):
        asked = [{"role": "user", "content": f"{number} is it"}]
        # An earlier turn of the prompt is not learnt, so it can't be lost.
        asked = [{"role": "assistant", "content": "new"}, *asked] if number > 6 else asked
        answers = [
            [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
            for texts in (once if number > 2 else twice, ["green"])
        ]
        if task == "dpo":
            rows.append({"prompt": asked, "chosen": answers[0], "rejected": answers[1]})
        else:
            rows.append({"prompt": asked, "completion": answers[0], "label": number % 2 == 0})
    spec = {"task": task, "data": {"eval": None}, "training": {**FAST, "epochs": 1}}
    directory = make_run(tmp_path / "run", model=model, rows=rows, spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    told = {line.data["code"]: line.data["message"] for line in events_of(directory, "warning")}
    assert "in 3 of 12 train chats" in told["turns_not_learnt"]


def test_bad_pairs_are_told_by_line_and_column(decoder: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*pairs(12)]
    rows += [
        {"prompt": "a", "chosen": "red", "rejected": "red"},
        {"prompt": "a", "chosen": [{"role": "bot", "content": "red"}], "rejected": "blue"},
    ]
    error = carry_out(_make(tmp_path / "run", decoder, rows=rows)).error
    assert error is not None
    assert error.code == "invalid_rows"
    shown = json.dumps(error.to_dict())
    assert "'chosen' and 'rejected' are the same" in shown
    assert "should be 'system', 'developer', 'user', 'assistant' or 'tool'" in shown


def test_a_completion_begins_where_its_tokens_differ_from_the_prompts(decoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    asked = [("it is re", "d"), ("it is ", "red"), ("", "red")]
    found = encode_completions(asked, tokenizer=tokenizer, max_length=128)
    end = tokenizer.eos_token
    learnt = [tokenizer.decode(one.ids[one.is_learnt]) for one in found]
    # "red" is one token, of which "re" is no beginning.
    assert learnt == [f"red{end}", f"red{end}", end]
    limit = len(found[1].ids) - 1
    short = encode_completions(asked[1:2], tokenizer=tokenizer, max_length=limit)[0]
    assert short.is_truncated
    assert end not in tokenizer.decode(short.ids)


def test_a_call_of_a_tool_is_part_of_a_completion(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_decoder(tmp_path / "plain", template=None))
    tokenizer.chat_template = chatml_template(tokenizer)
    call = {"function": {"name": "see", "arguments": {"what": "sky"}}}
    pair = Pair.model_validate(
        {
            "prompt": [{"role": "user", "content": "is it"}],
            "chosen": [{"role": "assistant", "content": None, "tool_calls": [call]}],
            "rejected": [{"role": "assistant", "content": "it is"}],
        }
    )
    (found,) = encode_completions([pair.parts[:2]], tokenizer=tokenizer, max_length=256)
    written = tokenizer.decode(found.ids[found.is_learnt])
    assert '{"name": "see", "arguments": {"what": "sky"}}' in written
