from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tests.training.tiny import carry_out, colour_rows, make_run, save_decoder, save_encoder
from trainer_core.run_directory import (
    Result,
    checkpoints_in,
    file_sha256,
    is_of_model,
    read_json,
)

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 asks models by a name that transformers 5.23 calls deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

TRAINING = {"learning_rate": 1e-2, "batch_size": 16, "epochs": 6}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder", dropout=0.0)


def _spec(**adapter: Any) -> dict[str, Any]:
    return {"task": "text-classification", "training": TRAINING, "adapter": {"r": 4, **adapter}}


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_merged_adapter_gives_the_logits_of_the_adapter(
    encoder: Path, tmp_path: Path, kind: str
) -> None:
    rows = colour_rows(120)
    merged, apart = (
        make_run(tmp_path / output, model=encoder, rows=rows, spec=_spec(type=kind, output=output))
        for output in ("merged", "adapter")
    )
    for directory in (merged, apart):
        assert carry_out(directory).metrics["accuracy"] > 0.8
    tokenizer = AutoTokenizer.from_pretrained(merged.model)
    inputs = tokenizer("a small red is it", return_tensors="pt")
    whole = AutoModelForSequenceClassification.from_pretrained(merged.model)
    labels = read_json(apart.model / "labels.json")["id2label"]
    base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=len(labels))
    adapted = PeftModel.from_pretrained(base, apart.model).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            whole(**inputs).logits, adapted(**inputs).logits, rtol=1e-4, atol=1e-5
        )


def test_an_adapter_tells_no_path_of_this_machine(encoder: Path, tmp_path: Path) -> None:
    spec = {**_spec(output="adapter"), "training": {**TRAINING, "epochs": 1}}
    directory = make_run(tmp_path / "run", model=encoder, rows=colour_rows(40), spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    settings = read_json(directory.model / "adapter_config.json")
    assert settings["base_model_name_or_path"] == "model:tiny"
    assert not (directory.model / "model.safetensors").exists()


def test_a_checkpoint_of_an_adapter_tells_no_path_of_this_machine_either(
    encoder: Path, tmp_path: Path
) -> None:
    training = {**TRAINING, "epochs": 1}
    spec = {**_spec(), "training": training, "checkpoints": {"strategy": "epoch"}}
    directory = make_run(tmp_path / "run", model=encoder, rows=colour_rows(40), spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    saved = checkpoints_in(directory.checkpoints)[-1]
    handed_out = [path for path in saved.iterdir() if is_of_model(path.name)]
    names = {path.name for path in handed_out}
    assert {"adapter_config.json", "adapter_model.safetensors", "labels.json"} <= names
    told = b"".join(path.read_bytes() for path in handed_out)
    assert str(encoder).encode() not in told
    assert str(tmp_path).encode() not in told
    assert read_json(saved / "adapter_config.json")["base_model_name_or_path"] == "model:tiny"


def test_a_causal_model_is_adapted_in_its_body_alone(tmp_path: Path) -> None:
    decoder = save_decoder(tmp_path / "decoder")
    spec = {"task": "causal-lm", "training": {**TRAINING, "epochs": 1}, "adapter": {"r": 4}}
    rows = [{"text": "it is " + "red " * number} for number in range(1, 25)]
    directory = make_run(tmp_path / "run", model=decoder, rows=rows, spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    before = AutoModelForCausalLM.from_pretrained(decoder).state_dict()
    after = AutoModelForCausalLM.from_pretrained(directory.model).state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed)


def test_an_adapter_run_that_is_stopped_ends_as_if_it_was_not(
    encoder: Path, tmp_path: Path
) -> None:
    from tests.training.tiny import stop_after

    spec = {**_spec(dropout=0.1), "training": {**TRAINING, "epochs": 2}}
    whole, halved = (
        make_run(tmp_path / name, model=encoder, rows=colour_rows(60), spec=spec)
        for name in ("whole", "halved")
    )
    assert carry_out(whole).result is Result.SUCCEEDED
    assert stop_after(halved, step=2).result is Result.STOPPED
    assert carry_out(halved).result is Result.SUCCEEDED
    hashes = [file_sha256(run.model / "model.safetensors") for run in (whole, halved)]
    assert hashes[0] == hashes[1]


def test_a_layer_that_is_not_there_is_told_with_those_that_are(
    encoder: Path, tmp_path: Path
) -> None:
    spec = _spec(target_modules=["query", "q_proj"])
    directory = make_run(tmp_path / "run", model=encoder, rows=colour_rows(40), spec=spec)
    error = carry_out(directory).error
    assert error is not None
    assert (error.code, error.param) == ("invalid_spec", "/adapter/target_modules")
    assert "'q_proj'" in error.message
    assert "query" in error.message
