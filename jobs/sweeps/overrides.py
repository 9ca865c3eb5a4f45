"""A spec with some of its fields replaced, each named by a JSON pointer or with dots."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec.parsing import pointer_of


def path_of(name: str) -> tuple[str, ...]:
    """Return the keys that a pointer (RFC 6901) or a dotted name leads along."""
    if name.startswith("/"):
        parts = name[1:].split("/")
        return tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)
    return tuple(name.split("."))


def canonical(name: str) -> str:
    """Return the JSON pointer of a name."""
    return pointer_of(path_of(name))


def overridden(spec: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec with values at pointers; objects on the way are made where there are none.

    Raises:
        InvalidSpec: a pointer leads into a value that is no object.
    """
    result = dict(spec)
    for pointer, value in params.items():
        result = _with(result, path_of(pointer), value, pointer=pointer)
    return result


def _with(
    values: Mapping[str, Any], path: Sequence[str], value: Any, *, pointer: str
) -> dict[str, Any]:
    key, *rest = path
    if not rest:
        return {**values, key: value}
    below = values.get(key)
    if not isinstance(below, Mapping | None):
        problem = FieldProblem(pointer, f"'{key}' is no object, so it has no field '{rest[0]}'")
        raise InvalidSpec([problem])
    return {**values, key: _with(below or {}, rest, value, pointer=pointer)}
