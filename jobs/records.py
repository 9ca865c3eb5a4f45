"""What the store returns: one frozen value a row, with the row's column names as fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from jobs.states import State, SweepState, TrialState
from trainer_core.run_directory import is_of_model

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """A fine-tuning job."""

    id: str
    project: str
    sweep_id: str | None  # the sweep whose trial it is
    parent_id: str | None  # the job that it was cloned from or tries again
    name: str | None
    notes: str | None
    version: int  # how often its owner has edited it
    task: str
    model: str  # the spec's reference
    spec: Json  # with defaults filled
    resolved: Json | None  # {"spec": without an auto, "choices": [{pointer, value, why}]}
    dataset_ids: list[str]
    labels: dict[str, str]
    priority: int
    num_gpus: int  # that its worker must have; 0 where the spec says 'auto'
    state: State
    phase: str | None
    attempt: int  # number of the latest attempt; 0 before the first
    max_attempts: int
    micro_batch_size: int | None  # in place of the resolved one, which was too large
    worker: str | None
    lease_until: datetime | None
    progress: Json | None  # the latest Progressed event
    metrics: Json  # latest measurement a split
    best: Json | None  # {"step", "metrics"} of the model handed out
    error: Json | None  # TypedError
    keep: bool  # whether what there is becomes the model, once it is asked to end
    last_event_id: int
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker's try at a job."""

    job_id: str
    number: int
    worker: str
    started_at: datetime
    finished_at: datetime | None
    reason: str | None  # why it ended
    first_step: int | None
    last_step: int | None
    num_batches: int  # of events that it has told


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its number: gapless from 1 within its job."""

    job_id: str
    id: int
    attempt: int | None
    at: datetime
    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file that a job made."""

    job_id: str
    path: str  # below the model directory
    key: str  # in the storage
    size_bytes: int
    sha256: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Push:
    """A push of a job's model to the Hub: asked for, done, or given up."""

    job_id: str
    number: int  # from 1, within the job
    step: int | None  # of the checkpoint whose model it is; None for the finished one
    repo: str  # owner/name
    private: bool
    branch: str | None  # None for the main one
    tag: str | None
    secret: str  # name of the stored token
    state: str  # pending, pushed, failed
    num_tries: int
    max_tries: int
    next_try_at: datetime | None  # while pending: when it is due, or its worker's lease ends
    url: str | None  # of a page that shows what was pushed
    commit: str | None
    error: Json | None  # TypedError of the latest try that failed
    created_at: datetime
    finished_at: datetime | None

    @property
    def checkpoint(self) -> str | None:
        """The name of the checkpoint whose model it is; None for the finished one."""
        return None if self.step is None else checkpoint_name(self.step)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of a job in the storage, or on its way into it or out of it."""

    job_id: str
    step: int  # optimizer steps taken
    attempt: int  # that stored it
    state: str  # storing, stored, removing
    key: str  # in the storage, of its folder
    files: list[Json]  # {"path", "size_bytes", "sha256"}; the manifest is the last one
    size_bytes: int  # of all of them
    metrics: Json  # of the evaluation after the step, where there was one
    is_best: bool  # when it was saved
    created_at: datetime

    @property
    def name(self) -> str:
        """What it is called in a run directory and in references."""
        return checkpoint_name(self.step)

    @property
    def keys(self) -> list[str]:
        """The keys of its files in the storage, the manifest last."""
        return [f"{self.key}/{file['path']}" for file in self.files]

    @property
    def artifacts(self) -> list[Artifact]:
        """The files of its model, by path; the others are there to go on from."""
        of_model = [
            Artifact(self.job_id, key=key, created_at=self.created_at, **file)
            for file, key in zip(self.files, self.keys, strict=True)
            if is_of_model(file["path"])
        ]
        return sorted(of_model, key=lambda file: file.path)


def checkpoint_name(step: int) -> str:
    """Return what the checkpoint after a step is called."""
    return f"checkpoint-{step}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """An uploaded file of rows."""

    id: str
    project: str
    name: str  # file name
    has_header: bool
    key: str  # in the storage
    size_bytes: int
    sha256: str
    description: Json  # trainer_core.rows.Description
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Reply:
    """What the first request with an `Idempotency-Key` was answered."""

    project: str
    key: str
    fingerprint: str  # of the request
    status: int
    headers: dict[str, str]
    body: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Model:
    """A registered base model: a folder of the server, or a repository of the Hub."""

    project: str
    name: str
    path: str | None
    hub: str | None
    revision: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class File:
    """A file as OpenAI's clients see it: a data set, a job's figures, or mere bytes."""

    id: str
    project: str
    purpose: str
    name: str
    dataset_id: str | None
    job_id: str | None  # whose figures it is
    key: str | None  # in the storage, of bytes that are neither
    size_bytes: int
    fault: str | None  # what is wrong with its rows
    expires_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that comes in parts."""

    id: str
    project: str
    purpose: str
    name: str
    mime_type: str
    size_bytes: int  # as announced
    state: str  # pending, completed or cancelled
    file_id: str | None
    file_expires_seconds: int | None
    expires_at: datetime
    created_at: datetime
    sha256: str | None  # of the whole; None for OpenAI's
    has_header: bool | None


@dataclass(frozen=True, slots=True)
class UploadPart:
    """A part of an upload."""

    id: str
    upload_id: str
    key: str
    size_bytes: int
    created_at: datetime
    number: int | None  # from 1; None for OpenAI's, whose order is told at the end
    sha256: str | None


@dataclass(frozen=True, slots=True)
class FineTune:
    """What was said of a job in OpenAI's words, and has no place in a spec."""

    job_id: str
    suffix: str | None
    metadata: dict[str, str] | None
    integrations: list[Json] | None


@dataclass(frozen=True, slots=True)
class Permission:
    """That another project may use a job's model, or what it was at one of its checkpoints."""

    id: str
    job_id: str
    step: int | None  # None for the finished model
    grantee: str  # the project
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """What a worker trains on."""

    name: str  # as LUTHIER_DEVICES names it
    kind: Literal["cpu", "cuda", "mps"]
    model: str  # what its maker calls it
    memory_bytes: int | None  # None where nobody tells
    has_fast_bf16: bool
    num_threads: int  # of the CPU, of each job


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that was heard of lately."""

    name: str
    num_slots: int  # jobs at once
    devices: tuple[WorkerDevice, ...]
    started_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a project wants to be told of its jobs."""

    id: str
    project: str
    name: str | None
    url: str
    event_types: list[str]
    is_enabled: bool
    disabled_reason: str | None  # where the service did it
    secret: str  # sealed; `jobs.sealing` opens it
    old_secret: str | None  # sealed; signs too, while a rotation lasts
    old_secret_until: datetime | None
    secret_hint: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Try:
    """One POST to a webhook, and what came back."""

    number: int  # from 1 within its delivery
    at: datetime
    duration_seconds: float
    status_code: int | None  # None where there was no answer
    error: str | None
    answer: str | None  # its beginning


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to a webhook."""

    webhook_id: str
    event_id: str  # the header `webhook-id` of every try
    event_type: str
    body: str
    state: str  # pending, delivered or failed
    num_tries: int
    next_try_at: datetime | None  # None unless it is pending
    created_at: datetime
    tries: list[Try]  # first to last


@dataclass(frozen=True, slots=True)
class Sweep:
    """A search for the best values of some fields of a job's spec."""

    id: str
    project: str
    name: str | None
    state: SweepState
    reason: str | None  # why it ended as it did
    plan: Json  # jobs.sweeps.plan.Plan
    created_at: datetime
    finished_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Trial:
    """One job of a sweep, with the values that it tries."""

    sweep_id: str
    number: int  # from 0
    params: Json  # JSON pointer into the spec -> value
    job_id: str | None  # None where it could not be submitted, or was deleted
    state: TrialState
    value: float | None  # of the objective, once it has succeeded
    measured: Json  # step, as text -> value of the objective on the evaluation rows
    reason: str | None
    created_at: datetime
    finished_at: datetime | None
