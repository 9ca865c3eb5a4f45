"""What happens to a job: events as pages or live."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api import problems
from api.access import Caller, Reader
from api.dependencies import JobId, Parameters, Service, accepts
from api.schemas import Event, EventPage
from api.streams import CutStream, Follower, Hub, encoded
from jobs.backends import Backends
from jobs.records import Job
from jobs.states import FINAL
from jobs.store import events, jobs

router = APIRouter(tags=["events"])

_MAX_EVENT_ID = 2**63 - 1

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
    final state, or when the key of its reader works no more. A client that comes back with the last
    id it has seen misses nothing and sees nothing twice; after the end it is answered 204.
    """
    if not accepts(request, "text/event-stream"):
        return await run_in_threadpool(_page, service, caller, job_id, parameters)
    job = await run_in_threadpool(_job, service, caller, job_id)
    after = parameters.after if last_event_id is None else last_event_id
    headers = {"Vary": "Accept", "X-Accel-Buffering": "no"}
    if job.state in FINAL and after >= job.last_event_id:
        return Response(status_code=204, headers=headers)
    hub: Hub = request.app.state.hub
    follower = Follower(
        hub,
        job.id,
        caller=caller,
        after=min(after, job.last_event_id),
        is_over=job.state in FINAL,
    )
    return CutStream(encoded(follower.batches()), headers=headers)


def _job(service: Backends, caller: Caller, job_id: str) -> Job:
    with service.database.transaction() as tx:
        return jobs.get(tx, job_id, project=caller.project)


def _page(service: Backends, caller: Caller, job_id: str, parameters: EventParameters) -> EventPage:
    limit = parameters.limit
    with service.database.transaction() as tx:
        jobs.get(tx, job_id, project=caller.project)
        found = events.read(tx, job_id, after=parameters.after, limit=limit + 1)
    return EventPage(data=[Event.of(event) for event in found[:limit]], has_more=len(found) > limit)
