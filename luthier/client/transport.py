"""Requests to the service: built, sent, tried again with back-off where that is safe, and read.

What is safe to repeat is repeated after a broken connection or an answer that says "later" (429,
502, 503, 504): GET, HEAD, DELETE, and the cancelling of a job. A POST that makes something is sent
once.
"""

import contextlib
import json
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
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
_LATER = frozenset({429, 502, 503, 504})
_REPEATABLE = frozenset({"GET", "HEAD", "DELETE"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
T = TypeVar("T")


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
    is_repeatable: bool | None = None  # None: decided by the method


class Transport:
    """Sends calls to one service."""

    def __init__(self, base_url: str, *, api_key: str | None, timeout: float) -> None:
        self.base_url = _checked_url(base_url)
        self._shown_url = _without_userinfo(self.base_url)
        self.timeout = timeout
        headers = {"User-Agent": f"luthier-python/{_version()}"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {_checked_key(api_key)}"
        host = urlsplit(self.base_url).hostname
        self._http = httpx.Client(
            base_url=self.base_url,
            headers=headers,
            timeout=timeout,
            trust_env=host not in _LOOPBACK,  # HTTP_PROXY is not meant for this machine
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON of a GET; a parameter that is None is not sent."""
        given = {name: value for name, value in params.items() if value is not None}
        return self.json(Call("GET", path, params=given))

    def json(self, call: Call) -> Any:
        """Return the JSON of an answer."""
        response = self.request(call)
        try:
            return response.json()
        except ValueError as error:
            raise _not_ours(response, "is not JSON") from error

    def request(self, call: Call) -> httpx.Response:
        """Return the whole answer to a call."""
        num_tries = 0

        def once() -> httpx.Response:
            nonlocal num_tries
            num_tries += 1
            try:
                response = self._open(call)
            except NotFound:
                if call.method == "DELETE" and num_tries > 1:
                    return httpx.Response(204)  # done by a try whose answer was lost
                raise
            with contextlib.closing(response), self.translated(call):
                response.read()
            return response

        return _retried(once, is_repeatable=_is_repeatable(call))

    @contextlib.contextmanager
    def stream(self, call: Call) -> Iterator[httpx.Response]:
        """Give the answer to a call with its body still to be read.

        Reading the body may break at any time: wrap it in `translated`.
        """
        response = _retried(lambda: self._open(call), is_repeatable=_is_repeatable(call))
        with contextlib.closing(response):
            yield response

    @contextlib.contextmanager
    def translated(self, call: Call) -> Iterator[None]:
        """Turn the HTTP library's errors into the client's."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise self._unreachable(call, "did not answer in time") from error
        except httpx.TransportError as error:
            raise self._unreachable(call, _reason(error)) from error

    def _open(self, call: Call) -> httpx.Response:
        timeout = httpx.Timeout(self.timeout, read=call.read_seconds or self.timeout)
        request = self._http.build_request(
            call.method,
            call.path,
            params=call.params,
            json=call.json,
            files=call.files,
            headers=dict(call.headers),
            timeout=timeout,
        )
        with self.translated(call):
            response = self._http.send(request, stream=True)
            if response.is_success:
                return response
            with contextlib.closing(response):
                response.read()
        raise _refusal(response)

    def _unreachable(self, call: Call, reason: str) -> ServiceUnreachable:
        hint = "Is it running? `luthier up` starts one here; LUTHIER_URL says where it is."
        if not _is_repeatable(call):
            hint += " The request may have arrived all the same: look before you repeat it."
        return ServiceUnreachable(
            f"no answer from {self._shown_url}: {reason}.", code="unreachable", hint=hint
        )


def path_of(*parts: str) -> str:
    """Return a path of literal parts, so that an identifier can't lead elsewhere."""
    for part in parts:
        if not part.strip("."):
            raise NotFound(f"'{part}' is not an identifier.", code="not_found")
    return "/" + "/".join(quote(part, safe="") for part in parts)


def delay_seconds(num_failures: int) -> float:
    """Return how long to wait after so many failures in a row, at least one."""
    longest = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(num_failures - 1, 10))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads clients, keeps no secret


def is_temporary(error: LuthierAPIError) -> bool:
    """Return whether the same request may succeed a little later."""
    return isinstance(error, ServiceUnreachable) or error.status in _LATER


def _retried(once: Callable[[], T], *, is_repeatable: bool) -> T:
    num_failures = 0
    while True:
        try:
            return once()
        except LuthierAPIError as error:
            num_failures += 1
            if not is_repeatable or not is_temporary(error) or num_failures > MAX_RETRIES:
                raise
            asked = error.detail.get("retry_after_seconds")
        time.sleep(float(asked or delay_seconds(num_failures)))


def _is_repeatable(call: Call) -> bool:
    return call.method in _REPEATABLE if call.is_repeatable is None else call.is_repeatable


def _refusal(response: httpx.Response) -> LuthierAPIError:
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
    retry_after = response.headers.get("Retry-After", "")
    if retry_after.isdecimal():
        error.detail["retry_after_seconds"] = min(float(retry_after), MAX_RETRY_AFTER_SECONDS)
    return error


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
        cause = cause.__cause__ or cause.__context__
    return str(error).rstrip(".") or type(error).__name__


def _checked_url(base_url: str) -> str:
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


def _without_userinfo(url: str) -> str:
    """Return a URL, which may be malformed, without the name and password in it."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _checked_key(api_key: str) -> str:
    key = api_key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidSetting(
            "the API key is empty or holds characters that no key has.",
            hint="Set LUTHIER_API_KEY to the key alone, without quotes.",
            param="LUTHIER_API_KEY",
        )
    return key


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("luthier")
    except PackageNotFoundError:
        return "unknown"
