"""Adapters on weights of 4 and 8 bits, on the CPU too."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.training.tiny import (
    carry_out,
    colour_rows,
    make_run,
    save_decoder,
    save_encoder,
    stop_after,
)
from trainer_core.errors import InvalidSpec
from trainer_core.run_directory import Result, RunDirectory, file_sha256
from trainer_core.spec import parse_spec
from trainer_core.training.models.quantizing import Quantizing, choose_quantizing
from trainer_core.training.process.devices import Device

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 asks models by a name that transformers 5.23 calls deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes"),
]

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
ROWS = [{"text": "it is " + "red " * (1 + number % 4)} for number in range(24)]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "decoder")


def _make(folder: Path, model: Path, *, epochs: float = 8, **adapter: Any) -> RunDirectory:
    spec = {
        "task": "causal-lm",
        "training": {"learning_rate": 1e-2, "batch_size": 8, "epochs": epochs, "log_steps": 1},
        "adapter": {"r": 4, "dropout": 0.1, **adapter},
    }
    return make_run(folder, model=model, rows=ROWS, spec=spec, eval=ROWS[:8])


@needs_package
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_an_adapter_learns_on_quantized_weights_and_is_merged_into_whole_ones(
    decoder: Path, tmp_path: Path, bits: str
) -> None:
    merged, apart = (
        _make(tmp_path / output, decoder, quantization=bits, output=output)
        for output in ("merged", "adapter")
    )
    for directory in (merged, apart):
        outcome = carry_out(directory)
        assert outcome.result is Result.SUCCEEDED, outcome.error
        assert outcome.metrics["token_accuracy"] > 0.8 > outcome.metrics["baseline_token_accuracy"]
    tokens = AutoTokenizer.from_pretrained(merged.model)("it is red", return_tensors="pt")
    whole = AutoModelForCausalLM.from_pretrained(merged.model)
    assert not hasattr(whole.config, "quantization_config")
    base = AutoModelForCausalLM.from_pretrained(decoder)
    adapted = PeftModel.from_pretrained(base, apart.model).eval()
    with torch.no_grad():
        expected = adapted(input_ids=tokens.input_ids).logits
        torch.testing.assert_close(
            whole(input_ids=tokens.input_ids).logits, expected, rtol=1e-4, atol=1e-4
        )


@needs_package
def test_a_new_head_is_trained_whole_beside_quantized_layers(tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "encoder", dropout=0.0)
    spec = {
        "task": "text-classification",
        "training": {"learning_rate": 1e-2, "batch_size": 16, "epochs": 6},
        "adapter": {"r": 4, "quantization": "4bit"},
    }
    directory = make_run(tmp_path / "run", model=encoder, rows=colour_rows(120), spec=spec)
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    assert outcome.metrics["accuracy"] > 0.8
    model = AutoModelForSequenceClassification.from_pretrained(directory.model)
    tokenizer = AutoTokenizer.from_pretrained(directory.model)
    rows = colour_rows(60, seed=2)
    found = [int(model(**tokenizer(r["text"], return_tensors="pt")).logits.argmax()) for r in rows]
    right = [model.config.id2label[n] == row["label"] for n, row in zip(found, rows, strict=True)]
    assert sum(right) > 0.8 * len(rows)


@needs_package
def test_a_stopped_run_on_quantized_weights_ends_as_if_it_was_not(
    decoder: Path, tmp_path: Path
) -> None:
    whole, halved = (
        _make(tmp_path / name, decoder, epochs=2, quantization="4bit") for name in ("whole", "half")
    )
    assert carry_out(whole).result is Result.SUCCEEDED
    assert stop_after(halved, step=3).result is Result.STOPPED
    assert carry_out(halved).result is Result.SUCCEEDED
    hashes = [file_sha256(run.model / "model.safetensors") for run in (whole, halved)]
    assert hashes[0] == hashes[1]


def _device(kind: Any) -> Device:
    return Device(kind=kind, name=kind, memory_bytes=None, has_fast_bf16=False)


def test_quantized_weights_are_refused_where_they_can_not_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = parse_spec(
        {
            "task": "causal-lm",
            "model": "model:tiny",
            "data": {"train": "dataset:ds_0123456789ab", "columns": {"text": "text"}},
            "adapter": {"quantization": "4bit"},
            "training": {"precision": "bf16"},
        }
    )
    with pytest.raises(InvalidSpec, match="can't be computed on mps") as caught:
        choose_quantizing(spec, _device("mps"))
    assert caught.value.problems[0].pointer == "/adapter/quantization"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InvalidSpec, match="'bitsandbytes', which is not installed"):
        choose_quantizing(spec, _device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: "there")
    assert choose_quantizing(spec, _device("cuda")) == Quantizing("4bit", "bf16", "cuda")
