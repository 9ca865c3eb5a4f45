"""JSON merge patch (RFC 7396): what a patch names is replaced, and null takes it away."""

from collections.abc import Mapping
from typing import Any


def merged(values: Any, patch: Any) -> Any:
    """Return JSON values with a patch applied."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(values) if isinstance(values, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result
