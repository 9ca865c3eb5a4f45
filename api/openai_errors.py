"""Errors as OpenAI's clients read them: `{"error": {message, type, param, code}}`.

Their client tries 409 and what is 500 or more again by itself. What a state forbids, it forbids the
next time too: so a 409 says that it is not worth another try.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Response

from jobs.store.events import storable

PREFIX = "/v1"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_CODES = {  # ours where OpenAI has a name of its own
    "invalid_spec": "invalid_value",
    "unauthorized": "invalid_api_key",
    "rate_limited": "rate_limit_exceeded",
    "quota_exceeded": "insufficient_quota",
}
_MISSING, _UNKNOWN = "is required", "there is no field"  # how parse_spec begins to say so


def is_told_so(path: str) -> bool:
    """Return whether what goes wrong at a path is told in OpenAI's form."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def render(
    status: int,
    *,
    code: str,
    message: str,
    hint: str,
    param: str | None,
    headers: Mapping[str, str] | None,
) -> Response:
    """Return the response that tells an error.

    Args:
        status: as the native API has it; 422 becomes 400, the one that OpenAI knows.
        code: ours.
        message: what happened.
        hint: what to do; it becomes part of the message.
        param: name or JSON pointer of what is at fault; a pointer becomes a dotted name.
        headers: further ones.
    """
    error = body(code, message, hint=hint, param=param, status=status)
    told = dict(headers or {})
    if status == 409 and "Retry-After" not in told:
        told["x-should-retry"] = "false"
    text = json.dumps(storable(error), ensure_ascii=False)
    return Response(
        text.encode("utf-8", "backslashreplace"),
        status_code=400 if status == 422 else status,
        media_type="application/json",
        headers=told,
    )


def body(
    code: str, message: str, *, hint: str, param: str | None, status: int = 500
) -> dict[str, Any]:
    """Return what tells an error; the arguments are those of `render`."""
    if param is not None and param.startswith("/"):
        name = param[1:].replace("/", ".").replace("~1", "/").replace("~0", "~")
        message = message.replace(param, name, 1)
        param = name
    error = {
        "message": f"{message.rstrip('.')}. {hint}" if hint else message,
        "type": _type_of(status),
        "param": param or None,
        "code": _code_of(code, message),
    }
    return {"error": error}


def _type_of(status: int) -> str:
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def _code_of(code: str, message: str) -> str:
    if code == "invalid_spec":
        said = message.partition(": ")[2]
        if said.startswith(_MISSING):
            return "missing_required_parameter"
        if said.startswith(_UNKNOWN):
            return "unknown_parameter"
    return _CODES.get(code, code)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of the errors with which a route answers."""
    return {status: _described(HTTPStatus(status).phrase) for status in statuses}


def default_response() -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of any other error."""
    return {"default": _described("Any other error")}


def _described(text: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ErrorResponse"}
    return {"description": text, "content": {"application/json": {"schema": schema}}}
