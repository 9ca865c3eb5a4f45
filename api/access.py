"""Who asks: the project that a request is for, and what it may do there.

A route takes a `Reader`, `Submitter` or `Admin` as its first parameter, so that nothing else of a
request is looked at before its key.
"""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from fastapi.security.utils import get_authorization_scheme_param

from api.keyring import Caller, Keyring
from jobs.scopes import DEFAULT_PROJECT, Scope
from trainer_core.errors import Forbidden

__all__ = [
    "DEFAULT_PROJECT",
    "Admin",
    "Caller",
    "Operator",
    "Reader",
    "Scope",
    "Submitter",
    "caller_of",
]


class _CallerWith(SecurityBase):
    """The dependency that gives the caller, who must have a scope."""

    model = HTTPBearer(
        description="An API key, where the service asks for keys (`LUTHIER_AUTH=keys`).",
    )
    scheme_name = "key"

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(self, request: Request) -> Caller:
        keyring = request.app.state.keyring
        assert isinstance(keyring, Keyring)
        found = await keyring.admit(_secret(request))
        if self._scope not in found.scopes:
            raise Forbidden(
                f"the key '{found.name}' may not do this: it lacks the scope '{self._scope}'.",
                hint="Use a key that has it; an admin of the project makes one.",
                detail={"scope": self._scope},
            )
        request.state.caller = found
        return found


def _secret(request: Request) -> str | None:
    scheme, secret = get_authorization_scheme_param(request.headers.get("authorization"))
    return secret if scheme.lower() == "bearer" and secret else None


def caller_of(request: Request) -> Caller:
    """Return who sends a request, once its route's `Reader`, `Submitter` or `Admin` is known."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


Reader = Annotated[Caller, Depends(_CallerWith(Scope.READ))]
Submitter = Annotated[Caller, Depends(_CallerWith(Scope.SUBMIT))]
Admin = Annotated[Caller, Depends(_CallerWith(Scope.ADMIN))]


async def _operator(caller: Admin) -> Caller:
    if not caller.is_operator:
        raise Forbidden(
            f"projects are managed by the service's operators, and '{caller.project}' is one of "
            "their projects.",
            hint=f"Use an admin key of the project '{DEFAULT_PROJECT}'.",
        )
    return caller


Operator = Annotated[Caller, Depends(_operator)]
"""An admin of the default project."""
