"""What webhooks are told: an event a state of a job, in our words and in OpenAI's.

{"id": "evt_01k9…", "type": "job.succeeded", "timestamp": "2026-11-29T08:00:00Z",
 "data": {"id": "job_01k9…", "state": "succeeded", …}}

{"id": "evt_01k9…", "object": "event", "created_at": 1795939200,
 "type": "fine_tuning.job.succeeded", "data": {"id": "ftjob-01k9…"}}
"""

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from jobs.identifiers import new_id
from jobs.records import Job
from jobs.states import State

MAX_BYTES = 20_000  # Standard Webhooks asks for less than 20 kB

_MAX_TEXT = 2000  # characters of an error's message, in a body that would be too large


class NoticeType(StrEnum):
    """What a webhook can be told of."""

    QUEUED = "job.queued"
    STARTED = "job.started"
    PAUSED = "job.paused"
    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"
    OPENAI_SUCCEEDED = "fine_tuning.job.succeeded"
    OPENAI_FAILED = "fine_tuning.job.failed"
    OPENAI_CANCELLED = "fine_tuning.job.cancelled"


OPENAI_TYPES = frozenset(kind for kind in NoticeType if kind.startswith("fine_tuning."))

_TYPES: dict[State, tuple[NoticeType, ...]] = {
    State.QUEUED: (NoticeType.QUEUED,),
    State.RUNNING: (NoticeType.STARTED,),
    State.PAUSED: (NoticeType.PAUSED,),
    State.SUCCEEDED: (NoticeType.SUCCEEDED, NoticeType.OPENAI_SUCCEEDED),
    State.FAILED: (NoticeType.FAILED, NoticeType.OPENAI_FAILED),
    State.CANCELLED: (NoticeType.CANCELLED, NoticeType.OPENAI_CANCELLED),
}


@dataclass(frozen=True, slots=True)
class Notice:
    """An event with the body that tells it."""

    event_id: str
    event_type: NoticeType
    body: str


def of_job(job: Job) -> list[Notice]:
    """Return what is to be told of the state that a job is in."""
    return [_notice(kind, job) for kind in _TYPES.get(job.state, ())]


def sample(event_type: NoticeType, *, at: datetime) -> Notice:
    """Return an event of a type as a test sends it, of a job that does not exist."""
    event_id = new_id("evt")
    job_id = f"job_{event_id.removeprefix('evt_')}"
    if event_type in OPENAI_TYPES:
        return Notice(event_id, event_type, _openai(event_id, event_type, job_id=job_id, at=at))
    (state,) = (state for state, kinds in _TYPES.items() if event_type in kinds)
    data = {"id": job_id, "name": "a test of this webhook", "state": state, "is_test": True}
    return Notice(event_id, event_type, _native(event_id, event_type, data=data, at=at))


def openai_job_id(job_id: str) -> str:
    """Return the id by which OpenAI's clients know a job."""
    return f"ftjob-{job_id.removeprefix('job_')}"


def _notice(event_type: NoticeType, job: Job) -> Notice:
    event_id = new_id("evt")
    if event_type in OPENAI_TYPES:
        body = _openai(event_id, event_type, job_id=job.id, at=job.updated_at)
    else:
        body = _native(event_id, event_type, data=_visible(job), at=job.updated_at)
        if len(body.encode()) >= MAX_BYTES:
            body = _native(event_id, event_type, data=_cut(job), at=job.updated_at)
    return Notice(event_id, event_type, body)


def _native(event_id: str, event_type: str, *, data: dict[str, Any], at: datetime) -> str:
    return _json({"id": event_id, "type": event_type, "timestamp": _time(at), "data": data})


def _openai(event_id: str, event_type: str, *, job_id: str, at: datetime) -> str:
    return _json(
        {
            "id": event_id,
            "object": "event",
            "created_at": int(at.timestamp()),
            "type": event_type,
            "data": {"id": openai_job_id(job_id)},
        }
    )


def _visible(job: Job) -> dict[str, Any]:
    same = ("id", "name", "task", "model", "state", "attempt", "labels", "best", "error")
    times = ("created_at", "started_at", "finished_at")
    return {name: getattr(job, name) for name in same} | {
        name: _time(getattr(job, name)) for name in times
    }


def _cut(job: Job) -> dict[str, Any]:
    """Return a job without what has no bound; `GET /jobs/{id}` has it all."""
    error = job.error and {
        "code": job.error["code"],
        "message": job.error["message"][:_MAX_TEXT],
        "hint": job.error["hint"][:_MAX_TEXT],
    }
    return _visible(job) | {"labels": {}, "best": None, "error": error, "is_cut": True}


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
