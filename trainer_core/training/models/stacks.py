"""The layers of which a transformer is a stack, or two of an encoder and a decoder."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def layer_stacks(model: nn.Module) -> list[nn.ModuleList]:
    """Return the lists of layers of a model."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len(module)
        and all(isinstance(layer, GradientCheckpointingLayer) for layer in module)
    ]


def layer_classes(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classes of a model's layers."""
    return tuple(sorted({type(layer).__name__ for stack in layer_stacks(model) for layer in stack}))
