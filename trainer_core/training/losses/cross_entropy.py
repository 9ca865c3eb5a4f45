"""The cross-entropy of a language model's head, with the logits of a few tokens at a time.

The logits of a batch are by far its largest tensor: 2048 tokens of a vocabulary of 128 k fill 1 GB,
and the usual loss keeps three more of that size for the backward pass. Here the head is applied
chunk by chunk, and what the backward pass needs, the gradients of hidden states and weights, is
computed while a chunk is at hand (as Liger Kernel does: Hsu et al. 2024, arXiv:2410.10989).

Shapes: N target positions, C of them in a chunk, H hidden size, V vocabulary, B rows of a batch.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Logits of a chunk: enough rows for a fast matrix product, on a CPU 128 MiB in fp32.
_LOGITS_PER_CHUNK = {"cpu": 2**25, "cuda": 2**27}
_MIN_CHUNK = 64  # tokens


@dataclass(frozen=True, slots=True)
class LogitMap:
    """What an architecture does to its head's output: scaled, then softly kept within a cap."""

    scale: float = 1.0
    cap: float | None = None  # x becomes cap * tanh(x / cap)


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """The loss at each target position, and their sum."""

    total: Tensor  # () in nats; the gradient flows through it alone
    losses_N: Tensor | None  # in nats; None where none but the sum is asked for
    is_right_N: Tensor | None  # whether the target is the likeliest token; None while learning

    def sums_of_rows(self, rows_N: Tensor, *, num_rows: int) -> Tensor:
        """Return of each row its loss, number of targets and number guessed right, (B, 3).

        What is known of each token of a whole evaluation set would fill any memory.

        Args:
            rows_N: of which row each target is.
            num_rows: of the batch.
        """
        assert self.losses_N is not None, "rows are measured without gradients"
        assert self.is_right_N is not None, "rows are measured without gradients"
        per_target = [self.losses_N, torch.ones_like(self.losses_N), self.is_right_N]
        sums_B3 = self.losses_N.new_zeros(num_rows, 3)
        return sums_B3.index_add_(0, rows_N, torch.stack([p.to(sums_B3) for p in per_target], 1))


def cross_entropy(logits_PV: Tensor, targets_P: Tensor, *, smoothing: float) -> TokenLosses:
    """Return the losses of logits that are there as a whole.

    Args:
        logits_PV: of all P positions.
        targets_P: the right tokens, and -100 where a position is no target.
        smoothing: probability mass spread over all tokens, in [0, 1).
    """
    is_learning = torch.is_grad_enabled()
    losses = functional.cross_entropy(
        logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32)),
        targets_P,
        reduction="sum" if is_learning else "none",
        label_smoothing=smoothing,
    )
    if is_learning:  # to pick each target's loss takes 2 % of a small model's step
        return TokenLosses(losses, None, None)
    is_target_P = targets_P.ne(-100)
    is_right_N = logits_PV.argmax(-1).eq(targets_P)[is_target_P]
    return TokenLosses(losses.sum(), losses[is_target_P], is_right_N)


def linear_cross_entropy(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    *,
    mapping: LogitMap,
    smoothing: float,
    chunk_size: int | None = None,
) -> TokenLosses:
    """Return the losses of a linear head, which is applied to one chunk after the other.

    Args:
        hidden_NH: what the head reads.
        weight_VH: of the head.
        bias_V: of the head.
        targets_N: the right tokens.
        mapping: from the head's output to logits.
        smoothing: probability mass spread over all tokens, in [0, 1).
        chunk_size: tokens of a chunk; by the vocabulary if it is not given.
    """
    is_learning = torch.is_grad_enabled()
    size = chunk_size or _chunk_size(weight_VH)
    total, losses_N, is_right_N = _ChunkedHeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden_NH, weight_VH, bias_V, targets_N, mapping, smoothing, size, is_learning
    )
    return TokenLosses(total, losses_N, is_right_N)


def _chunk_size(weight_VH: Tensor) -> int:
    num_logits = _LOGITS_PER_CHUNK.get(weight_VH.device.type, _LOGITS_PER_CHUNK["cpu"])
    return max(_MIN_CHUNK, num_logits // len(weight_VH))


class _ChunkedHeadLoss(torch.autograd.Function):
    """Gradients are those of the sum, so that they keep their size in fp16, too."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd hands over by position
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        mapping: LogitMap,
        smoothing: float,
        chunk_size: int,
        is_learning: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        needs = [is_learning and is_needed for is_needed in ctx.needs_input_grad[:3]]
        head = _Head(hidden_NH, weight_VH, bias_V, needs=needs, chunk_size=chunk_size)
        losses_N = head.logits_CV.new_zeros(len(targets_N))
        is_right_N = None if is_learning else torch.zeros_like(targets_N, dtype=torch.bool)
        for start in range(0, len(targets_N), chunk_size):
            here = slice(start, start + chunk_size)
            logits_CV = head.output(here)
            steepness_CV = _map(logits_CV, mapping, is_learning=any(needs))
            if is_right_N is not None:
                is_right_N[here] = logits_CV.argmax(-1).eq(targets_N[here])
            losses_N[here] = _losses(
                logits_CV, targets_N[here], smoothing=smoothing, is_learning=any(needs)
            )
            if any(needs):  # the logits have become their own gradient
                if steepness_CV is not None:
                    logits_CV *= steepness_CV
                head.add_gradients(here, logits_CV)
        ctx.gradients = head.gradients
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N, is_right_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        ctx.gradients = None  # scaled in place: they can be had once
        assert gradients is not None, "the graph of this loss was used before"
        scaled = (None if part is None else part.mul_(gradient) for part in gradients)
        return (*scaled, None, None, None, None, None)


class _Head:
    """A linear layer and the gradients that its chunks add up to."""

    def __init__(
        self,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        *,
        needs: list[bool],
        chunk_size: int,
    ) -> None:
        kind = hidden_NH.device.type
        is_mixed = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if is_mixed else weight_VH.dtype
        self._kind = kind
        self._hidden_NH = hidden_NH.to(dtype)
        self._weight_VH = weight_VH.to(dtype)
        self._bias_V = None if bias_V is None else bias_V.to(dtype)
        # One buffer for all chunks: on a CPU the first touch of memory costs more than its use.
        self.logits_CV = weight_VH.new_empty(
            min(chunk_size, len(hidden_NH)),
            len(weight_VH),
            dtype=torch.promote_types(weight_VH.dtype, torch.float32),
        )
        tensors = (hidden_NH, weight_VH, bias_V)
        self.gradients = tuple(
            torch.zeros_like(tensor) if is_needed and tensor is not None else None
            for tensor, is_needed in zip(tensors, needs, strict=True)
        )

    def output(self, here: slice) -> Tensor:
        """Return the head's output for some of the positions; the next call overwrites it."""
        hidden_CH = self._hidden_NH[here]
        output_CV = self.logits_CV[: len(hidden_CH)]
        with torch.autocast(self._kind, enabled=False):
            if output_CV.dtype != hidden_CH.dtype:
                linear_CV = functional.linear(hidden_CH, self._weight_VH, self._bias_V)
                return output_CV.copy_(linear_CV)
            torch.mm(hidden_CH, self._weight_VH.T, out=output_CV)
        return output_CV if self._bias_V is None else output_CV.add_(self._bias_V)

    def add_gradients(self, here: slice, slopes_CV: Tensor) -> None:
        """Add what follows from the loss's gradient with respect to the head's output."""
        to_hidden_NH, to_weight_VH, to_bias_V = self.gradients
        if to_bias_V is not None:
            to_bias_V += slopes_CV.sum(0)
        slopes_CV = slopes_CV.to(self._weight_VH.dtype)
        with torch.autocast(self._kind, enabled=False):
            if to_hidden_NH is not None:
                to_hidden_NH[here] = slopes_CV @ self._weight_VH
            if to_weight_VH is None:
                return
            if to_weight_VH.dtype == slopes_CV.dtype:
                to_weight_VH.addmm_(slopes_CV.T, self._hidden_NH[here])
            else:
                to_weight_VH += slopes_CV.T @ self._hidden_NH[here]


def _map(logits_CV: Tensor, mapping: LogitMap, *, is_learning: bool) -> Tensor | float | None:
    """Make logits of the head's output, in place; return the derivative, None where it is 1."""
    if mapping.scale != 1:
        logits_CV.mul_(mapping.scale)
    if mapping.cap is None:
        return None if mapping.scale == 1 else mapping.scale
    logits_CV.div_(mapping.cap).tanh_()
    steepness_CV = logits_CV.square().neg_().add_(1).mul_(mapping.scale) if is_learning else None
    logits_CV.mul_(mapping.cap)
    return steepness_CV


def _losses(logits_CV: Tensor, targets_C: Tensor, *, smoothing: float, is_learning: bool) -> Tensor:
    """Return the loss of each position; its gradient takes the logits' place if learning."""
    targets_C1 = targets_C[:, None]
    logits_CV -= logits_CV.amax(-1, keepdim=True)
    wanted_C = logits_CV.gather(1, targets_C1)[:, 0] * (1 - smoothing)
    if smoothing:
        wanted_C += logits_CV.mean(-1) * smoothing
    sums_C1 = logits_CV.exp_().sum(-1, keepdim=True)
    if is_learning:
        logits_CV /= sums_C1  # the probabilities, less those that are wanted
        if smoothing:
            logits_CV -= smoothing / logits_CV.shape[1]
        logits_CV.scatter_add_(1, targets_C1, torch.full_like(sums_C1, smoothing - 1))
    return sums_C1[:, 0].log() - wanted_C
