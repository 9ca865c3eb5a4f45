from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import MambaConfig, PreTrainedModel, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from tests.training.test_language_loss import ARCHITECTURES
from tests.training.tiny import carry_out, events_of, make_run, save_decoder
from trainer_core.run_directory import Result, RunDirectory
from trainer_core.training.recipes.packing import keeps_apart, pack
from trainer_core.training.tasks.causal_lm import CausalCollator

pytestmark = pytest.mark.slow


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_each_example_is_in_one_row_and_no_row_is_too_long(lengths: list[int]) -> None:
    rows = pack(lengths, capacity=30)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    filled = [sum(lengths[example] for example in row) for row in rows]
    assert max(filled) <= 30
    assert sum(sorted(filled)[:2]) > 30 or len(rows) == 1  # no two rows would fit into one


def test_a_packed_batch_has_borders_between_examples() -> None:
    rows = [
        {"input_ids": np.array(ids), "is_learnt": np.array([True] * len(ids))}
        for ids in ([11, 12], [21, 22, 23], [31, 32, 33, 34])
    ]
    batch = CausalCollator(pad_token_id=0, pack_length=6)(rows)
    assert batch["input_ids"].tolist() == [[31, 32, 33, 34, 11, 12], [21, 22, 23, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert batch["labels"].tolist() == [
        [-100, 32, 33, 34, -100, 12],
        [-100, 22, 23, -100, -100, -100],
    ]
    assert batch["examples"].tolist() == [[2, 2, 2, 2, 0, 0], [1, 1, 1, -1, -1, -1]]
    assert next(iter(batch.values())).tolist() == [2, 3, 4]
    assert "attention_mask" not in batch  # with one, nobody looks for borders


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "cohere"])
def test_models_of_attention_keep_packed_examples_apart(name: str) -> None:
    config, _ = ARCHITECTURES[name]
    assert keeps_apart(_model(config))


def test_the_model_is_asked_on_the_device_where_it_is() -> None:
    model = _model(ARCHITECTURES["llama"][0])
    with torch.device("meta"):  # where tensors land that are not told where
        assert keeps_apart(model)


def test_a_recurrent_model_does_not_and_is_refused() -> None:
    sizes = {"vocab_size": 50, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}
    assert not keeps_apart(_model(MambaConfig(**sizes)))


def _model(config: Any) -> PreTrainedModel:
    set_seed(0)
    model: PreTrainedModel = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    return model


def _steps(directory: RunDirectory) -> list[float]:
    told = [line.data for line in events_of(directory, "metrics")]
    return [data["metrics"]["loss"] for data in told if data["split"] == "train"]


def test_packed_rows_train_as_padded_ones(tmp_path: Path) -> None:
    """Sums in another order differ by the last bits; 12 steps of SGD keep that small."""
    decoder = save_decoder(tmp_path / "decoder")
    words = ["red", "a small", "green is", "old and new", "it"]
    rows = [{"text": " ".join(words[: 1 + n % 5] * (1 + n % 3))} for n in range(48)]
    runs = {}
    for packing in (False, True):
        spec = {
            "task": "causal-lm",
            "packing": packing,
            "max_length": 64,
            "training": {
                "epochs": 2,
                "batch_size": 8,
                "optimizer": "sgd",
                "learning_rate": 0.5,
                "log_steps": 1,
            },
        }
        directory = make_run(tmp_path / str(packing), model=decoder, rows=rows, spec=spec)
        outcome = carry_out(directory)
        assert outcome.result is Result.SUCCEEDED, outcome.error
        runs[packing] = (directory, outcome)
    padded, packed = runs[False], runs[True]
    losses = _steps(padded[0])
    assert len(losses) > 10
    assert losses[-1] < losses[0] - 0.5
    assert _steps(packed[0]) == pytest.approx(losses, rel=1e-4)
    assert packed[1].metrics == pytest.approx(padded[1].metrics, rel=1e-4)
    before, after = (load_file(run[0].model / "model.safetensors") for run in (padded, packed))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=1e-3, atol=1e-5)
