"""How many weights a model has, from the headers of its files: no torch, a few kilobytes read."""

import json
import math
import re
from pathlib import Path

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

_SHARD = re.compile(r"\w[\w.-]*\.safetensors")
_LENGTH_BYTES = 8  # of the header's own length, which comes first
_MAX_HEADER_BYTES = 100_000_000  # as safetensors itself allows
_NOT_UNDERSTOOD = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def num_weights_in(folder: Path) -> int | None:
    """Return the number of weights in the safetensors files of a folder; None if not told."""
    try:
        return sum(map(_num_weights, _files_of(folder))) or None
    except _NOT_UNDERSTOOD:
        return None  # whoever opens the model says what is wrong with it


def shards_of(index: Path) -> set[str]:
    """Return the names of the safetensors files that an index tells of, none if it is no index."""
    try:
        names = set(map(str, json.loads(index.read_bytes())["weight_map"].values()))
    except _NOT_UNDERSTOOD:
        return set()
    return {name for name in names if _SHARD.fullmatch(name)}


def header_bytes(start: bytes) -> int:
    """Return how long the header of a safetensors file is, with the number that says so."""
    return _LENGTH_BYTES + int.from_bytes(start[:_LENGTH_BYTES], "little")


def _files_of(folder: Path) -> list[Path]:
    """Return the files that are opened; others, such as `consolidated.safetensors`, repeat them."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / WEIGHTS_INDEX).exists():
        return [folder / name for name in sorted(shards_of(folder / WEIGHTS_INDEX))]
    return sorted(folder.glob("*.safetensors"))


def _num_weights(path: Path) -> int:
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES)
        length = header_bytes(start) - _LENGTH_BYTES
        if len(start) < _LENGTH_BYTES or length > _MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} is no safetensors file")
        header = json.loads(file.read(length))
    tensors = (tensor for name, tensor in header.items() if name != "__metadata__")
    return sum(math.prod(tensor["shape"]) for tensor in tensors)
