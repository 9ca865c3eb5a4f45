"""Frozen weights stay as they are to the last bit, and cost the optimizer nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, T5Config, T5ForConditionalGeneration

from tests.training.tiny import carry_out, colour_rows, events_of, make_run, save_encoder
from trainer_core.errors import InvalidSpec
from trainer_core.run_directory import Result
from trainer_core.training.models.freezing import freeze

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture
def model(encoder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(encoder)


def _trained(model: Any) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def test_frozen_weights_are_the_same_to_the_last_bit_after_training(
    encoder: Path, tmp_path: Path
) -> None:
    training = {
        "epochs": 2,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,  # must not move them either
        "freeze": ["embeddings", "layers:1"],
        "gradient_checkpointing": True,
    }
    spec = {"task": "text-classification", "training": training}
    directory = make_run(tmp_path / "run", model=encoder, rows=colour_rows(42), spec=spec)
    assert carry_out(directory).result is Result.SUCCEEDED
    before = load_file(encoder / "model.safetensors")
    after = load_file(directory.model / "model.safetensors")
    same = {name for name in before if torch.equal(before[name], after[f"bert.{name}"])}
    embeddings = {name for name in before if name.endswith("_embeddings.weight")}
    first = {name for name in before if name.startswith("encoder.layer.0.")}
    assert len(embeddings) == 3
    assert same == embeddings | first
    [checkpoint] = directory.checkpoints.glob("checkpoint-6")
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert len(optimizer["state"]) == len(after) - len(same)
    told = next(line for line in events_of(directory) if "are frozen" in str(line.data))
    assert told.data["fields"]["num_frozen"] == sum(before[name].numel() for name in same)


@pytest.mark.parametrize(
    ("patterns", "trained"),
    [
        (["body"], {"classifier.weight", "classifier.bias"}),
        (["layers:9", "embeddings", "LayerNorm", "pooler"],
         {"classifier.weight", "classifier.bias"}),
        (["bert.encoder.layer.[0-1]", "bert.embeddings", "pooler.*"],
         {"classifier.weight", "classifier.bias"}),
        (["weight"], None),
    ],
)  # fmt: skip
def test_patterns_name_modules_and_weights_from_a_dot_on(
    model: Any, patterns: list[str], trained: set[str] | None
) -> None:
    freeze(model, patterns)
    if trained is None:
        assert all(name.endswith(".bias") for name in _trained(model))
    else:
        assert _trained(model) == trained


def test_layers_count_from_the_first_of_each_stack() -> None:
    config = T5Config(
        vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=3, num_decoder_layers=2, num_heads=2
    )
    model = T5ForConditionalGeneration(config)
    freeze(model, ["layers:2"])
    trained = {".".join(name.split(".")[:3]) for name in _trained(model) if ".block." in name}
    assert trained == {"encoder.block.2"}


@pytest.mark.parametrize(
    ("patterns", "pointer", "words"),
    [
        (["embeddings", "encoder.layers"], "/training/freeze/1", "Did you mean encoder.layer"),
        (["q_proj"], "/training/freeze/0", "It has bert, classifier"),
        (["*"], "/training/freeze", "nothing is left to train"),
    ],
)
def test_what_matches_nothing_or_everything_is_refused(
    model: Any, patterns: list[str], pointer: str, words: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        freeze(model, patterns)
    [problem] = caught.value.problems
    assert problem.pointer == pointer
    assert words in f"{problem.message} {problem.hint}"
