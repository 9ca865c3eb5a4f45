"""What calls about webhooks, sweeps, workers, keys, projects and secrets return."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where events of jobs are sent."""

    id: str
    url: str
    event_types: tuple[str, ...]
    enabled: bool
    created_at: datetime
    name: str | None = None
    disabled_reason: str | None = None
    secret_hint: str = ""
    updated_at: datetime | None = None
    # Of `webhooks.create` and `webhooks.rotate_secret` only.
    secret: str | None = dataclasses.field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class DeliveryTry:
    """One request to a webhook and what came of it."""

    number: int
    at: datetime
    duration_seconds: float
    status_code: int | None = None  # None where there was no answer
    error: str | None = None  # None where the target took it
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to a webhook."""

    event_id: str
    event_type: str
    state: str  # pending, delivered or failed
    created_at: datetime
    body: str  # what is sent, exactly
    num_tries: int = 0
    next_try_at: datetime | None = None
    tries: tuple[DeliveryTry, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """One job of a sweep."""

    number: int  # from 0
    params: Mapping[str, Any]  # JSON pointers into the spec with their values
    state: str
    created_at: datetime
    job_id: str | None = None
    value: float | None = None  # of the objective, once it has succeeded
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)  # by step
    reason: str | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The best trial so far, and its model."""

    number: int
    params: Mapping[str, Any]
    value: float
    job_id: str | None = None
    model: str | None = None  # how specs refer to it; None where the job was deleted


@dataclass(frozen=True, slots=True)
class Sweep:
    """A search for the best values of some fields of a job's spec."""

    id: str
    state: str
    plan: Mapping[str, Any]
    created_at: datetime
    name: str | None = None
    reason: str | None = None
    num_trials: Mapping[str, int] = dataclasses.field(default_factory=dict)  # by state
    best: BestTrial | None = None
    finished_at: datetime | None = None
    updated_at: datetime | None = None
    trials: tuple[Trial, ...] = ()  # of `sweeps.get` and `sweeps.cancel` only

    @property
    def is_final(self) -> bool:
        """Whether the sweep has ended."""
        return self.finished_at is not None


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """What a worker trains on."""

    name: str
    kind: str  # cpu, cuda or mps
    model: str  # what its maker calls it
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that was heard of within a minute."""

    name: str
    num_slots: int  # jobs that it runs at once
    devices: tuple[WorkerDevice, ...]
    started_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """An API key."""

    id: str
    project: str
    name: str
    prefix: str  # how the secret begins
    scopes: tuple[str, ...]
    created_at: datetime
    requests_per_second: float | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None  # to the minute
    # Of `keys.create` and `keys.rotate` only.
    secret: str | None = dataclasses.field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ProjectUse:
    """What a project uses now."""

    queued_jobs: int
    running_jobs: int
    device_hours: float  # of this calendar month
    storage_bytes: int


@dataclass(frozen=True, slots=True)
class Project:
    """A tenant and its quotas, None where there is none."""

    name: str
    created_at: datetime
    max_queued_jobs: int | None = None
    max_running_jobs: int | None = None
    max_device_hours: float | None = None
    max_storage_bytes: int | None = None
    use: ProjectUse | None = None  # of `projects.get` and `projects.edit` only


@dataclass(frozen=True, slots=True)
class Secret:
    """A named secret, without its value."""

    name: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that somebody did."""

    id: str
    at: datetime
    project: str
    actor: str
    action: str  # thing and verb, such as `job.cancel`
    target: str
    key_id: str | None = None
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)
