# Made of luthier/client/aio/following.py by `python -m tests.client.twins`: change that one.
"""A job's events as they come, over connections that may be cut at any byte.

Events are numbered without a gap, so the number of the last one seen is all that a new connection
needs, and what comes twice is known by its number.
"""

import contextlib
import json
from collections.abc import Generator, Iterator

import httpx
from httpx_sse import EventSource, SSEError

from luthier.client.calls import Call, path_of
from luthier.client.errors import LuthierAPIError, UnexpectedReply
from luthier.client.sync.paging import pages
from luthier.client.sync.patience import Patience
from luthier.client.sync.transport import Transport
from luthier.client.values import Event, from_json

_SILENCE_SECONDS = 90.0  # the service sends a heartbeat several times in that time
_PAGE_EVENTS = 1000


def follow(
    transport: Transport, job_id: str, *, after: int, outage_seconds: float
) -> Iterator[Event]:
    """Yield each event above the number `after` once, and end after the job's final state."""
    patience = Patience(outage_seconds)
    last = after
    while True:
        connection = _connection(transport, job_id, after=last, patience=patience)
        try:
            with contextlib.closing(connection):
                for event in connection:
                    last = event.id
                    patience.progressed()
                    yield event
                    if event.is_final:
                        return
        except _Ended:
            return
        except LuthierAPIError as error:
            patience.failed(error)
        else:
            patience.pause()  # closed before the job's end: the service restarts


def history(transport: Transport, job_id: str, *, after: int) -> Iterator[Event]:
    """Yield the events above the number `after` that there are by now."""
    path = path_of("jobs", job_id, "events")
    return pages(transport, path, Event, after=after, page_size=_PAGE_EVENTS)


class _Ended(Exception):
    """The service says that no event will follow."""


def _connection(
    transport: Transport, job_id: str, *, after: int, patience: Patience
) -> Generator[Event, None]:
    call = Call(
        "GET",
        path_of("jobs", job_id, "events"),
        headers={
            "Accept": "text/event-stream",
            "Cache-Control": "no-store",
            "Last-Event-ID": str(after),
        },
        read_seconds=max(_SILENCE_SECONDS, transport.timeout),
    )
    with transport.stream(call) as response:
        patience.answered()
        if response.status_code == httpx.codes.NO_CONTENT:
            raise _Ended
        with transport.translated(call):
            try:
                for message in EventSource(response).iter_sse():
                    if not message.data:  # a heartbeat ends in an empty line as well
                        continue
                    event = from_json(Event, json.loads(message.data))
                    if event.id > after:
                        after = event.id
                        yield event
            except (SSEError, json.JSONDecodeError) as error:
                raise UnexpectedReply(
                    f"the event stream of {job_id} is not one: {error}.",
                    code="unexpected_reply",
                    hint="Does a proxy between here and the service change its answers?",
                ) from error
