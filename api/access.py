"""Who asks: the project that a request is for, and what it may do there.

A route takes a `Reader`, `Submitter` or `Admin` as its first parameter, so that nothing else of a
request is looked at before its key.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.keyring import Caller, Keyring
from jobs.scopes import DEFAULT_PROJECT, Scope
from trainer_core.errors import Forbidden

__all__ = ["DEFAULT_PROJECT", "Admin", "Caller", "Operator", "Reader", "Scope", "Submitter"]

_bearer = HTTPBearer(
    scheme_name="key",
    description="An API key, where the service asks for keys (`LUTHIER_AUTH=keys`).",
    auto_error=False,
)
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def _with(scope: Scope) -> Callable[[Request, _Credentials], Awaitable[Caller]]:
    """Return a dependency that gives the caller, who must have a scope."""

    async def caller(request: Request, given: _Credentials) -> Caller:
        keyring = request.app.state.keyring
        assert isinstance(keyring, Keyring)
        found = await keyring.admit(given.credentials if given else None)
        if scope not in found.scopes:
            raise Forbidden(
                f"the key '{found.name}' may not do this: it lacks the scope '{scope}'.",
                hint="Use a key that has it; an admin of the project makes one.",
                detail={"scope": scope},
            )
        return found

    return caller


Reader = Annotated[Caller, Depends(_with(Scope.READ))]
Submitter = Annotated[Caller, Depends(_with(Scope.SUBMIT))]
Admin = Annotated[Caller, Depends(_with(Scope.ADMIN))]


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
