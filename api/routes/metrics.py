"""What was measured in a job: as JSON in pages, or as CSV, all of it or as much as a plot shows."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from api import problems
from api.access import Reader
from api.dependencies import JobId, Parameters, Service, accepts
from api.downsampling import downsampled
from api.schemas import Measurement, Measurements
from jobs.backends import Backends
from jobs.records import StoredEvent
from jobs.store import events, jobs
from jobs.transaction import Transaction

router = APIRouter(tags=["events"])

_MAX_EVENT_ID = 2**63 - 1
_PAGE_SIZE = 1000


class MetricParameters(Parameters):
    """Which measurements to return, and in which form."""

    format: Annotated[Literal["json", "csv"] | None, Query(description="Over `Accept`.")] = None
    split: Annotated[
        str | None, Query(description="Only of this split, such as `train`.", max_length=100)
    ] = None
    max_points: Annotated[
        int | None,
        Query(
            description="Up to so many measurements a split, all in one page: the first, the last, "
            "the least and greatest of each metric, and the peaks of the loss in between.",
            ge=2,
            le=10_000,
        ),
    ] = None
    after: Annotated[
        int, Query(description="Id of the last measurement seen.", ge=0, le=_MAX_EVENT_ID)
    ] = 0
    limit: Annotated[
        int, Query(description="Measurements a page of JSON, 1 to 10000.", ge=1, le=10_000)
    ] = 10_000


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
    """Return the measurements of a job, oldest first: JSON in pages, or CSV (`Accept: text/csv`).

    CSV has all of them, and a column for each metric of any of them.
    """
    form = parameters.format or ("csv" if accepts(request, "text/csv") else "json")
    with service.database.transaction() as tx:
        jobs.get(tx, job_id, project=caller.project)
        if form == "csv":
            names = _names(events.read_metrics(tx, job_id, split=parameters.split))
            lines = _csv(_pages(service, job_id, parameters), names)
            return StreamingResponse(lines, media_type="text/csv", headers={"Vary": "Accept"})
        limit = None if parameters.max_points else parameters.limit + 1
        page = [_shown(event) for event in _found(tx, job_id, parameters, limit=limit)]
    has_more = limit is not None and len(page) == limit
    return Measurements(data=page[: parameters.limit] if has_more else page, has_more=has_more)


def _found(
    tx: Transaction, job_id: str, parameters: MetricParameters, *, limit: int | None
) -> Iterable[StoredEvent]:
    split, after = parameters.split, parameters.after
    found = events.read_metrics(tx, job_id, split=split, after=after, limit=limit)
    if parameters.max_points is None:
        return found
    counts = events.count_metrics(tx, job_id, split=split, after=after)
    return downsampled(found, num_rows=counts, max_points=parameters.max_points)


def _shown(event: StoredEvent) -> Measurement:
    return Measurement.model_validate({**event.data, "id": event.id, "at": event.at})


def _names(found: Iterable[StoredEvent]) -> list[str]:
    return list(dict.fromkeys(name for event in found for name in event.data["metrics"]))


def _pages(
    service: Backends, job_id: str, parameters: MetricParameters
) -> Iterator[list[StoredEvent]]:
    """Yield what was found in pages, so that a client that reads slowly holds no connection."""
    while True:
        with service.database.transaction() as tx:
            limit = None if parameters.max_points else _PAGE_SIZE
            page = list(_found(tx, job_id, parameters, limit=limit))
        yield page
        if limit is None or len(page) < limit:
            return
        parameters = parameters.model_copy(update={"after": page[-1].id})


def _csv(pages: Iterator[list[StoredEvent]], names: list[str]) -> Iterator[str]:
    """Yield a header, then a line a measurement; one that came since may have a metric more."""
    text = io.StringIO()
    columns = ["split", "step", "epoch", "at", *names]
    table = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
    table.writeheader()
    for page in pages:
        for row in map(_shown, page):
            table.writerow({**row.metrics, **row.model_dump(mode="json", exclude={"metrics"})})
        yield text.getvalue()
        text.seek(0)
        text.truncate()
