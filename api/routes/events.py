"""What happens to a job: events as pages or live, measurements, and the log."""

import csv
import io
from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from api import problems
from api.access import Caller, Reader
from api.dependencies import JobId, Parameters, Service
from api.schemas import Event, EventPage, Measurement, Measurements
from api.streams import CutStream, Follower, Hub, encoded
from jobs.backends import Backends
from jobs.records import Job, StoredEvent
from jobs.states import FINAL
from jobs.store import events, jobs
from trainer_core.events import EventType

router = APIRouter(tags=["events"])

_MAX_EVENT_ID = 2**63 - 1
_PAGE_SIZE = 1000
_LOG_TYPES = frozenset({EventType.LOG, EventType.WARNING, EventType.ERROR})
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != ord("\t")}

_EventId = Annotated[int, Query(ge=0, le=_MAX_EVENT_ID)]


class EventParameters(Parameters):
    """Which events to return."""

    after: Annotated[_EventId, Query(description="Id of the last event seen.")] = 0
    limit: Annotated[int, Query(description="Events a page, 1 to 1000.", ge=1, le=1000)] = 100


@router.get(
    "/jobs/{job_id}/events",
    response_model=EventPage,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "The stream has ended, and everything has been seen"},
        **problems.responses(404, 422),
    },
)
async def list_events(
    request: Request,
    caller: Reader,
    service: Service,
    job_id: JobId,
    parameters: Annotated[EventParameters, Query()],
    last_event_id: Annotated[
        int | None, Header(description="As `after`, for a stream.", ge=0, le=_MAX_EVENT_ID)
    ] = None,
) -> Any:
    """Return events, oldest first; or, with `Accept: text/event-stream`, follow them live.

    A stream sends a comment when there is nothing to tell, and ends after the event of the job's
    final state. A client that comes back with the last id it has seen misses nothing and sees
    nothing twice; after the end it is answered 204.
    """
    if not _accepts(request, "text/event-stream"):
        return await run_in_threadpool(_page, service, caller, job_id, parameters)
    job = await run_in_threadpool(_job, service, caller, job_id)
    after = parameters.after if last_event_id is None else last_event_id
    headers = {"Vary": "Accept", "X-Accel-Buffering": "no"}
    if job.state in FINAL and after >= job.last_event_id:
        return Response(status_code=204, headers=headers)
    hub: Hub = request.app.state.hub
    follower = Follower(
        hub, job.id, after=min(after, job.last_event_id), is_over=job.state in FINAL
    )
    return CutStream(encoded(follower.batches()), headers=headers)


class MetricParameters(Parameters):
    """In which form to return measurements."""

    format: Annotated[Literal["json", "csv"] | None, Query(description="Over `Accept`.")] = None


@router.get(
    "/jobs/{job_id}/metrics",
    response_model=Measurements,
    responses={
        200: {"content": {"text/csv": {"schema": {"type": "string"}}}},
        **problems.responses(404, 422),
    },
)
def list_metrics(
    request: Request,
    caller: Reader,
    service: Service,
    job_id: JobId,
    parameters: Annotated[MetricParameters, Query()],
) -> Any:
    """Return every measurement of a job, oldest first, as JSON or CSV (`Accept: text/csv`)."""
    with service.database.transaction() as tx:
        jobs.get(tx, job_id, project=caller.project)
        found = events.read_metrics(tx, job_id)
    rows = [Measurement.model_validate({**event.data, "at": event.at}) for event in found]
    form = parameters.format or ("csv" if _accepts(request, "text/csv") else "json")
    if form == "csv":
        return Response(_csv(rows), media_type="text/csv", headers={"Vary": "Accept"})
    return Measurements(data=rows)


class LogParameters(Parameters):
    """How much of the log to return."""

    tail: Annotated[
        int | None, Query(description="Only so many lines, the last ones.", ge=1, le=10_000)
    ] = None


@router.get(
    "/jobs/{job_id}/logs",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems.responses(404, 422),
    },
)
def get_logs(
    caller: Reader,
    service: Service,
    job_id: JobId,
    parameters: Annotated[LogParameters, Query()],
) -> Response:
    """Return a job's log as text, a line an entry: time, kind, message."""
    _job(service, caller, job_id)
    lines = _log_lines(service, job_id)
    if parameters.tail is not None:
        lines = iter(deque(lines, maxlen=parameters.tail))
    return StreamingResponse(lines, media_type="text/plain; charset=utf-8")


def _job(service: Backends, caller: Caller, job_id: str) -> Job:
    with service.database.transaction() as tx:
        return jobs.get(tx, job_id, project=caller.project)


def _page(service: Backends, caller: Caller, job_id: str, parameters: EventParameters) -> EventPage:
    limit = parameters.limit
    with service.database.transaction() as tx:
        jobs.get(tx, job_id, project=caller.project)
        found = events.read(tx, job_id, after=parameters.after, limit=limit + 1)
    return EventPage(data=[Event.of(event) for event in found[:limit]], has_more=len(found) > limit)


def _accepts(request: Request, media_type: str) -> bool:
    ranges = ",".join(request.headers.getlist("accept")).lower().split(",")
    return any(wanted.partition(";")[0].strip() == media_type for wanted in ranges)


def _csv(rows: list[Measurement]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    text = io.StringIO()
    table = csv.DictWriter(text, ["split", "step", "epoch", "at", *names], restval="")
    table.writeheader()
    for row in rows:
        place = row.model_dump(mode="json", exclude={"metrics"})
        table.writerow({**row.metrics, **place})
    return text.getvalue()


def _log_lines(service: Backends, job_id: str) -> Iterator[str]:
    """Yield the log in pages, so that neither it nor a connection is held for long."""
    after = 0
    while True:
        with service.database.transaction() as tx:
            found = events.read(tx, job_id, after=after, limit=_PAGE_SIZE)
        yield from (_line(event) for event in found if event.type in _LOG_TYPES)
        if len(found) < _PAGE_SIZE:
            return
        after = found[-1].id


def _line(event: StoredEvent) -> str:
    words = [event.data.get("message", ""), event.data.get("hint", "")]
    message = " ".join(str(word) for word in words if word)
    # One line an entry, and nothing that a terminal would obey.
    return f"{event.at.isoformat()} {event.type.upper()} {message.translate(_CONTROL)}\n"
