"""Weights that stay as the base model has them, by name."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.training.models.stacks import layer_stacks

_LAYERS = "layers:"


def freeze(model: PreTrainedModel, patterns: Sequence[str]) -> int:
    """Take weights out of training and return how many numbers that are.

    Args:
        model: whose weights.
        patterns: as `training.freeze` says.

    Raises:
        InvalidSpec: a pattern matches nothing, or nothing is left to train.
    """
    problems = []
    for number, pattern in enumerate(patterns):
        frozen = list(_matching(model, pattern))
        for weight in frozen:
            weight.requires_grad = False
        if not frozen:
            pointer = f"/training/freeze/{number}"
            problems.append(FieldProblem(pointer, *_nothing_matches(model, pattern)))
    if not problems and not any(weight.requires_grad for weight in model.parameters()):
        message = "nothing is left to train: these patterns match all of the model's weights"
        problems = [FieldProblem("/training/freeze", message, "Freeze less.")]
    if problems:
        raise InvalidSpec(problems)
    return sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)


def _matching(model: PreTrainedModel, pattern: str) -> Iterator[nn.Parameter]:
    if pattern == "embeddings":
        yield from _parameters_of(model, lambda module: isinstance(module, nn.Embedding))
    elif pattern == "body":
        yield from model.base_model.parameters()
    elif pattern.startswith(_LAYERS):
        for stack in layer_stacks(model):
            for layer in list(stack)[: int(pattern.removeprefix(_LAYERS))]:
                yield from layer.parameters()
    else:
        forms = (pattern, f"{pattern}.*", f"*.{pattern}", f"*.{pattern}.*")
        for name, weight in model.named_parameters():
            if any(fnmatchcase(name, form) for form in forms):
                yield weight


def _parameters_of(
    model: PreTrainedModel, is_meant: Callable[[nn.Module], bool]
) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if is_meant(module):
            yield from module.parameters()


def _nothing_matches(model: PreTrainedModel, pattern: str) -> tuple[str, str]:
    """Return what to say of a pattern, and what to do."""
    if pattern.startswith(_LAYERS):
        return "the model has no stack of layers to count", "Name weights by a pattern."
    names = [name for name, _ in model.named_parameters()]
    parts = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, 12)}
    ends = {part.split(".", depth)[-1] for part in parts for depth in range(4)}
    close = difflib.get_close_matches(pattern, sorted(parts | ends), n=3)
    known = close or sorted({name for name, _ in model.named_children()})
    hint = f"Did you mean {', '.join(close)}?" if close else f"It has {', '.join(known)}."
    return f"no weight of the model is named like '{pattern}'", hint
