"""What is checked before a job is accepted: what it refers to, and every row it would train on."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jobs.records import Dataset
from jobs.states import State
from jobs.storage import Storage
from jobs.store import artifacts, datasets, models, permissions
from jobs.transaction import Database, Transaction
from trainer_core.errors import FieldProblem, InvalidSpec, NotFound
from trainer_core.rows.checking import Survey, survey
from trainer_core.rows.files import InputFile
from trainer_core.spec import (
    JobSpec,
    Scheme,
    check_built,
    parse_data_reference,
    parse_model_reference,
)


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
                step = model.checkpoint
                job = permissions.source_job(tx, model.name, step=step, project=project)
                if model.checkpoint is not None:
                    yield FieldProblem(
                        "/model",
                        "starting from a checkpoint is not available in this version",
                        f"Write job:{model.name} for its finished model.",
                    )
                elif job.state is not State.SUCCEEDED:
                    yield FieldProblem(
                        "/model",
                        f"job {job.id} is {job.state} and has no model",
                        "Wait for it to succeed, or choose another model.",
                    )
                elif not artifacts.of_job(tx, job.id):
                    yield FieldProblem(
                        "/model", f"the model of job {job.id} was deleted", "Choose another model."
                    )
            case _:
                return
    except NotFound as error:
        yield FieldProblem("/model", error.message, error.hint)
