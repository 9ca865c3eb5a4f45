"""Jobs as records: listing, reading, editing and deleting them."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import AwareDatetime, Field, ValidationError

from api import openapi, problems
from api.access import Reader, Submitter
from api.bodies import JsonBody
from api.dependencies import JobId, PageParameters, Service
from api.merging import merged
from api.preconditions import check_unedited, etag_of, is_known
from api.schemas import Job, JobDetail, JobPage
from api.showing import shown_whole
from jobs.backends import Backends
from jobs.records import Job as StoredJob
from jobs.sealing import cipher_of
from jobs.states import State
from jobs.store import audit, editing, estimates, jobs, listing
from jobs.submission import check_secrets
from trainer_core.errors import FieldProblem, InvalidSpec, LuthierError
from trainer_core.spec import TASKS
from trainer_core.spec.base import ShortText, SpecModel, Text
from trainer_core.spec.parsing import field_problems

router = APIRouter(tags=["jobs"])

_MAX_LABELS = 16
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The job is as the client has it"}
}
_IfNoneMatch = Annotated[
    str | None, Header(description="An `ETag` that you have: 304 if nothing is new.")
]
_IfMatch = Annotated[
    str | None, Header(description="The `ETag` that you have seen: 412 if it was edited since.")
]

_log = logging.getLogger(__name__)


class JobParameters(PageParameters):
    """Which jobs to list."""

    state: Annotated[
        list[State], Query(description="Only jobs in this state; repeatable.", max_length=8)
    ] = []  # noqa: RUF012 - pydantic copies it
    task: Annotated[str | None, Query(description="Only jobs of this task.")] = None
    model: Annotated[
        str | None, Query(description="Only jobs of this base model, as their spec writes it.")
    ] = None
    name: Annotated[str | None, Query(description="Only jobs of exactly this name.")] = None
    parent: Annotated[
        str | None, Query(description="Only jobs cloned from this job, or trying it again.")
    ] = None
    label: Annotated[
        list[str],
        Query(description="Only jobs with this label, `key=value`; repeatable.", max_length=16),
    ] = []  # noqa: RUF012
    created_from: Annotated[
        AwareDatetime | None,
        Query(description="Only jobs made at this time or later, such as 2026-11-29T08:00:00Z."),
    ] = None
    created_before: Annotated[
        AwareDatetime | None, Query(description="Only jobs made before this time.")
    ] = None
    oldest_first: Annotated[bool, Query(description="In the order in which they were made.")] = (
        False
    )


@router.get("/jobs", responses=problems.responses(422))
def list_jobs(
    caller: Reader, service: Service, parameters: Annotated[JobParameters, Query()]
) -> JobPage:
    """List jobs, newest first. Several filters are all to hold; of several states, one."""
    wanted = listing.Filter(
        project=caller.project,
        states=tuple(parameters.state),
        task=_known_task(parameters.task),
        model=parameters.model,
        name=parameters.name,
        parent_id=parameters.parent,
        labels=_labels(parameters.label),
        created_from=parameters.created_from,
        created_before=parameters.created_before,
    )
    limit = parameters.limit
    with service.database.transaction() as tx:
        found = listing.page(
            tx,
            wanted,
            after=parameters.after,
            limit=limit + 1,
            oldest_first=parameters.oldest_first,
        )
        places = estimates.places(tx, found[:limit])
    return JobPage(
        data=[Job.of(job, place=places[job.id]) for job in found[:limit]],
        has_more=len(found) > limit,
    )


@router.get(
    "/jobs/{job_id}",
    response_model=JobDetail,
    responses={**_NOT_MODIFIED, **problems.responses(404)},
)
def get_job(
    request: Request,
    caller: Reader,
    service: Service,
    job_id: JobId,
    if_none_match: _IfNoneMatch = None,  # noqa: ARG001 - for OpenAPI; read by `is_known`
) -> Response:
    """Return a job with its attempts and the files of its model.

    `ETag` changes with whatever is shown, but for `start_estimate_seconds`.
    """
    with service.database.transaction() as tx:
        job = jobs.get(tx, job_id, project=caller.project)
        detail = shown_whole(tx, job)
    return _answer(request, job, detail)


class JobEdit(SpecModel):
    """What of a job may be changed."""

    name: ShortText | None = None
    """Name for people; null for none."""
    notes: Annotated[Text, Field(max_length=10_000)] | None = None
    """Whatever is worth remembering; null for nothing."""
    labels: (
        dict[
            Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w./-]{0,62}$")],
            Annotated[Text, Field(max_length=256)] | None,
        ]
        | None
    ) = None
    """Labels to set; null takes one away, and null for all of them takes all."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Higher starts earlier."""


@router.patch(
    "/jobs/{job_id}",
    response_model=JobDetail,
    responses=problems.responses(400, 404, 412, 413, 415, 422),
    openapi_extra=openapi.body(
        {
            "schema": JobEdit.model_json_schema(),
            "examples": {
                "labels": {"value": {"labels": {"keep": "yes", "draft": None}}},
                "sooner": {"value": {"priority": 10, "notes": "for Friday"}},
            },
        }
    ),
)
def edit_job(
    request: Request,
    caller: Submitter,
    service: Service,
    job_id: JobId,
    body: JsonBody,
    if_match: _IfMatch = None,  # noqa: ARG001 - for OpenAPI; read by `check_unedited`
) -> Response:
    """Change a job's name, notes, labels or priority: a JSON merge patch (RFC 7396).

    What is not named stays. With `If-Match` it is refused if somebody has edited the job since;
    that it has run on meanwhile is no reason.
    """
    edit = _edit(body)
    with service.database.transaction() as tx:
        job = jobs.get(tx, job_id, project=caller.project, is_locked=True)
        check_unedited(request, version=job.version)
        values = _values(edit, job)
        check_secrets(tx, values, project=caller.project, cipher=cipher_of(service.settings))
        edited = editing.edit(tx, job, values)
        audit.note(tx, caller=caller, action="job.edit", target=job_id, fields=list(values))
        detail = shown_whole(tx, edited)
    return _answer(request, edited, detail)


@router.delete("/jobs/{job_id}", status_code=204, responses=problems.responses(404, 409))
def delete_job(caller: Submitter, service: Service, job_id: JobId) -> None:
    """Delete a job that has ended, with its events, its log and the files of its model."""
    with service.database.transaction() as tx:
        keys = editing.remove(tx, job_id, project=caller.project)
        audit.note(tx, caller=caller, action="job.delete", target=job_id)
    _delete_files(service, job_id, keys)


def _answer(request: Request, job: StoredJob, detail: JobDetail) -> Response:
    body = detail.model_dump_json().encode()
    lasting = detail.model_copy(update={"start_estimate_seconds": None}).model_dump_json().encode()
    headers = {"ETag": etag_of(lasting, version=job.version)}
    if request.method == "GET" and is_known(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def _edit(values: object) -> JobEdit:
    if not isinstance(values, dict):
        raise InvalidSpec([FieldProblem("", "an edit is a JSON object", 'Send {"name": "new"}.')])
    try:
        return JobEdit.model_validate(values)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, values, JobEdit)) from error


def _values(edit: JobEdit, job: StoredJob) -> dict[str, Any]:
    values = edit.model_dump(include=edit.model_fields_set)
    if "labels" in values:
        labels = values["labels"] = merged(job.labels, values["labels"]) or {}
        if len(labels) > _MAX_LABELS:
            message = f"a job has up to {_MAX_LABELS} labels; these would be {len(labels)}"
            raise InvalidSpec([FieldProblem("/labels", message, "Take some away.")])
    return values


def _delete_files(service: Backends, job_id: str, keys: list[str]) -> None:
    try:
        service.storage.delete(*{*keys, *service.storage.keys(f"jobs/{job_id}/")})
    except LuthierError as error:  # gone for every user, and the files only take room
        extra = {"action": "file_left"}
        _log.warning("files of %s are left over: %s", job_id, error, extra=extra)


def _known_task(task: str | None) -> str | None:
    if task is not None and task not in TASKS:
        raise InvalidSpec(
            [FieldProblem("/task", f"there is no task '{task[:80]}'", _known_tasks())]
        )
    return task


def _known_tasks() -> str:
    return f"Known tasks: {', '.join(TASKS)}."


def _labels(pairs: list[str]) -> frozenset[tuple[str, str]]:
    labels = set()
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not key or not separator:
            problem = FieldProblem("/label", f"'{pair[:80]}' is no label", "Write key=value.")
            raise InvalidSpec([problem])
        labels.add((key, value))
    return frozenset(labels)
