"""The chunked loss against autograd on whole logits."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainer_core.training.losses.cross_entropy import LogitMap, linear_cross_entropy

pytestmark = pytest.mark.slow

CAPPED = LogitMap(scale=0.25, cap=0.5)
N, H, V = 37, 8, 21


def _head(*, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    hidden, weight, bias = torch.randn(N, H), torch.randn(V, H), torch.randn(V)
    parts = [part.to(dtype).requires_grad_() for part in (hidden, weight, bias)]
    return parts[0], parts[1], parts[2], torch.randint(0, V, (N,))


def _whole(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, mapping: LogitMap
) -> Tensor:
    logits = functional.linear(hidden, weight, bias) * mapping.scale
    return mapping.cap * torch.tanh(logits / mapping.cap) if mapping.cap else logits


@pytest.mark.parametrize("chunk_size", [1, 10, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("mapping", [LogitMap(), LogitMap(scale=3.0), CAPPED])
@pytest.mark.parametrize("has_bias", [True, False])
def test_loss_and_gradients_are_those_of_autograd(
    chunk_size: int, smoothing: float, mapping: LogitMap, has_bias: bool
) -> None:
    hidden, weight, bias, targets = _head()
    inputs = (hidden, weight, bias) if has_bias else (hidden, weight)
    logits = _whole(hidden, weight, bias if has_bias else None, targets, mapping)
    expected = functional.cross_entropy(
        logits, targets, reduction="none", label_smoothing=smoothing
    )
    expected_gradients = torch.autograd.grad(expected.sum() / 7, inputs)

    found = linear_cross_entropy(
        hidden,
        weight,
        bias if has_bias else None,
        targets,
        mapping=mapping,
        smoothing=smoothing,
        chunk_size=chunk_size,
    )
    gradients = torch.autograd.grad(found.total / 7, inputs)
    torch.testing.assert_close(found.losses_N, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient(frozen: int) -> None:
    *inputs, targets = _head()
    inputs[frozen].requires_grad_(False)
    total = linear_cross_entropy(
        inputs[0], inputs[1], inputs[2], targets, mapping=LogitMap(), smoothing=0.0, chunk_size=5
    ).total
    total.backward()
    assert [part.grad is None for part in inputs] == [place == frozen for place in range(3)]


def test_without_gradients_it_tells_which_targets_are_the_likeliest() -> None:
    hidden, weight, bias, targets = _head()
    best = _whole(hidden, weight, bias, targets, CAPPED).argmax(-1)
    targets[::2] = best[::2]
    with torch.no_grad():
        found = linear_cross_entropy(
            hidden, weight, bias, targets, mapping=CAPPED, smoothing=0.0, chunk_size=4
        )
    assert found.is_right_N is not None
    assert torch.equal(found.is_right_N, best.eq(targets))
    assert not found.total.requires_grad


def test_under_autocast_it_is_as_exact_as_the_usual_loss() -> None:
    """Both are compared with fp64; bf16 keeps 8 bits, so that 1 % is the size of its error."""
    exact: Any = _head()
    *_, targets = exact
    total = functional.cross_entropy(_whole(*exact, LogitMap()), targets, reduction="sum")
    expected = torch.autograd.grad(total, exact[:3])
    hidden, weight, bias, _ = _head(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_cross_entropy(
            hidden, weight, bias, targets, mapping=LogitMap(), smoothing=0.0, chunk_size=10
        )
    gradients = torch.autograd.grad(found.total, (hidden, weight, bias))
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total.double(), total, rtol=1e-2, atol=0)
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.float32
        error = (gradient.double() - wanted).norm() / wanted.norm()
        assert error < 0.01


def test_no_targets_at_all_are_no_loss() -> None:
    hidden, weight, bias, targets = _head()
    total = linear_cross_entropy(
        hidden[:0], weight, bias, targets[:0], mapping=LogitMap(), smoothing=0.0
    ).total
    total.backward()
    assert total.item() == 0
    assert weight.grad is not None
    assert not weight.grad.any()
