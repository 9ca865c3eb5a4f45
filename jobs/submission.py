"""What is checked before a job is accepted: what it refers to, and every row it would train on."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jobs.records import Dataset
from jobs.states import FINAL, State
from jobs.storage import Storage
from jobs.store import artifacts, checkpoints, datasets, models, permissions
from jobs.transaction import Database, Transaction
from trainer_core.errors import FieldProblem, InvalidSpec, NotFound
from trainer_core.rows.checking import Survey, survey
from trainer_core.rows.files import InputFile
from trainer_core.spec import (
    JobSpec,
    Reference,
    Scheme,
    check_built,
    parse_data_reference,
    parse_model_reference,
)

_WHOLE_WEIGHTS = {"model.safetensors", "model.safetensors.index.json"}


def check(database: Database, storage: Storage, spec: JobSpec, *, project: str) -> Survey:
    """Return what the rows of a job of a project hold, or raise what is wrong with the job.

    Raises:
        InvalidSpec: it asks for what this version can't do, or refers to what is not there.
        DataError: its rows can't be trained on.
    """
    check_built(spec)
    with database.transaction() as tx:
        found = _referred(tx, spec, project=project)
    with files_of(storage, found) as files:
        return survey(spec, files)


@contextmanager
def files_of(storage: Storage, found: Mapping[str, Dataset]) -> Iterator[dict[str, InputFile]]:
    """Give the files of data sets, a split each, for a while."""
    with ExitStack() as stack:
        yield {
            split: InputFile(
                path=stack.enter_context(storage.local(dataset.key)),
                name=dataset.name,
                has_header=dataset.has_header,
                sha256=dataset.sha256,
            )
            for split, dataset in found.items()
        }


def datasets_of(tx: Transaction, spec: JobSpec, *, project: str) -> dict[str, Dataset]:
    """Return the data set of each split that has one of its own, or raise DatasetNotFound."""
    return {
        split: datasets.get(tx, parse_data_reference(source).name, project=project)
        for split, source in spec.data.references().items()
    }


def _referred(tx: Transaction, spec: JobSpec, *, project: str) -> dict[str, Dataset]:
    problems = [*_model_problems(tx, spec.model, project=project)]
    found: dict[str, Dataset] = {}
    for split, source in spec.data.references().items():
        try:
            name = parse_data_reference(source).name
            found[split] = datasets.get(tx, name, project=project)
        except NotFound as error:
            problems.append(FieldProblem(f"/data/{split}", error.message, error.hint))
    if problems:
        raise InvalidSpec(problems)
    return found


def _model_problems(tx: Transaction, reference: str, *, project: str) -> Iterator[FieldProblem]:
    model = parse_model_reference(reference)
    try:
        match model.scheme:
            case Scheme.MODEL:
                folder = models.get(tx, model.name, project=project).path
                if folder is not None and not (Path(folder) / "config.json").is_file():
                    yield FieldProblem(
                        "/model",
                        f"model '{model.name}' has no config.json in {folder} any more",
                        "Put the folder back, or register the model again.",
                    )
            case Scheme.JOB:
                yield from _job_problems(tx, model, project=project)
            case _:
                return
    except NotFound as error:
        yield FieldProblem("/model", error.message, error.hint)


def _job_problems(tx: Transaction, model: Reference, *, project: str) -> Iterator[FieldProblem]:
    """Yield what keeps a job from starting from what another one has made."""
    job = permissions.source_job(tx, model.name, step=model.checkpoint, project=project)
    if model.checkpoint is None:
        if job.state is not State.SUCCEEDED:
            hint = "Wait for it to succeed, or choose another model or a checkpoint of it."
            yield FieldProblem("/model", f"job {job.id} is {job.state} and has no model", hint)
        elif not artifacts.of_job(tx, job.id):
            why = f"the model of job {job.id} was deleted"
            yield FieldProblem("/model", why, "Choose another model.")
        return
    if job.state not in (State.PAUSED, *FINAL):
        why = f"job {job.id} is {job.state}: its checkpoints come and go"
        yield FieldProblem("/model", why, "Pause it, or wait for its end.")
        return
    checkpoint = checkpoints.get(tx, job.id, model.checkpoint, project=job.project)
    paths = {file["path"] for file in checkpoint.files}
    if "config.json" not in paths or not paths & _WHOLE_WEIGHTS:
        why = f"{checkpoint.name} of job {job.id} holds no whole model, such as that of an adapter"
        hint = f"Write job:{job.id} for its finished model, once there is one."
        yield FieldProblem("/model", why, hint)
