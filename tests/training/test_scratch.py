"""Random weights in a base model's architecture, of other sizes, with its tokenizer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DistilBertConfig,
    GPT2Config,
    PreTrainedConfig,
    Qwen3Config,
    T5Config,
)

from tests.training.tiny import carry_out, make_run, save_decoder
from trainer_core.errors import InvalidSpec
from trainer_core.run_directory import Result, read_json
from trainer_core.spec.parts import ScratchSpec
from trainer_core.training.models import scratch
from trainer_core.training.models.base_model import BaseModel, load_model, open_model
from trainer_core.training.models.scratch import begin_anew

pytestmark = pytest.mark.slow

ROWS = [{"text": "it is " + "red " * (1 + number % 4)} for number in range(24)]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "decoder")


def _base(decoder: Path, config: PreTrainedConfig) -> BaseModel:
    base = open_model(decoder)
    return BaseModel(
        path=decoder,
        config=config,
        tokenizer=base.tokenizer,
        num_weights=0,
        num_positions=None,
        has_position_table=False,
        tokenizer_limit=128,
        can_recompute=True,
    )


def test_a_model_from_scratch_has_the_sizes_asked_for_and_learns(
    decoder: Path, tmp_path: Path
) -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 48, "num_attention_heads": 6}
    spec = {
        "task": "causal-lm",
        "scratch": {**sizes, "num_key_value_heads": 3, "max_position_embeddings": 256},
        "training": {"learning_rate": 1e-2, "max_steps": 40, "batch_size": 8},
    }
    directory = make_run(tmp_path / "run", model=decoder, rows=ROWS, spec=spec, eval=ROWS[:8])
    outcome = carry_out(directory)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    assert outcome.metrics["loss"] < 1.0  # ln(320) = 5.8 nats before
    config = AutoConfig.from_pretrained(directory.model)
    assert {name: getattr(config, name) for name in sizes} == sizes
    assert config.head_dim == 8
    assert "random weights" in (directory.model / "README.md").read_text("utf-8")
    assert read_json(directory.resolved)["spec"]["max_length"] == 256
    model = AutoModelForCausalLM.from_pretrained(directory.model)
    assert model(torch.tensor([[5, 6]])).logits.shape[1] == 2


def test_weights_are_the_seed_s_alone(decoder: Path) -> None:
    def first_weight(seed: int) -> torch.Tensor:
        base = begin_anew(open_model(decoder), ScratchSpec())
        loaded = load_model(base, AutoModelForCausalLM, changes={}, seed=seed, is_head_new=False)
        weight: torch.Tensor = loaded.model.get_input_embeddings().weight
        return weight

    assert torch.equal(first_weight(1), first_weight(1))
    assert not torch.equal(first_weight(1), first_weight(2))
    trained = AutoModelForCausalLM.from_pretrained(decoder).get_input_embeddings().weight
    assert not torch.equal(first_weight(1), trained)


@pytest.mark.parametrize(
    ("config", "own_names"),
    [
        (GPT2Config(n_embd=32), {"n_layer": 3, "n_embd": 64, "n_head": 4, "n_inner": 96}),
        (T5Config(d_model=32), {"num_layers": 3, "d_model": 64, "num_heads": 4, "d_ff": 96}),
        (DistilBertConfig(dim=96), {"n_layers": 3, "dim": 64, "n_heads": 4, "hidden_dim": 96}),
        (Qwen3Config(hidden_size=32), {"num_hidden_layers": 3, "intermediate_size": 96}),
    ],
)
def test_sizes_go_by_the_usual_names_whatever_the_architecture_calls_them(
    decoder: Path, config: PreTrainedConfig, own_names: dict[str, int]
) -> None:
    config.vocab_size = 32
    sizes = ScratchSpec(
        num_hidden_layers=3, hidden_size=64, num_attention_heads=4, intermediate_size=96
    )
    base = begin_anew(_base(decoder, config), sizes)
    assert {name: getattr(base.config, name) for name in own_names} == own_names
    assert base.num_weights > 0


@pytest.mark.parametrize(
    ("sizes", "pointer", "words"),
    [
        ({"hidden_size": 33}, "/scratch", "do not go together"),
        ({"num_key_value_heads": 3}, "/scratch", "do not go together"),
    ],
)
def test_sizes_that_can_not_be_are_refused(
    decoder: Path, sizes: dict[str, Any], pointer: str, words: str
) -> None:
    with pytest.raises(InvalidSpec, match=words) as caught:
        begin_anew(open_model(decoder), ScratchSpec(**sizes))
    assert caught.value.problems[0].pointer == pointer


def test_a_size_that_the_architecture_does_not_have_is_refused(decoder: Path) -> None:
    base = _base(decoder, GPT2Config(n_embd=32, n_head=2))
    with pytest.raises(InvalidSpec, match="'gpt2' has no 'num_key_value_heads'"):
        begin_anew(base, ScratchSpec(num_key_value_heads=1))


def test_more_weights_than_may_be_are_refused_before_they_are_made(
    decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = set()
    register = torch.nn.Module.register_parameter

    def watched(self: torch.nn.Module, name: str, weight: torch.nn.Parameter | None) -> None:
        devices.update({weight.device.type} if weight is not None else ())
        register(self, name, weight)

    monkeypatch.setattr(torch.nn.Module, "register_parameter", watched)
    huge = ScratchSpec(hidden_size=16_384, intermediate_size=131_072, num_hidden_layers=200)
    with pytest.raises(InvalidSpec, match="weights are more than"):
        begin_anew(open_model(decoder), huge)
    assert scratch.MAX_WEIGHTS == 10_000_000_000
    assert devices == {"meta"}  # where a weight takes no memory
