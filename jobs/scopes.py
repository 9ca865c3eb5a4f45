"""What a key may do in its project. Each scope includes those before it."""

from collections.abc import Iterable
from enum import StrEnum

DEFAULT_PROJECT = "default"
"""The project of a service without keys. Its admins are the operators: they make projects."""


class Scope(StrEnum):
    """What a caller may do in its project."""

    READ = "read"
    """Look at everything."""
    SUBMIT = "submit"
    """Upload, submit, cancel, delete."""
    ADMIN = "admin"
    """Register base models, manage keys and secrets, read the audit log."""


def with_included(scopes: Iterable[str]) -> frozenset[Scope]:
    """Return scopes and what they include."""
    order = list(Scope)
    highest = max((order.index(Scope(scope)) for scope in scopes), default=-1)
    return frozenset(order[: highest + 1])
