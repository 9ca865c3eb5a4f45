"""The one place that renders errors: RFC 9457 problem details with our code, hint and places.

Below `/v1` they are told as OpenAI tells its own (`openai_errors`).
"""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from psycopg.errors import DiskFull as NoRoom
from psycopg.errors import LockNotAvailable, ReadOnlySqlTransaction
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import InternalError as DatabaseInternalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from api import openai_errors
from jobs.store.events import storable
from trainer_core.errors import (
    RETRY_AFTER,
    Conflict,
    CrossSiteRequest,
    DataError,
    DiskFull,
    Forbidden,
    IdempotencyKeyReused,
    InternalError,
    InvalidRequest,
    InvalidSpec,
    LuthierError,
    ModelError,
    NotFound,
    NothingFits,
    PayloadTooLarge,
    PreconditionFailed,
    ServiceUnavailable,
    TooMany,
    Unauthorized,
    UnknownHost,
    UnsupportedMediaType,
)

MEDIA_TYPE = "application/problem+json"
RETRY = RETRY_AFTER  # also a header

_STATUSES: tuple[tuple[type[LuthierError], int], ...] = (
    # The first class that fits counts.
    (UnsupportedMediaType, 415),
    (CrossSiteRequest, 403),
    (UnknownHost, 421),
    (IdempotencyKeyReused, 422),
    (PreconditionFailed, 412),
    (InvalidRequest, 400),
    (Unauthorized, 401),
    (Forbidden, 403),
    (TooMany, 429),
    (NotFound, 404),
    (Conflict, 409),
    (InvalidSpec, 422),
    (DataError, 422),
    (ModelError, 422),
    (NothingFits, 422),
    (PayloadTooLarge, 413),
    (DiskFull, 507),
    (ServiceUnavailable, 503),
)
_HTTP_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: PayloadTooLarge.code,
    416: "range_not_satisfiable",
}
_CLIENT_CLOSED_REQUEST = 499  # nobody is left to read it

_log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Let every error that a route raises be answered as a problem."""
    app.add_exception_handler(LuthierError, _on_luthier_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameters)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    for lost in (OperationalError, InterfaceError, DatabaseInternalError, PoolTimeout):
        app.add_exception_handler(lost, _on_lost_database)


def answer(error: LuthierError, *, scope: Scope) -> Response:
    """Return the response that tells an error of ours to whoever sent the request of a scope."""
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    return _render(
        status,
        code=error.code,
        message=error.message,
        hint=error.hint,
        param=error.param,
        members=error.detail,
        scope=scope,
        headers=_headers_of(error),
    )


def _headers_of(error: LuthierError) -> dict[str, str]:
    headers = {}
    if RETRY in error.detail:
        headers["Retry-After"] = str(error.detail[RETRY])
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def internal(scope: Scope) -> Response:
    """Return the response to what nobody foresaw; the trace is in the log alone."""
    error = InternalError(
        "the service failed in an unforeseen way.",
        hint=f"The service's log has the cause, under {_request_id_of(scope)}.",
    )
    return answer(error, scope=scope)


def _request_id_of(scope: Scope) -> str:
    """Return the id that the guard gave the request."""
    return str(scope.get("request_id", ""))


async def _on_luthier_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LuthierError)
    return answer(error, scope=request.scope)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message, hint = str(error.detail), ""
    if error.status_code == 404:
        message, hint = f"there is nothing at {request.url.path[:200]}.", "GET /docs lists routes."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{request.method} is not allowed at {request.url.path[:200]}."
        hint = f"Use {allowed}." if allowed else ""
    return _render(
        error.status_code,
        code=_HTTP_CODES.get(error.status_code, InvalidRequest.code),
        message=message,
        hint=hint,
        scope=request.scope,
        headers=error.headers,
    )


async def _on_invalid_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [_parameter_problem(item) for item in error.errors()]
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    name = first["pointer"][1:].partition("/")[0]  # the rest is a place in a list
    return _render(
        422,
        code=InvalidRequest.code,
        message=f"{first['in']} parameter {name}: {first['message']}{more}",
        hint=first["hint"],
        param=name,
        members={"errors": errors},
        scope=request.scope,
    )


def _parameter_problem(item: Mapping[str, Any]) -> dict[str, str]:
    place, *path = item["loc"]
    pointer = "".join(f"/{part}" for part in path)
    if item["type"] == "extra_forbidden":
        message, hint = "is not a parameter of this route", "GET /docs lists its parameters."
    else:
        given = item.get("input")
        shown = f"; got {given!r}"[:120] if isinstance(given, str | int | float) else ""
        message = f"{item['msg'].removeprefix('Value error, ').removeprefix('Input ')}{shown}"
        hint = ""
    return {"in": str(place), "pointer": pointer, "message": message, "hint": hint}


async def _on_lost_database(request: Request, error: Exception) -> Response:
    _log.error("the database failed: %s", error, extra={"action": "database_failed"})
    cause = getattr(error, "orig", None)
    if isinstance(cause, NoRoom):
        full = DiskFull(
            "the database has no room.", hint="Try again once there is some.", detail={RETRY: 30}
        )
        return answer(full, scope=request.scope)
    if isinstance(error, DatabaseInternalError) and not isinstance(cause, ReadOnlySqlTransaction):
        return internal(request.scope)
    is_held = isinstance(cause, LockNotAvailable)
    unavailable = ServiceUnavailable(
        "somebody else holds what this changes." if is_held else "the database can't be reached.",
        hint="Try again soon.",
        detail={RETRY: 2},
    )
    return answer(unavailable, scope=request.scope)


async def _on_disconnect(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


def _render(
    status: int,
    *,
    code: str,
    message: str,
    scope: Scope,
    hint: str = "",
    param: str | None = None,
    members: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    if openai_errors.is_told_so(scope["path"]):
        return openai_errors.render(
            status, code=code, message=message, hint=hint, param=param, headers=headers
        )
    body = {
        **(members or {}),
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": message,
        "code": code,
        "hint": hint,
        "param": param,
        "request_id": _request_id_of(scope),
    }
    text = json.dumps(storable(body), ensure_ascii=False, default=str)
    return Response(
        text.encode("utf-8", "backslashreplace"),  # a lone surrogate becomes its JSON escape
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=dict(headers or {}),
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of the problems with which a route answers."""
    return {status: _described(HTTPStatus(status).phrase) for status in statuses}


def default_response() -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of any other problem."""
    return {"default": _described("Any other problem")}


def _described(text: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": text, "content": {MEDIA_TYPE: {"schema": schema}}}
