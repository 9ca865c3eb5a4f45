"""The loss of a language model at the tokens that it is to say, without the logits of all.

While the model runs, its head does not return logits: it computes the loss from what it reads.
So whatever is wrapped around the model (adapters, DDP, FSDP, autocast) runs as ever (ADR 16).
Shapes: B rows, T tokens, N target positions, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trainer_core.events import Logged
from trainer_core.training.losses.cross_entropy import (
    LogitMap,
    TokenLosses,
    cross_entropy,
    linear_cross_entropy,
)
from trainer_core.training.recipes.recipe import Batch, Setup

_INPUTS = ("input_ids", "attention_mask", "position_ids")
_FEW_LOGITS = 2**18  # up to here, 1 MiB, whole logits are quicker: chunks cost 0.3 ms of Python
_IGNORED = -100  # the label of what is no target
_SMALL, _LARGE = 1e-3, 1e6  # logits that no cap bends, and that any cap holds


def next_labels(batch: Batch) -> Tensor:
    """Return at each position the label of the next one; after the last there is none."""
    return torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=_IGNORED)


def own_labels(batch: Batch) -> Tensor:
    """Return at each position its label."""
    return batch["labels"]


@dataclass(frozen=True, slots=True)
class LanguageLoss:
    """The negative log-likelihood of the labelled tokens, in nats, over a number of targets.

    It is the `forward_loss` of a recipe; the model's output is in its place a `TokenLosses`.
    """

    model: PreTrainedModel  # as it was loaded; what wraps it changes its parts in place
    mapping: LogitMap | None  # None: its logits have to be taken as they are
    smoothing: float = 0.0  # while training only
    # What the model is to say at each position of a batch, (B, T); -100 where that is nothing.
    targets: Callable[[Batch], Tensor] = next_labels

    def __call__(self, model: Any, batch: Batch, num_targets: Tensor) -> tuple[Tensor, TokenLosses]:
        inputs = {name: batch[name] for name in _INPUTS if name in batch}
        targets_BT = self.targets(batch)
        head = _head_of(self.model)
        if self.mapping is not None and _is_plain(head) and _is_large(head, targets_BT):
            found = self._in_chunks(model, head, inputs, targets_BT)
        else:
            found = self._whole(model, inputs, targets_BT)
        return found.total / num_targets, found

    def sums_of_rows(self, _model: Any, batch: Batch, losses: TokenLosses) -> Tensor:
        """Return of each row its loss, number of targets and number guessed right, (B, 3).

        It is the `predict` of a recipe.
        """
        is_target_BT = self.targets(batch).ne(_IGNORED)
        if "examples" in batch:  # several to a row of the batch
            rows_N, num_rows = batch["examples"][is_target_BT], len(batch["lengths"])
        else:
            rows_N, num_rows = is_target_BT.nonzero()[:, 0], len(is_target_BT)
        return losses.sums_of_rows(rows_N, num_rows=num_rows)

    @property
    def _smoothing(self) -> float:
        return self.smoothing if torch.is_grad_enabled() else 0.0

    def _whole(self, model: Any, inputs: dict[str, Tensor], targets_BT: Tensor) -> TokenLosses:
        logits_PV = model(**inputs).logits.flatten(0, 1)
        return cross_entropy(logits_PV, targets_BT.flatten(), smoothing=self._smoothing)

    def _in_chunks(
        self, model: Any, head: torch.nn.Linear, inputs: dict[str, Tensor], targets_BT: Tensor
    ) -> TokenLosses:
        found: list[TokenLosses] = []

        def lose(hidden_BTH: Tensor) -> Tensor:
            is_target_BT = targets_BT.ne(_IGNORED)
            assert self.mapping is not None, "checked before"
            losses = linear_cross_entropy(
                hidden_BTH[is_target_BT],
                head.weight,
                head.bias,
                targets_BT[is_target_BT],
                mapping=self.mapping,
                smoothing=self._smoothing,
            )
            found.append(losses)
            return losses.total

        with _in_place_of(head, lose):
            output = model(**inputs)
        (losses,) = found
        # The model may have scaled what it takes for logits. It is in the sum only for DDP and
        # FSDP, which look at what the model returns to know which weights get a gradient.
        return TokenLosses(losses.total + 0 * output.logits, losses.losses_N, losses.is_right_N)


def make_language_loss(
    setup: Setup, model: PreTrainedModel, *, targets: Callable[[Batch], Tensor]
) -> LanguageLoss:
    """Return the loss of a model, which is tried on a text of two tokens."""
    training = setup.spec.training
    # Compilers can't look into a head that is exchanged while it is called.
    is_opaque = training.compile or setup.base.is_hollow  # nor can it be tried without weights
    mapping = None if is_opaque else find_logit_map(model)
    if mapping is None:
        setup.reporter.report(Logged("The loss needs the logits of all tokens at once.", {}))
    return LanguageLoss(model, mapping, training.label_smoothing, targets)


def find_logit_map(model: PreTrainedModel) -> LogitMap | None:
    """Return what the model does to its head's output, or None if that can't be told.

    The head is made to say known numbers, and what the model returns for them is compared.
    """
    head = _head_of(model)
    if not _is_plain(head):
        return None
    device = model.device  # one that was loaded quantized is on the GPU already
    said_V = torch.linspace(-60, 60, head.out_features, device=device)
    said_V[0], said_V[1] = _SMALL, _LARGE
    said_12V = said_V.expand(1, 2, -1)
    heard: list[torch.Size] = []

    def say(hidden_BTH: Tensor) -> Tensor:
        heard.append(hidden_BTH.shape)
        return said_12V.clone()

    with _in_place_of(head, say), measuring(model):
        logits_12V = model(input_ids=torch.tensor([[1, 2]], device=device)).logits
    if heard != [torch.Size((1, 2, head.in_features))] or logits_12V.shape != said_12V.shape:
        return None
    scale = float(logits_12V[0, 0, 0] / said_V[0])
    most = float(logits_12V[0, 0, 1])
    is_capped = abs(most) < 0.99 * abs(scale * _LARGE)
    mapping = LogitMap(scale, most if is_capped else None)
    expected_12V = said_12V * scale
    if mapping.cap:
        expected_12V = mapping.cap * torch.tanh(expected_12V / mapping.cap)
    is_known = torch.allclose(expected_12V, logits_12V, rtol=1e-5, atol=1e-5)
    return mapping if is_known else None


@contextmanager
def measuring(model: PreTrainedModel) -> Iterator[None]:
    """Run a model in a block for its output only: no dropout, no cache, no gradient."""
    was_training, config = model.training, model.config
    used_cache = getattr(config, "use_cache", None)
    model.train(False)  # as eval(), which is untyped
    if used_cache:
        config.use_cache = False
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
        if used_cache:
            config.use_cache = used_cache


def _head_of(model: Any) -> Any:
    return model.get_output_embeddings()


def _is_plain(head: Any) -> bool:
    """Whether it is a linear layer alone, without an adapter or a hook in its way."""
    return type(head) is torch.nn.Linear and "forward" not in vars(head)


def _is_large(head: torch.nn.Linear, targets_BT: Tensor) -> bool:
    return targets_BT.numel() * head.out_features > _FEW_LOGITS


@contextmanager
def _in_place_of(head: torch.nn.Linear, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let another function answer for a layer; whatever hooks into its call still runs."""
    head.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del head.forward
