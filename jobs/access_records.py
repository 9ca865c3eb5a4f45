"""What the store returns of who may do what: keys, projects, secrets, the audit log."""

from dataclasses import dataclass
from datetime import datetime

from jobs.records import Json


@dataclass(frozen=True, slots=True)
class Project:
    """A tenant: what it may use. None is no limit."""

    name: str
    max_queued_jobs: int | None
    max_running_jobs: int | None
    max_device_hours: float | None  # a calendar month, UTC
    max_storage_bytes: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Use:
    """What a project uses now."""

    queued_jobs: int
    running_jobs: int
    device_hours: float  # of this calendar month, UTC; running jobs among them
    storage_bytes: int  # of data sets, other files, models and checkpoints


@dataclass(frozen=True, slots=True)
class Key:
    """An API key, without its secret."""

    id: str
    project: str
    name: str
    prefix: str  # of the secret
    scopes: list[str]
    requests_per_second: float | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that somebody did."""

    id: str
    project: str
    at: datetime
    key_id: str | None
    actor: str
    action: str
    target: str
    detail: Json


@dataclass(frozen=True, slots=True)
class Secret:
    """A named secret, without its value."""

    project: str
    name: str
    created_at: datetime
    updated_at: datetime
