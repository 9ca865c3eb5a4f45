"""Reading a JSON body: small, strict, and each mistake with its place."""

import json
import re
from collections import Counter
from typing import Annotated, Any, NoReturn, TypeVar

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ValidationError

from trainer_core.errors import (
    FieldProblem,
    InvalidJson,
    InvalidRequest,
    InvalidSpec,
    PayloadTooLarge,
    UnsupportedMediaType,
)
from trainer_core.spec.parsing import field_problems

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
_SMALL_BYTES = 1 << 14

_TOKEN = re.compile(
    # Possessive, and without need of a closing quote: no text takes more than one pass.
    r'"(?:[^"\\]++|\\.)*+"?|(?P<open>[\[{])|(?P<close>[\]}])|(?P<constant>-?Infinity|NaN)',
    re.DOTALL,
)


async def read_body(request: Request) -> bytes:
    """Return the bytes of a small body, or raise PayloadTooLarge if it has more than MAX_BYTES.

    It may be asked for again: the request keeps them.
    """
    kept: bytes | None = getattr(request.state, "body", None)
    if kept is not None:
        return kept
    check_length(request, limit=MAX_BYTES)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise too_large(MAX_BYTES)
    request.state.body = bytes(body)
    return bytes(body)


def check_is_json(request: Request) -> None:
    """Raise UnsupportedMediaType if the request does not say that its body is JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType(
            f"the body is {media_type or 'of no type'}; JSON was expected.",
            hint="Send the header Content-Type: application/json (curl: --json @file).",
        )


async def read_json(request: Request) -> Any:
    """Return the values of a JSON body; what does not say that it is one is not read.

    Raises:
        UnsupportedMediaType: it does not say that it is JSON.
        PayloadTooLarge: it has more than MAX_BYTES.
        InvalidJson: it is not JSON as RFC 8259 has it, or nested too deeply.
    """
    check_is_json(request)
    return await _parsed(await read_body(request))


async def read_optional_json(request: Request) -> Any:
    """Return the values of a JSON body as `read_json` does, or an empty object where none is."""
    is_empty = request.headers.get("content-length", "0") == "0"
    if is_empty and "transfer-encoding" not in request.headers:
        return {}
    check_is_json(request)
    return await _parsed(await read_body(request))


async def _parsed(body: bytes) -> Any:
    if len(body) <= _SMALL_BYTES:
        return parse_json(body)  # another thread would cost more than this does
    return await run_in_threadpool(parse_json, body)


Parsed = TypeVar("Parsed", bound=BaseModel)


def parsed(values: object, model: type[Parsed]) -> Parsed:
    """Return the values of a body as a model, or raise InvalidSpec with every problem."""
    if not isinstance(values, dict):
        raise InvalidSpec([FieldProblem("", "the body is no JSON object")])
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, values, model)) from error


JsonBody = Annotated[Any, Depends(read_json)]
OptionalJsonBody = Annotated[Any, Depends(read_optional_json)]


def check_length(request: Request, *, limit: int) -> None:
    """Raise PayloadTooLarge if the request says that its body is longer than `limit` bytes."""
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise InvalidRequest(f"Content-Length '{length[:40]}' is not a number.")
    if int(length[:20]) > limit:
        raise too_large(limit)


def too_large(limit: int) -> PayloadTooLarge:
    """Return the error that a body has more than `limit` bytes."""
    return PayloadTooLarge(
        f"the body is larger than {limit:,} bytes.",
        hint="Send less.",
        detail={"max_bytes": limit},
    )


def parse_json(body: bytes) -> Any:
    """Return the values of a JSON text, or raise InvalidJson with line and column."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = body[: error.start].decode("utf-8-sig", "replace")
        _refuse("the body is not UTF-8", before, len(before), error)
    _check_tokens(text)
    try:
        values = json.loads(text, object_pairs_hook=_unique)
        json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair can't be stored
    except json.JSONDecodeError as error:
        _refuse(f"the body is not JSON: {error.msg}", text, error.pos, error)
    except UnicodeEncodeError as error:
        _refuse(r"the body has half a surrogate pair (\ud800 to \udfff alone)", text, None, error)
    except ValueError as error:  # a number of more than 4300 digits
        _refuse(f"the body has a number that can't be read: {error}", text, None, error)
    return values


def _check_tokens(text: str) -> None:
    """Refuse what Python's reader would take, or would fail on: NaN, Infinity, deep nesting."""
    depth = 0
    for token in _TOKEN.finditer(text):
        match token.lastgroup:
            case "open":
                depth += 1
                if depth > MAX_DEPTH:
                    _refuse(f"the body nests deeper than {MAX_DEPTH} levels", text, token.start())
            case "close":
                depth -= 1
            case "constant":
                _refuse(f"{token.group()} is not JSON", text, token.start())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        double = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InvalidJson(
            f"the key '{double[:100]}' is given twice in one object.",
            hint="Leave one of the two out.",
            param=double[:100],
        )
    return values


def _refuse(what: str, text: str, position: int | None, cause: Exception | None = None) -> NoReturn:
    if position is None:
        raise InvalidJson(f"{what}.", hint="Mend it.") from cause
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    raise InvalidJson(
        f"{what}, at line {line}, column {column}.",
        hint="Mend the JSON at that place.",
        detail={"line": line, "column": column},
    ) from cause
