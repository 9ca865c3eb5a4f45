"""What the service answers of projects, keys, secrets and the audit log."""

from api.schemas import Json, Schema, Timestamp
from jobs.scopes import Scope


class Use(Schema):
    """What a project uses now."""

    queued_jobs: int
    running_jobs: int
    device_hours: float
    """Of this calendar month (UTC), running jobs included."""
    storage_bytes: int
    """Of data sets, other files, models and checkpoints."""


class Project(Schema):
    """A project: its quotas, null where there is none."""

    name: str
    max_queued_jobs: int | None
    max_running_jobs: int | None
    max_device_hours: float | None
    """In a calendar month (UTC)."""
    max_storage_bytes: int | None
    created_at: Timestamp


class ProjectDetail(Project):
    """A project with what it uses."""

    use: Use


class ProjectPage(Schema):
    """Projects, by name."""

    data: list[Project]
    has_more: bool


class Key(Schema):
    """An API key, without its secret."""

    id: str
    project: str
    name: str
    prefix: str
    """How the secret begins."""
    scopes: list[Scope]
    requests_per_second: float | None
    """Null for the service's own limit."""
    created_at: Timestamp
    expires_at: Timestamp | None
    revoked_at: Timestamp | None
    last_used_at: Timestamp | None
    """To the minute."""


class NewKey(Key):
    """A key that was just made."""

    secret: str
    """What to send. It is told this once, and kept nowhere."""


class KeyPage(Schema):
    """Keys, newest first; those that work no more are among them."""

    data: list[Key]
    has_more: bool


class AuditEntry(Schema):
    """Something that somebody did."""

    id: str
    at: Timestamp
    project: str
    key_id: str | None
    """Null for commands of the operator on the machine, for sweeps, and where no key is asked."""
    actor: str
    """The key's name by then; of what a sweep does with its jobs, the sweep's id."""
    action: str
    """Thing and verb, such as `job.cancel`."""
    target: str
    """Id or name of the thing."""
    detail: Json


class AuditPage(Schema):
    """What was done, newest first."""

    data: list[AuditEntry]
    has_more: bool


class Secret(Schema):
    """A named secret, without its value."""

    name: str
    created_at: Timestamp
    updated_at: Timestamp


class SecretPage(Schema):
    """Secrets, by name."""

    data: list[Secret]
    has_more: bool
