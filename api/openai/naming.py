"""Ids, names and times of ours in OpenAI's words.

What is the same thing has the same random part in both: job_X is ftjob-X, and ds_X is file-X.
"""

import re
from datetime import datetime

from jobs.identifiers import sibling
from jobs.records import Job
from jobs.store import fine_tunes, jobs
from jobs.transaction import Transaction
from trainer_core.errors import JobNotFound, NotFound
from trainer_core.spec import Reference, Scheme, parse_data_reference, parse_model_reference

_MAX_PARENTS = 50  # models that stand on each other's shoulders
_SCHEME = re.compile(r"(hub|model|job|ft):")


def seconds(time: datetime) -> int:
    """Return a time as OpenAI has it: whole seconds since 1970."""
    return int(time.timestamp())


def job_id_of(fine_tuning_job_id: str) -> str:
    """Return our id of `ftjob-X`; our own id is taken as well."""
    return sibling(fine_tuning_job_id, prefix="job_")


def fine_tuning_job_id_of(job_id: str) -> str:
    """Return OpenAI's id of a job."""
    return sibling(job_id, prefix="ftjob-")


def file_of(reference: str) -> str:
    """Return the id of the file that a data reference names; one of the Hub stays as it is."""
    parsed = parse_data_reference(reference)
    if parsed.scheme is Scheme.DATASET:
        return sibling(parsed.name, prefix="file-")
    return reference


def model_reference(name: str) -> str:
    """Return the reference that a model's name means: without a scheme, a registered one."""
    return name if _SCHEME.match(name) or "/" in name else f"model:{name}"


def checkpoint_reference(name: str) -> Reference:
    """Return the job, and the step if one is named, of an `ft:` name, or raise NotFound."""
    try:
        found = parse_model_reference(name)
    except ValueError:
        found = None
    if found is None or found.scheme is not Scheme.JOB:
        raise NotFound(f"there is no checkpoint '{name[:200]}'.", param="checkpoint")
    return found


def model_name(tx: Transaction, reference: str) -> str:
    """Return the name of the model that a spec's reference means."""
    parsed = parse_model_reference(reference)
    if parsed.scheme is Scheme.JOB:
        try:
            parent = jobs.get_any(tx, parsed.name)
        except JobNotFound:
            return reference
        return tuned_name(tx, parent, step=parsed.checkpoint)
    return parsed.name + (f"@{parsed.revision}" if parsed.revision else "")


def tuned_name(
    tx: Transaction, job: Job, *, step: int | None = None, suffix: str | None = None
) -> str:
    """Return the name of a job's model, or of what it was at a step.

    Args:
        tx: the transaction.
        job: the job.
        step: of a checkpoint; None for the finished model.
        suffix: of the job, where the caller knows it.
    """
    if suffix is None:
        said = fine_tunes.of_jobs(tx, [job.id]).get(job.id)
        suffix = (said and said.suffix) or ""
    own = sibling(job.id, prefix="")
    name = f"ft:{_base_of(tx, job.model)}:{job.project}:{suffix}:{own}"
    return name if step is None else checkpoint_name(name, step)


def checkpoint_name(model: str, step: int) -> str:
    """Return the name of what a model was at a step."""
    return f"{model}:ckpt-step-{step}"


def _base_of(tx: Transaction, reference: str) -> str:
    """Return the model with which a line of jobs began."""
    for _ in range(_MAX_PARENTS):
        parsed = parse_model_reference(reference)
        if parsed.scheme is not Scheme.JOB:
            return parsed.name
        try:
            reference = jobs.get_any(tx, parsed.name).model
        except JobNotFound:
            break
    return sibling(parse_model_reference(reference).name, prefix="")
