"""Our jobs, events and checkpoints as OpenAI's clients see them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from api.openai import schemas
from api.openai.naming import file_of, fine_tuning_job_id_of, model_name, seconds, tuned_name
from jobs.identifiers import sibling
from jobs.records import Checkpoint, FineTune, Job, StoredEvent
from jobs.states import FINAL, State
from jobs.store import files, fine_tunes
from jobs.transaction import Transaction
from trainer_core.events import EventType
from trainer_core.spec import parse_spec
from trainer_core.spec.resolving import usual_learning_rate

_STATUSES = {State.CANCELLING: "running"}  # where it is not our word for it
_LEVELS = {EventType.WARNING: "warn", EventType.ERROR: "error"}
_SPLITS = {"train": "train", "eval": "valid", "test": "test"}
_FIGURES = {"loss": "loss", "token_accuracy": "mean_token_accuracy"}

TOLD_EVENTS = tuple(
    kind for kind in EventType if kind not in (EventType.PROGRESS, EventType.ARTIFACT)
)
"""Types of events that become events of OpenAI's: not those that come twice a second."""


def job_views(tx: Transaction, found: Sequence[Job]) -> list[schemas.FineTuningJob]:
    """Return jobs as OpenAI's clients see them."""
    ids = [job.id for job in found]
    said, results = fine_tunes.of_jobs(tx, ids), files.results_of(tx, ids)
    return [_job_view(tx, job, said.get(job.id), results.get(job.id)) for job in found]


def job_view(tx: Transaction, job: Job) -> schemas.FineTuningJob:
    """Return a job as OpenAI's clients see it."""
    return job_views(tx, [job])[0]


def event_view(event: StoredEvent) -> schemas.JobEvent:
    """Return an event as OpenAI's clients see it."""
    kind = EventType(event.type)
    data = dict(event.data)
    is_metrics = kind is EventType.METRICS
    return schemas.JobEvent.model_validate(
        {
            "id": f"{sibling(event.job_id, prefix='ftevent-')}-{event.id}",
            "created_at": seconds(event.at),
            "level": _level(kind, data),
            "message": _message(kind, data),
            "type": "metrics" if is_metrics else "message",
            "data": _figures(data) if is_metrics else data,
        }
    )


def checkpoint_view(saved: Checkpoint, *, model: str) -> schemas.OpenAICheckpoint:
    """Return a stored checkpoint as OpenAI's clients see it, under its name."""
    of_evaluation = {
        f"{when}_{theirs}": saved.metrics[ours]
        for ours, theirs in _FIGURES.items()
        for when in ("valid", "full_valid")
        if ours in saved.metrics
    }
    return schemas.OpenAICheckpoint(
        id=f"{sibling(saved.job_id, prefix='ftckpt_')}-{saved.step}",
        created_at=seconds(saved.created_at),
        fine_tuned_model_checkpoint=model,
        fine_tuning_job_id=fine_tuning_job_id_of(saved.job_id),
        metrics=schemas.OpenAICheckpointMetrics(step=saved.step, **of_evaluation),
        step_number=saved.step,
    )


def _job_view(
    tx: Transaction, job: Job, said: FineTune | None, result_file: str | None
) -> schemas.FineTuningJob:
    progress = job.progress or {}
    data = job.spec["data"]
    suffix = (said and said.suffix) or ""
    is_made = job.state is State.SUCCEEDED
    kind, hyperparameters = _method_of(job)
    return schemas.FineTuningJob.model_validate(
        {
            "id": fine_tuning_job_id_of(job.id),
            "created_at": seconds(job.created_at),
            "error": _failure_of(job),
            "fine_tuned_model": tuned_name(tx, job, suffix=suffix) if is_made else None,
            "finished_at": seconds(job.finished_at) if job.finished_at else None,
            "estimated_finish": _estimated_finish(job),
            "hyperparameters": {} if kind == "dpo" else hyperparameters,
            "integrations": said.integrations if said else None,
            "metadata": said.metadata if said else None,
            "method": {"type": kind, kind: {"hyperparameters": hyperparameters}},
            "model": model_name(tx, job.model),
            "organization_id": f"org-{job.project}",
            "result_files": [result_file] if result_file else [],
            "seed": job.spec["training"]["seed"],
            "status": _STATUSES.get(job.state, job.state),
            "task": job.task,
            "phase": job.phase,
            "trained_tokens": progress.get("num_tokens") if job.state in FINAL else None,
            "training_file": file_of(data["train"]),
            "validation_file": file_of(data["eval"]) if isinstance(data["eval"], str) else None,
        }
    )


def _method_of(job: Job) -> tuple[str, dict[str, Any]]:
    """Return the method of a job and its hyperparameters as they are, none of them `auto`."""
    spec = parse_spec(job.spec)
    training = spec.training
    usual, _ = usual_learning_rate(spec)
    rate = training.learning_rate
    found: dict[str, Any] = {
        "batch_size": training.batch_size,
        "learning_rate_multiplier": 1.0 if rate == "auto" else float(f"{rate / usual:.6g}"),
    }
    if training.epochs == int(training.epochs) and training.max_steps is None:
        found["n_epochs"] = int(training.epochs)  # it has no word for a part of one
    if spec.task == "dpo":
        return "dpo", {**found, "beta": spec.beta}
    return "supervised", found


def _failure_of(job: Job) -> schemas.JobFailure | None:
    if job.error is None:
        return None
    param = job.error["param"]
    return schemas.JobFailure(
        code=job.error["code"],
        message=f"{job.error['message']} {job.error['hint']}".strip(),
        param=param.strip("/").replace("/", ".") if param else None,
    )


def _estimated_finish(job: Job) -> int | None:
    left = (job.progress or {}).get("eta_seconds")
    if job.state is not State.RUNNING or left is None:
        return None
    return int(time.time() + left)


def _level(kind: EventType, data: Mapping[str, Any]) -> str:
    if kind is EventType.STATE and data["state"] == State.FAILED:
        return "error"
    return _LEVELS.get(kind, "info")


def _message(kind: EventType, data: Mapping[str, Any]) -> str:
    match kind:
        case EventType.STATE:
            return f"The job is {data['state']}: {data['reason']}."
        case EventType.PHASE:
            return f"The job is {data['phase']}."
        case EventType.METRICS:
            loss = data["metrics"].get("loss")
            told = "" if loss is None else f", loss {loss:.4g}"
            return f"Step {data['step']}: measured on {data['split']}{told}."
        case EventType.CHECKPOINT:
            return f"Checkpoint saved at step {data['step']}."
        case _:
            return f"{data.get('message', kind)} {data.get('hint', '')}".strip()


def _figures(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured, as `valid_loss` and the like."""
    when = _SPLITS[data["split"]]
    found = {f"{when}_{_FIGURES.get(n, n)}": value for n, value in data["metrics"].items()}
    return {"step": data["step"], **found}
