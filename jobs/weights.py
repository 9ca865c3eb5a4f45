"""How many weights a model has, from the headers of its files: no torch, a few kilobytes read."""

import json
import math
from pathlib import Path

_LENGTH_BYTES = 8  # of the header's own length, which comes first
_MAX_HEADER_BYTES = 100_000_000  # as safetensors itself allows


def num_weights_in(folder: Path) -> int | None:
    """Return the number of weights in the safetensors files of a folder; None if not told."""
    try:
        files = sorted(folder.glob("*.safetensors"))
        return sum(map(_num_weights, files)) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whoever opens the model says what is wrong with it


def header_bytes(start: bytes) -> int:
    """Return how long the header of a safetensors file is, with the number that says so."""
    return _LENGTH_BYTES + int.from_bytes(start[:_LENGTH_BYTES], "little")


def _num_weights(path: Path) -> int:
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES)
        length = header_bytes(start) - _LENGTH_BYTES
        if len(start) < _LENGTH_BYTES or length > _MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} is no safetensors file")
        header = json.loads(file.read(length))
    tensors = (tensor for name, tensor in header.items() if name != "__metadata__")
    return sum(math.prod(tensor["shape"]) for tensor in tensors)
