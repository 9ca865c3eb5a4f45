"""Who asks: the project that a request is for, and what it may do there."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import Depends

DEFAULT_PROJECT = "default"


class Scope(StrEnum):
    """What a caller may do in its project."""

    READ = "read"  # look at everything
    SUBMIT = "submit"  # upload, submit, cancel, delete
    ADMIN = "admin"  # register base models, manage keys and settings


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    project: str
    scopes: frozenset[Scope]


def _with(scope: Scope) -> Callable[[], Caller]:
    """Return a dependency that gives the caller, who must have a scope."""

    def caller() -> Caller:
        everything = frozenset(Scope)
        assert scope in everything
        return Caller(DEFAULT_PROJECT, everything)

    return caller


Reader = Annotated[Caller, Depends(_with(Scope.READ))]
Submitter = Annotated[Caller, Depends(_with(Scope.SUBMIT))]
Admin = Annotated[Caller, Depends(_with(Scope.ADMIN))]
