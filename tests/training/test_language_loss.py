"""The loss that a model's head computes against the one of its logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedModel,
    set_seed,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from trainer_core.training.losses.cross_entropy import LogitMap
from trainer_core.training.recipes import language_loss
from trainer_core.training.recipes.language_loss import LanguageLoss, find_logit_map

pytestmark = [
    pytest.mark.slow,
    # peft 0.21 asks models by a name that transformers 5.23 calls deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture(autouse=True)
def always_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models as small as these would get their logits whole."""
    monkeypatch.setattr(language_loss, "_FEW_LOGITS", 0)


SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "head_dim": 16,
    "pad_token_id": 0,
}
GPT2 = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0)
GPT2.attn_pdrop = 0.0
ARCHITECTURES: dict[str, tuple[Any, LogitMap]] = {
    "llama": (LlamaConfig(**SIZES, tie_word_embeddings=False), LogitMap()),
    "gpt2": (GPT2, LogitMap()),
    "phi": (PhiConfig(**SIZES), LogitMap()),  # its head has a bias
    "gemma2": (Gemma2Config(**SIZES, final_logit_softcapping=20.0), LogitMap(cap=20.0)),
    "granite": (GraniteConfig(**SIZES, logits_scaling=8.0), LogitMap(scale=0.125)),
    "cohere": (CohereConfig(**SIZES, logit_scale=0.0625), LogitMap(scale=0.0625)),
}


def _model(name: str) -> PreTrainedModel:
    set_seed(0)
    config, _ = ARCHITECTURES[name]
    model: PreTrainedModel = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    for weight in model.parameters():
        weight.data *= 2  # so that logits are large enough to be capped
    model.config.use_cache = False  # as the Trainer does
    return model.train()


def _batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(1, 50, (3, 9))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    labels = torch.where(torch.rand(3, 9) < 0.6, ids, -100).where(mask.bool(), torch.tensor(-100))
    labels[:, 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _expected_loss(model: Any, batch: dict[str, torch.Tensor], smoothing: float) -> torch.Tensor:
    inputs = {name: part for name, part in batch.items() if name != "labels"}
    logits = model(**inputs).logits[:, :-1].flatten(0, 1)
    targets = batch["labels"][:, 1:].flatten()
    return functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing) / 7


def _gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


def _check(model: Any, wrapped: Any, loss: LanguageLoss) -> None:
    batch = _batch()
    wanted = _expected_loss(model, batch, loss.smoothing)
    expected = _gradients(model, wanted)
    found, _ = loss(wrapped, batch, torch.tensor(7))
    gradients = _gradients(model, found)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_an_architecture_does_to_its_heads_output_is_found(name: str) -> None:
    model, (_, expected) = _model(name), ARCHITECTURES[name]
    mapping = find_logit_map(model)
    assert mapping is not None
    assert mapping.scale == pytest.approx(expected.scale, rel=1e-6)
    assert mapping.cap == (expected.cap and pytest.approx(expected.cap, rel=1e-6))
    assert model.training
    assert "forward" not in vars(model.get_output_embeddings())


def test_the_model_is_asked_on_the_device_where_it_is() -> None:
    model = _model("gemma2")
    with torch.device("meta"):  # where tensors land that are not told where
        assert find_logit_map(model) == LogitMap(cap=pytest.approx(20.0))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_the_logits(name: str, smoothing: float) -> None:
    model = _model(name)
    loss = LanguageLoss(model, find_logit_map(model), smoothing)
    _check(model, model, loss)


def test_a_map_that_is_not_known_is_none_and_the_logits_are_taken_as_they_are() -> None:
    model = _model("llama")
    stock = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = stock(*args, **kwargs)
        output.logits = output.logits.sin()
        return output

    model.forward = forward  # type: ignore[method-assign]
    assert find_logit_map(model) is None
    _check(model, model, LanguageLoss(model, None, 0.1))


def test_few_logits_are_taken_whole_to_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_loss, "_FEW_LOGITS", 10**9)
    monkeypatch.setattr(language_loss, "linear_cross_entropy", None)  # not called
    model = _model("gemma2")
    _check(model, model, LanguageLoss(model, find_logit_map(model), 0.1))


def test_a_scale_inside_the_model_is_found(tmp_path: Path) -> None:
    sizes = {**SIZES, "mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16}
    config = FalconH1Config(**sizes, lm_head_multiplier=0.5)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    assert find_logit_map(model) == LogitMap(scale=0.5)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_an_adapter_learns_the_same_also_one_of_the_head(targets: Any) -> None:
    model = _model("llama")
    loss = LanguageLoss(model, find_logit_map(model))
    settings = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets)
    settings.init_lora_weights = False  # so that it changes something
    adapted = get_peft_model(model, settings)
    _check(adapted, adapted, loss)


def test_recomputed_activations_change_nothing() -> None:
    model = _model("llama")
    loss = LanguageLoss(model, find_logit_map(model))
    model.activation_checkpointing_enable()
    _check(model, model, loss)


@pytest.mark.filterwarnings("ignore::UserWarning")  # DDP on one process
def test_ddp_that_looks_for_unused_weights_finds_the_head_used(tmp_path: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        model = _model("gemma2")
        loss = LanguageLoss(model, find_logit_map(model))
        wrapped = DistributedDataParallel(model, find_unused_parameters=True)
        for _ in range(2):  # a weight left out would fail the second pass
            _check(model, wrapped, loss)
    finally:
        distributed.destroy_process_group()


def test_the_model_is_itself_again_after_a_failure() -> None:
    model = _model("llama")
    batch = {**_batch(), "input_ids": torch.full((3, 9), 99)}  # no such token
    with pytest.raises(IndexError):
        LanguageLoss(model, LogitMap())(model, batch, torch.tensor(7))
    assert model(input_ids=_batch()["input_ids"]).logits.shape == (3, 9, 50)
