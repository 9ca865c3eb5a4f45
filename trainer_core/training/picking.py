"""Computing a model's head at some positions only: a large vocabulary costs more than the body.

Shapes: B rows of a batch, T tokens, N picked positions, V vocabulary.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel


def body_to_pick_from(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], is_picked_BT: torch.Tensor
) -> torch.nn.Module | None:
    """Return the body of a model whose head looks at each position alone, else None.

    No rule says so of an architecture, so it is tried: the logits must be the same.
    """
    body = getattr(model, model.base_model_prefix, None)
    if not isinstance(body, torch.nn.Module):
        return None
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    try:
        with torch.no_grad():
            expected_NV = model(**inputs).logits[is_picked_BT]
            with picking(body, is_picked_BT):
                found_NV = model(**inputs).logits[0]
    except Exception:  # noqa: BLE001 - what a head makes of other shapes is up to it
        return None
    finally:
        model.train(was_training)
    is_same = found_NV.shape == expected_NV.shape and torch.allclose(
        found_NV, expected_NV, rtol=1e-3, atol=1e-4
    )
    return body if is_same else None


@contextmanager
def picking(body: torch.nn.Module, is_picked_BT: torch.Tensor) -> Iterator[None]:
    """Hand the head the picked positions alone, as one row, in a block."""

    def pick(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
        states_1ND = output[0][is_picked_BT][None]
        if isinstance(output, tuple):
            return (states_1ND, *output[1:])
        output.last_hidden_state = states_1ND
        return output

    hook = body.register_forward_hook(pick)
    try:
        yield
    finally:
        hook.remove()
