"""What a request is, what its answer means, and when to send it again: no input, no output.

What is safe to repeat is repeated after a broken connection or an answer that says "later" (429,
502, 503, 504): GET, HEAD, PUT, DELETE, the stopping of a job, and a POST that carries an
`Idempotency-Key`, which the service answers the second time as the first.
"""

import json
import random
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from luthier.client.errors import (
    LuthierAPIError,
    NotFound,
    ServiceUnreachable,
    UnexpectedReply,
    error_of,
)
from trainer_core.errors import InvalidSetting

MAX_RETRIES = 3
FIRST_DELAY_SECONDS = 0.2
MAX_DELAY_SECONDS = 10.0
MAX_RETRY_AFTER_SECONDS = 60.0
SLOW_SECONDS = 900.0  # for answers that come once every row of an upload has been read
IDEMPOTENCY_KEY = "Idempotency-Key"
KEY_VARIABLE = "LUTHIER_API_KEY"
KEY_FILE_VARIABLE = "LUTHIER_API_KEY_FILE"
_LATER = frozenset({429, 502, 503, 504})
_IN_FLIGHT = "request_in_flight"  # the first request with the key is still being worked on
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Call:
    """One request of the client."""

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    json: Any = None
    files: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    read_seconds: float | None = None  # longest silence; None for the client's time-out
    is_repeatable: bool = False  # beyond what its method and its headers say
    is_streamed: bool = False  # whether its answer's body is left to be read

    @property
    def may_repeat(self) -> bool:
        """Whether sending it twice does no more than sending it once."""
        return self.is_repeatable or self.method in _REPEATABLE or IDEMPOTENCY_KEY in self.headers


class Retries:
    """Decides whether and when a call is sent again."""

    def __init__(self, call: Call, max_retries: int) -> None:
        self._call = call
        self._max_retries = max_retries
        self._num_failures = 0

    def has_done(self, error: LuthierAPIError) -> bool:
        """Return whether an earlier try, whose answer was lost, has done what was asked."""
        is_gone = isinstance(error, NotFound) and self._call.method == "DELETE"
        return is_gone and self._num_failures > 0

    def seconds_after(self, error: LuthierAPIError) -> float:
        """Return how long to wait before the next try, or raise `error` if there shall be none."""
        self._num_failures += 1
        may = self._call.may_repeat and is_temporary(error)
        if not may or self._num_failures > self._max_retries:
            raise error
        asked = error.detail.get("retry_after_seconds")
        return float(delay_seconds(self._num_failures) if asked is None else asked)


def once(headers: Mapping[str, str] | None = None, *, key: str | None = None) -> dict[str, str]:
    """Return headers with an idempotency key, a new one unless `key` is given."""
    return {**(headers or {}), IDEMPOTENCY_KEY: key or str(uuid.uuid4())}


def path_of(*parts: str) -> str:
    """Return a path of literal parts, so that an identifier can't lead elsewhere."""
    for part in parts:
        if not part.strip("."):
            raise NotFound(f"'{part}' is not an identifier.", code="not_found")
    return "/" + "/".join(quote(part, safe="") for part in parts)


def path_of_model(job_id: str, checkpoint: int | None) -> str:
    """Return the path of what holds a model: a job, or a checkpoint by its step."""
    of_checkpoint = [] if checkpoint is None else ["checkpoints", f"checkpoint-{checkpoint}"]
    return path_of("jobs", job_id, *of_checkpoint)


def given(**values: Any) -> dict[str, Any]:
    """Return the parameters that are not None, times as ISO 8601 has them."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
        if value is not None
    }


def delay_seconds(num_failures: int) -> float:
    """Return how long to wait after so many failures in a row, at least one."""
    longest = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(num_failures - 1, 10))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads clients, keeps no secret


def is_temporary(error: LuthierAPIError) -> bool:
    """Return whether the same request may succeed a little later."""
    return (
        isinstance(error, ServiceUnreachable) or error.status in _LATER or error.code == _IN_FLIGHT
    )


def headers_of(api_key: str | None) -> dict[str, str]:
    """Return the headers of every request."""
    headers = {"User-Agent": f"luthier-python/{_version()}"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {_checked_key(api_key)}"
    return headers


def is_loopback(base_url: str) -> bool:
    """Return whether a service is on this machine."""
    return urlsplit(base_url).hostname in _LOOPBACK


def unreachable(call: Call, base_url: str, error: httpx.TransportError) -> ServiceUnreachable:
    """Return the error of a call that got no answer."""
    is_slow = isinstance(error, httpx.TimeoutException)
    reason = "did not answer in time" if is_slow else _reason(error)
    hint = "Is it running? `luthier up` starts one here; LUTHIER_URL says where it is."
    if not call.may_repeat:
        hint += " The request may have arrived all the same: look before you repeat it."
    return ServiceUnreachable(
        f"no answer from {_without_userinfo(base_url)}: {reason}.", code="unreachable", hint=hint
    )


def decoded(response: httpx.Response) -> Any:
    """Return the JSON of an answer."""
    try:
        return response.json()
    except ValueError as error:
        raise _not_ours(response, "is not JSON") from error


def refusal(response: httpx.Response) -> LuthierAPIError:
    """Return the error that an answer other than a success tells of."""
    try:
        problem = json.loads(response.content)
    except ValueError:
        problem = None
    is_problem = isinstance(problem, dict) and "title" in problem
    if response.status_code in _LATER and not is_problem:
        problem, is_problem = {"detail": f"HTTP status {response.status_code}"}, True
    if response.status_code < 400 or not is_problem or not isinstance(problem, dict):
        return _not_ours(response, "is not one of Luthier's")
    error = error_of(response.status_code, problem, request_id=response.headers.get("X-Request-ID"))
    seconds = _retry_after(response.headers.get("Retry-After", ""))
    if seconds is not None:
        error.detail["retry_after_seconds"] = min(seconds, MAX_RETRY_AFTER_SECONDS)
    return error


def checked_url(base_url: str) -> str:
    """Return the URL of a service, or raise InvalidSetting."""
    try:
        parts = urlsplit(base_url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(base_url)
    except (ValueError, httpx.InvalidURL):
        is_url = False
    if not is_url:
        raise InvalidSetting(
            f"'{_without_userinfo(base_url)}' is not the URL of a service.",
            hint="Write it as http://127.0.0.1:8750 in LUTHIER_URL.",
            param="LUTHIER_URL",
        )
    return base_url.rstrip("/")


def _retry_after(value: str) -> float | None:
    """Return the seconds that a Retry-After header asks for, which may be a date (RFC 9110)."""
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _not_ours(response: httpx.Response, what: str) -> UnexpectedReply:
    request = response.request
    url = request.url.copy_with(query=None, userinfo=b"")
    return UnexpectedReply(
        f"the answer to {request.method} {url} {what} (HTTP status {response.status_code}).",
        status=response.status_code,
        code="unexpected_reply",
        hint="Does LUTHIER_URL lead to a Luthier service, and not to a page or a proxy before it?",
        request_id=response.headers.get("X-Request-ID"),
    )


def _reason(error: httpx.TransportError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or cause}"
        if isinstance(cause, BaseExceptionGroup):  # asyncio tries several addresses at once
            cause = cause.exceptions[0]
            continue
        cause = cause.__cause__ or cause.__context__
    return str(error).rstrip(".") or type(error).__name__


def _without_userinfo(url: str) -> str:
    """Return a URL, which may be malformed, without the name and password in it."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def key_of(environment: Mapping[str, str]) -> str | None:
    """Return the key that the environment holds, or that is in the file that it names."""
    key, path = environment.get(KEY_VARIABLE), environment.get(KEY_FILE_VARIABLE)
    if not path:
        return key or None
    if key:
        raise InvalidSetting(
            f"{KEY_VARIABLE} and {KEY_FILE_VARIABLE} are both set.",
            hint="Set one of them.",
            param=KEY_FILE_VARIABLE,
        )
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidSetting(
            f"{KEY_FILE_VARIABLE}: no key can be read from '{path}': {reason}.",
            hint="Name a file that you may read, and that holds the key alone.",
            param=KEY_FILE_VARIABLE,
        ) from error


def _checked_key(api_key: str) -> str:
    key = api_key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidSetting(
            "the API key is empty or holds characters that no key has.",
            hint=f"Set {KEY_VARIABLE}, or what is in {KEY_FILE_VARIABLE}, to the key alone, "
            "without quotes.",
            param=KEY_VARIABLE,
        )
    return key


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("luthier")
    except PackageNotFoundError:
        return "unknown"
