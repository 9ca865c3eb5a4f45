"""What the service answers, as OpenAPI tells it."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from jobs.records import Artifact as StoredArtifact
from jobs.records import Attempt as StoredAttempt
from jobs.records import Job as StoredJob
from jobs.records import Push as StoredPush
from jobs.records import StoredEvent
from jobs.states import State
from jobs.store.estimates import Place
from trainer_core.events import EventType

Timestamp = Annotated[datetime, AfterValidator(lambda value: value.astimezone(UTC))]
Json = dict[str, Any]


class Schema(BaseModel):
    """What every answer shares."""

    model_config = ConfigDict(frozen=True, from_attributes=True, use_attribute_docstrings=True)


class Problem(Schema):
    """An error (RFC 9457). Some codes add members, such as `rows` and `total` for bad rows."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    """The status in words."""
    status: int
    detail: str
    """What happened, with the values, and what was expected."""
    code: str
    """Stable, for programs."""
    hint: str
    """What to do."""
    param: str | None
    """The field, column or parameter at fault."""
    errors: list["FieldError"] = []
    """Every field that is wrong."""
    request_id: str


class FieldError(BaseModel):
    """One wrong field."""

    pointer: str
    """JSON pointer (RFC 6901) into the body; for a parameter, its name after a slash."""
    message: str
    hint: str


class ErrorBody(Schema):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Schema):
    """An error below `/v1`."""

    error: ErrorBody


class JobError(Schema):
    """Why a job failed."""

    code: str
    message: str
    hint: str
    whose: Literal["user", "data", "capacity", "system"]
    retryable: bool
    param: str | None
    detail: Json


class Progress(Schema):
    """How far training has come."""

    step: int
    """Optimizer steps taken."""
    max_steps: int
    epoch: float
    num_tokens: int
    """Real, unpadded tokens seen."""
    loss: float | None
    """Loss of the latest step."""
    eta_seconds: float | None
    """Seconds to the end of training."""


class Best(Schema):
    """The checkpoint whose model is handed out."""

    step: int | None
    metrics: dict[str, float | None]


class Resolved(Schema):
    """What the service decided where the spec left it open."""

    model_config = ConfigDict(extra="allow")

    spec: Json
    """The spec without an `auto`."""
    choices: list[Json]
    """What was chosen, and why."""


class Job(Schema):
    """A fine-tuning job."""

    id: str
    sweep_id: str | None
    """The sweep whose trial it is."""
    parent_id: str | None
    """The job that it was cloned from, or tries again; null once that is deleted."""
    name: str | None
    notes: str | None
    """What its owner says about it."""
    task: str
    model: str
    state: State
    phase: str | None
    """What a running job is busy with."""
    queue_position: int | None
    """From 1, while it is queued; null behind the first 1,000."""
    start_estimate_seconds: float | None
    """Seconds until a queued job starts, by what running jobs say and recent ones took; null where
    that can't be told: nothing runs, or nothing has ended yet."""
    attempt: int
    """Number of the latest attempt; 0 before the first."""
    max_attempts: int
    priority: int
    labels: dict[str, str]
    spec: Json
    """The spec as given, with its defaults filled in."""
    resolved: Resolved | None
    progress: Progress | None
    metrics: dict[str, dict[str, Any]]
    """The latest measurement of each split."""
    best: Best | None
    error: JobError | None
    created_at: Timestamp
    queued_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    updated_at: Timestamp

    @classmethod
    def of(cls, job: StoredJob, *, place: Place) -> "Job":
        """Return a stored job as its owner sees it."""
        return cls.model_validate(_visible(job, place))


class Attempt(Schema):
    """One worker's try at a job."""

    number: int
    worker: str
    started_at: Timestamp
    finished_at: Timestamp | None
    reason: str | None
    """Why it ended."""
    first_step: int | None
    last_step: int | None
    steps_lost: int | None = None
    """Steps that a later attempt took again; null until one that took steps has ended."""


class Artifact(Schema):
    """A file of the finished model."""

    path: str
    size_bytes: int
    sha256: str


class Push(Schema):
    """A push of a model of a job to the Hub."""

    number: int
    """From 1, within the job. They are done in this order."""
    checkpoint: str | None
    """Id of the checkpoint whose model it is. Null: the finished model."""
    repo: str
    private: bool
    """Whether it goes to a private repository only."""
    branch: str | None
    """Null: the main one."""
    tag: str | None
    state: Literal["pending", "pushed", "failed"]
    num_tries: int
    """How often it was tried, the try in hand included."""
    url: str | None
    """Page that shows what was pushed."""
    commit: str | None
    """Commit of the repository that was made."""
    error: JobError | None
    """Why it has failed, or the latest try of one that is pending."""
    created_at: Timestamp
    finished_at: Timestamp | None


class JobDetail(Job):
    """A fine-tuning job with its attempts, files and pushes."""

    attempts: list[Attempt]
    artifacts: list[Artifact]
    pushes: list[Push]
    """To the Hub, first to last."""

    @classmethod
    def whole(
        cls,
        job: StoredJob,
        *,
        place: Place,
        attempts: list[StoredAttempt],
        artifacts: list[StoredArtifact],
        pushes: list[StoredPush],
    ) -> "JobDetail":
        """Return a stored job with all that belongs to it."""
        told = [Attempt.model_validate(one) for one in attempts]
        told = [
            one.model_copy(update={"steps_lost": _steps_lost(one, told[number:])})
            for number, one in enumerate(told, start=1)
        ]
        parts = {"attempts": told, "artifacts": artifacts, "pushes": pushes}
        return cls.model_validate(_visible(job, place) | parts)


def _steps_lost(one: Attempt, later: list[Attempt]) -> int | None:
    """Return how many steps of an attempt were taken again, as far as later ones tell."""
    if one.last_step is None:
        return 0 if later else None
    again = next((first for first in (each.first_step for each in later) if first), None)
    return None if again is None else max(0, one.last_step - again + 1)


def _visible(job: StoredJob, place: Place) -> Json:
    of_place = {
        "queue_position": place.position,
        "start_estimate_seconds": place.start_estimate_seconds,
    }
    names = Job.model_fields.keys() - of_place.keys()
    return {name: getattr(job, name) for name in names} | of_place


class JobPage(Schema):
    """Jobs, newest first."""

    data: list[Job]
    has_more: bool


class Event(Schema):
    """Something that happened to a job."""

    id: int
    """From 1, without a gap, within the job."""
    job_id: str
    attempt: int | None
    at: Timestamp
    type: EventType
    data: Json

    @classmethod
    def of(cls, event: StoredEvent) -> "Event":
        """Return a stored event."""
        return cls.model_validate(event)


class EventPage(Schema):
    """Events, oldest first."""

    data: list[Event]
    has_more: bool


class Measurement(Schema):
    """Figures measured on a split."""

    id: int
    """Of its event."""
    split: str
    step: int
    epoch: float | None
    at: Timestamp
    metrics: dict[str, float | None]


class Measurements(Schema):
    """Measurements of a job, oldest first."""

    data: list[Measurement]
    has_more: bool


class Model(Schema):
    """A registered base model."""

    name: str
    path: str | None
    hub: str | None
    revision: str | None
    created_at: Timestamp


class ModelPage(Schema):
    """Models, by name."""

    data: list[Model]
    has_more: bool


class PredictionUsage(Schema):
    """Tokens of all inputs together."""

    input_tokens: int
    output_tokens: int


class Prediction(Schema):
    """What a finished model says."""

    job_id: str
    task: str
    data: list[Json]
    """One for each input."""
    usage: PredictionUsage


class TaskSummary(Schema):
    """A task for which models can be trained."""

    task: str
    summary: str


class TaskList(Schema):
    """Every task."""

    data: list[TaskSummary]


class Task(TaskSummary):
    """A task: what its specs may say."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    schema_: Annotated[Json, Field(alias="schema")]
    """JSON schema of the spec."""
    defaults: Json
    """What a field has that the spec leaves out."""
    example: Json
    """A whole spec."""
    metrics: list[str]
    """What the example's evaluation measures; the first chooses the best model."""


class Liveness(Schema):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Checks(Schema):
    """What the service stands on, and whether it works."""

    database: bool
    migrations: bool
    """The tables are those that this version expects."""
    redis: bool
    storage: bool


class Readiness(Schema):
    """Whether the service can do its work."""

    status: Literal["ok", "unavailable"]
    checks: Checks
