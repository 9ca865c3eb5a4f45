"""The outermost layer: who may speak to the service, an id a request, headers on every response.

A service that asks for no keys is safe only because it listens on loopback. Two browser tricks get
around that, and both are refused here: a page of another site that sends requests to localhost
(CSRF), and a foreign name that resolves to 127.0.0.1 (DNS rebinding). No such page has a key; yet
with keys, too, only names that were set are answered to. An address is no name that somebody else
could point here.
"""

import asyncio
import contextlib
import ipaddress
import logging
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.keyring import Keyring
from jobs.identifiers import new_id
from trainer_core.errors import (
    CrossSiteRequest,
    InvalidRequest,
    LuthierError,
    NotFound,
    UnknownHost,
)

DOCS_PATH = "/docs"

_UNCOUNTED = frozenset({"/livez", "/readyz"})  # asked without a key

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FRIENDLY_SITES = frozenset({"same-origin", "none"})
_SMALL_BODY_BYTES = 1 << 16
_READ_OUT_SECONDS = 1.0
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_CSP = "default-src 'none'; frame-ancestors 'none'"
_DOCS_CSP = (
    # Swagger UI writes styles into the page; scripts come from files of ours alone.
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "connect-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hosts:
    """To whom requests may be addressed."""

    is_open: bool = True  # asks for no keys, so loopback alone
    names: frozenset[str] = frozenset()  # with keys, besides addresses and localhost


class Guard:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, *, hosts: Hosts, keyring: Keyring) -> None:
        self._app = app
        self._hosts = hosts
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["request_id"] = new_id("req")
        exchange = _Exchange(scope, receive, send, request_id)
        try:
            check(scope, hosts=self._hosts)
            self._check_flood(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except LuthierError as error:
            response = problems.answer(error, scope=scope)
            await response(scope, receive, exchange.send)
        except ClientDisconnect:
            _log.info("%s: the client went away", request_id, extra={"request_id": request_id})
        except Exception:
            extra = {"action": "request_failed", "request_id": request_id}
            _log.exception("%s: %s %s", request_id, scope["method"], scope["path"], extra=extra)
            if exchange.is_started:
                raise  # the server cuts the connection, so that nobody takes a part for the whole
            await problems.internal(scope)(scope, receive, exchange.send)

    def _check_flood(self, scope: Scope) -> None:
        kind, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and scope["path"] not in _UNCOUNTED:
            self._keyring.check_flood(secret.strip())


class _Exchange:
    """One request and its response, on their way."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.is_started = False  # the response
        self._is_read = not _has_body(scope)  # the request, to its end
        self._is_small = _has_small_body(scope)
        self._path = scope["path"]
        self._receive = receive
        self._send = send
        self._request_id = request_id

    async def receive(self) -> Message:
        message = await self._receive()
        self._is_read = self._is_read or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_started = True
            headers = MutableHeaders(scope=message)
            _add_headers(headers, self._request_id, path=self._path)
            if not self._is_read and self._is_small:
                await self._read_out()
            if not self._is_read:
                headers["Connection"] = "close"  # what is left of a refused body stays unread
        await self._send(message)

    async def _read_out(self) -> None:
        """Read what is left of a small body.

        A connection that is closed on unread bytes is reset, and the answer may be lost with it.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READ_OUT_SECONDS):
                while not self._is_read:
                    if (await self.receive())["type"] == "http.disconnect":
                        return


def check(scope: Scope, *, hosts: Hosts) -> None:
    """Raise InvalidRequest or NotFound for a request that must not reach a route."""
    if hosts.is_open:
        _check_address(scope)
    headers = Headers(scope=scope)
    host = _checked_host(headers, hosts=hosts)
    if scope["method"] not in _SAFE_METHODS:
        _check_same_site(headers, host=host)
    if "\x00" in scope["path"]:
        raise NotFound("there is nothing at a path with a NUL character.")
    if b"%00" in scope["query_string"] or b"\x00" in scope["query_string"]:
        raise InvalidRequest("a query parameter holds a NUL character.", hint="Leave it out.")


def _check_address(scope: Scope) -> None:
    """Refuse what came in by an address other than loopback, whoever started the server."""
    address = (scope.get("server") or ("", None))[0]
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise UnknownHost(
            f"this service answers on loopback only, not on '{address[:100]}'.",
            hint="Start it with `luthier api`, and reach it through an SSH tunnel.",
        )


def _checked_host(headers: Headers, *, hosts: Hosts) -> str:
    given = headers.getlist("host")
    if len(given) == 1 and _is_ours(given[0], hosts=hosts):
        return given[0]
    hint = "It answers to localhost, 127.0.0.1 and [::1] only; reach it through an SSH tunnel."
    if not hosts.is_open:
        hint = "It answers to its address, and to the names in LUTHIER_ALLOWED_HOSTS."
    raise UnknownHost(f"this service is not host '{', '.join(given)[:100]}'.", hint=hint)


def _is_ours(host: str, *, hosts: Hosts) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        name = parts.hostname or ""
        if parts.netloc != host or parts.username is not None or parts.port == 0:
            return False
        if name == "localhost" or name in hosts.names:
            return True
        return ipaddress.ip_address(name).is_loopback or not hosts.is_open
    except ValueError:
        return False


def _check_same_site(headers: Headers, *, host: str) -> None:
    """Refuse what a browser sends for a page of another origin; programs send neither header."""
    site = headers.get("sec-fetch-site", "none")
    origins = headers.getlist("origin")
    is_foreign = any(urlsplit(origin).netloc.lower() != host.lower() for origin in origins)
    if site not in _FRIENDLY_SITES or is_foreign:
        shown = ", ".join(origins)[:100] or site
        raise CrossSiteRequest(
            f"a page of another site ({shown}) may not change anything here.",
            hint="Send the request from a program, or from a page of this service.",
        )


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _has_small_body(scope: Scope) -> bool:
    """Return whether a body is short, and on its way without being asked for."""
    headers = Headers(scope=scope)
    length = headers.get("content-length", "")
    is_coming = "expect" not in headers and "transfer-encoding" not in headers
    return is_coming and length.isdecimal() and int(length) <= _SMALL_BODY_BYTES


def _add_headers(headers: MutableHeaders, request_id: str, *, path: str) -> None:
    headers["X-Request-ID"] = request_id
    for name, value in _HEADERS.items():
        headers[name] = value
    headers.setdefault("Content-Security-Policy", _DOCS_CSP if path == DOCS_PATH else _CSP)
    headers.setdefault("Cache-Control", "no-store")
