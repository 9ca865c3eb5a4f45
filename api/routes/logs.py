"""The log of a job, as text or as events, as it is or as it grows."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from api import problems
from api.access import Caller, Reader
from api.dependencies import JobId, Parameters, Service, accepts
from api.streams import CutStream, Follower
from jobs.backends import Backends
from jobs.records import Job, StoredEvent
from jobs.states import FINAL
from jobs.store import events, jobs
from trainer_core.events import EventType

router = APIRouter(tags=["events"])

_MAX_EVENT_ID = 2**63 - 1
_PAGE_SIZE = 1000
_TYPES = frozenset({EventType.LOG, EventType.WARNING, EventType.ERROR})
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != ord("\t")}
_NO_BUFFER = {"Vary": "Accept", "X-Accel-Buffering": "no"}

_Batches = AsyncIterator[list[StoredEvent]]


class LogParameters(Parameters):
    """How much of the log to return."""

    tail: Annotated[
        int | None, Query(description="Only so many lines, the last ones.", ge=0, le=10_000)
    ] = None
    after: Annotated[
        int, Query(description="Only what came after this event.", ge=0, le=_MAX_EVENT_ID)
    ] = 0
    follow: Annotated[bool, Query(description="Go on with what comes, to the end of the job.")] = (
        False
    )


@router.get(
    "/jobs/{job_id}/logs",
    response_class=Response,
    responses={
        200: {
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "text/event-stream": {"schema": {"type": "string"}},
            }
        },
        204: {"description": "The stream has ended, and everything has been seen"},
        **problems.responses(404, 422),
    },
)
async def get_logs(
    request: Request,
    caller: Reader,
    service: Service,
    job_id: JobId,
    parameters: Annotated[LogParameters, Query()],
    last_event_id: Annotated[
        int | None, Header(description="As `after`, for a stream.", ge=0, le=_MAX_EVENT_ID)
    ] = None,
) -> Any:
    """Return a job's log as text, a line an entry: time, kind, message.

    With `follow=true` the text goes on to the job's end. With `Accept: text/event-stream` it is a
    stream of events with a line each, and their ids: a client that comes back with the last one
    misses nothing and sees nothing twice.
    """
    job = await run_in_threadpool(_job, service, job_id, project=caller.project)
    after = parameters.after if last_event_id is None else last_event_id
    if accepts(request, "text/event-stream"):
        if job.state in FINAL and after >= job.last_event_id:
            return Response(status_code=204, headers=_NO_BUFFER)
        batches = _followed(request, service, job, caller=caller, after=after, tail=parameters.tail)
        return CutStream(_sse(batches), headers=_NO_BUFFER)
    media_type = "text/plain; charset=utf-8"
    if parameters.follow:
        batches = _followed(request, service, job, caller=caller, after=after, tail=parameters.tail)
        return StreamingResponse(_text(batches), media_type=media_type, headers=_NO_BUFFER)
    entries = await run_in_threadpool(_entries, service, job, after=after, tail=parameters.tail)
    return StreamingResponse(map(_line, entries), media_type=media_type, headers={"Vary": "Accept"})


async def _followed(
    request: Request,
    service: Backends,
    job: Job,
    *,
    caller: Caller,
    after: int,
    tail: int | None,
) -> _Batches:
    """Yield entries as they come; an empty list when there was nothing for a while."""
    if tail is not None:
        last = await run_in_threadpool(_last, service, job, after=after, limit=tail)
        if last:
            yield last
        after = max(after, job.last_event_id)
    follower = Follower(
        request.app.state.hub,
        job.id,
        caller=caller,
        after=min(after, job.last_event_id),
        is_over=job.state in FINAL,
    )
    async for batch in follower.batches():
        entries = [told.event for told in batch if told.event.type in _TYPES]
        if entries or not batch:
            yield entries


async def _sse(batches: _Batches) -> AsyncIterator[bytes]:
    async for batch in batches:
        if not batch:
            yield format_sse_event(comment="heartbeat")
            continue
        yield b"".join(
            format_sse_event(
                id=str(event.id), event=event.type, data_str=_line(event).removesuffix("\n")
            )
            for event in batch
        )


async def _text(batches: _Batches) -> AsyncIterator[str]:
    async for batch in batches:
        yield "".join(map(_line, batch))


def _job(service: Backends, job_id: str, *, project: str) -> Job:
    with service.database.transaction() as tx:
        return jobs.get(tx, job_id, project=project)


def _entries(service: Backends, job: Job, *, after: int, tail: int | None) -> Iterator[StoredEvent]:
    if tail is not None:
        return iter(_last(service, job, after=after, limit=tail))
    return _all(service, job, after=after)


def _last(service: Backends, job: Job, *, after: int, limit: int) -> list[StoredEvent]:
    with service.database.transaction() as tx:
        found = events.read_last(tx, job.id, _TYPES, up_to=job.last_event_id, limit=limit)
    return [event for event in found if event.id > after]


def _all(service: Backends, job: Job, *, after: int) -> Iterator[StoredEvent]:
    """Yield entries in pages, so that neither the log nor a connection is held for long."""
    while True:
        with service.database.transaction() as tx:
            found = events.read_types(tx, job.id, _TYPES, after=after, limit=_PAGE_SIZE)
        yield from found
        if len(found) < _PAGE_SIZE:
            return
        after = found[-1].id


def _line(event: StoredEvent) -> str:
    words = [event.data.get("message", ""), event.data.get("hint", "")]
    message = " ".join(str(word) for word in words if word)
    # One line an entry, and nothing that a terminal would obey.
    return f"{event.at.isoformat()} {event.type.upper()} {message.translate(_CONTROL)}\n"
