"""One POST to a webhook: to a checked address, without a redirect, within a fixed time."""

import asyncio
import contextlib
import functools
import ssl
import time
from collections.abc import Mapping, Sequence

import httpx

from jobs.delivery.addresses import IPAddress, Resolve, addresses_of, parse
from jobs.settings import IPNetwork
from jobs.store.deliveries import Outcome
from trainer_core.errors import ForbiddenTarget

GONE = 410

_MAX_ANSWER_BYTES = 1000
_ANSWER_SECONDS = 2  # for a body after its status has come


class Pinned(httpx.AsyncBaseTransport):
    """Connects to one address, while Host and TLS name the host of the URL."""

    def __init__(self, address: IPAddress) -> None:
        # A connection for each request, no proxy of the environment: nothing else chooses where to.
        self._transport = httpx.AsyncHTTPTransport(
            verify=_tls(), trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )
        self._address = str(address)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the address."""
        pinned = httpx.Request(
            request.method,
            request.url.copy_with(host=self._address),
            headers=request.headers,
            stream=request.stream,
            extensions={
                **request.extensions,
                "sni_hostname": request.url.raw_host.decode("ascii"),
            },
        )
        return await self._transport.handle_async_request(pinned)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._transport.aclose()


async def post(
    url: str,
    body: str,
    *,
    headers: Mapping[str, str],
    networks: Sequence[IPNetwork],
    timeout_seconds: float,
    resolve: Resolve,
) -> Outcome:
    """Send a body and return what came of it; whatever goes wrong is an outcome, never raised."""
    start = time.monotonic()
    status_code = answer = None
    try:
        async with asyncio.timeout(timeout_seconds):  # of all together: httpx has one a read
            target = parse(url)
            addresses = await addresses_of(target, networks=networks, resolve=resolve)
            status_code, answer = await _exchange(target, body, headers, addresses)
        error = None if 200 <= status_code < 300 else f"the target answered {status_code}"
    except ForbiddenTarget as refused:
        error = str(refused)
    except TimeoutError:
        error = f"no answer within {timeout_seconds:g} s"
    except httpx.HTTPError as failed:
        error = f"{type(failed).__name__}: {failed}"
    except OSError as failed:
        error = f"the name can't be resolved: {failed}"
    return Outcome(
        duration_seconds=round(time.monotonic() - start, 3),
        status_code=status_code,
        error=error and error.replace("\x00", "")[:500],
        answer=answer,
    )


async def _exchange(
    url: httpx.URL, body: str, headers: Mapping[str, str], addresses: Sequence[IPAddress]
) -> tuple[int, str]:
    """Return status and beginning of the answer of the first address that can be reached."""
    for address in addresses[:-1]:
        with contextlib.suppress(httpx.ConnectError):  # the next one may be reached
            return await _exchange_with(url, body, headers, address)
    return await _exchange_with(url, body, headers, addresses[-1])


async def _exchange_with(
    url: httpx.URL, body: str, headers: Mapping[str, str], address: IPAddress
) -> tuple[int, str]:
    all_headers = {
        "Content-Type": "application/json",
        "User-Agent": "Luthier-Webhooks/1",
        "Accept-Encoding": "identity",
        **headers,
    }
    client = httpx.AsyncClient(
        transport=Pinned(address),
        follow_redirects=False,
        trust_env=False,
        timeout=None,  # noqa: S113 - `post` has one for all of it
    )
    async with (
        client,
        client.stream("POST", url, content=body.encode(), headers=all_headers) as response,
    ):
        return response.status_code, await _beginning(response)


async def _beginning(response: httpx.Response) -> str:
    content = bytearray()
    # The status has said it all: a body that is slow or broken changes nothing.
    with contextlib.suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) >= _MAX_ANSWER_BYTES:
                    break
    return bytes(content[:_MAX_ANSWER_BYTES]).decode("utf-8", "replace").replace("\x00", "\ufffd")


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # takes 20 ms, and honours SSL_CERT_FILE
