"""Requests to the service: built, sent, sent again where that is safe, and read."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import httpx

from luthier.client.aio.waiting import sleep
from luthier.client.calls import (
    Call,
    Retries,
    checked_url,
    decoded,
    given,
    headers_of,
    is_loopback,
    refusal,
    unreachable,
)
from luthier.client.errors import LuthierAPIError


class AsyncTransport:
    """Sends calls to one service."""

    def __init__(
        self, base_url: str, *, api_key: str | None, timeout: float, max_retries: int
    ) -> None:
        self.base_url = checked_url(base_url)
        self.timeout = timeout
        self._max_retries = max_retries
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            headers=headers_of(api_key),
            timeout=timeout,
            trust_env=not is_loopback(self.base_url),  # HTTP_PROXY is not meant for this machine
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def get(self, path: str, **params: Any) -> Any:
        """Return the JSON of a GET; a parameter that is None is not sent."""
        return await self.json(Call("GET", path, params=given(**params)))

    async def json(self, call: Call) -> Any:
        """Return the JSON of an answer."""
        return decoded(await self.request(call))

    async def request(self, call: Call) -> httpx.Response:
        """Return the answer to a call."""
        retries = Retries(call, self._max_retries)
        while True:
            try:
                return await self._open(call)
            except LuthierAPIError as error:
                if retries.has_done(error):
                    return httpx.Response(httpx.codes.NO_CONTENT)
                seconds = retries.seconds_after(error)
            await sleep(seconds)

    @contextlib.asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[httpx.Response]:
        """Give the answer to a call with its body still to be read.

        Reading the body may break at any time: wrap it in `translated`.
        """
        response = await self.request(replace(call, is_streamed=True))
        async with contextlib.aclosing(response):
            yield response

    @contextlib.contextmanager
    def translated(self, call: Call) -> Iterator[None]:
        """Turn the HTTP library's errors into the client's."""
        try:
            yield
        except httpx.TransportError as error:
            raise unreachable(call, self.base_url, error) from error

    async def _open(self, call: Call) -> httpx.Response:
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
            response = await self._http.send(request, stream=True)
            if response.is_success and call.is_streamed:
                return response
            async with contextlib.aclosing(response):
                await response.aread()
        if response.is_success:
            return response
        raise refusal(response)
