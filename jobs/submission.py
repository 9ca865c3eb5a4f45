"""What is checked before a job is accepted: what it refers to, and every row it would train on."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jobs.backends import Backends
from jobs.records import Dataset
from jobs.sealing import Cipher, cipher_of
from jobs.states import FINAL, State
from jobs.storage import Storage
from jobs.store import checkpoints, datasets, jobs, models, secrets
from jobs.transaction import Transaction
from trainer_core.errors import FieldProblem, InvalidSpec, NotFound
from trainer_core.redaction import REDACTOR
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
from trainer_core.spec.parsing import pointer_of

_WHOLE_WEIGHTS = {"model.safetensors", "model.safetensors.index.json"}


def check(backends: Backends, spec: JobSpec, *, project: str) -> Survey:
    """Return what the rows of a job of a project hold, or raise what is wrong with the job.

    Raises:
        InvalidSpec: it asks for what this version can't do, refers to what is not there, or holds
            a secret itself.
        DataError: its rows can't be trained on.
    """
    check_built(spec)
    with backends.database.transaction() as tx:
        values = spec.model_dump(mode="json")
        check_secrets(tx, values, project=project, cipher=cipher_of(backends.settings))
        found = _referred(tx, spec, project=project)
    with files_of(backends.storage, found) as files:
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


def check_secrets(tx: Transaction, values: object, *, project: str, cipher: Cipher) -> None:
    """Raise InvalidSpec if a spec, or an edit of a job, holds what is or looks like a secret.

    Both are kept, shown, and written into the model's folder.
    """
    kept = secrets.reveal_all(tx, project=project, cipher=cipher).values()
    problems = [
        FieldProblem(
            pointer_of(path),
            "holds what looks like a secret",
            "Store it with `luthier secrets set NAME`, and write its name under `secrets`.",
        )
        for path, text in _texts(values)
        if REDACTOR.text(text) != text or any(value in text for value in kept)
    ]
    if problems:
        raise InvalidSpec(problems)


def _texts(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, str]]:
    """Yield each text of JSON values, keys of objects too, with the path to it."""
    match value:
        case str():
            yield path, value
        case dict():
            for key, item in value.items():
                yield path, key
                yield from _texts(item, (*path, key))
        case list():
            for index, item in enumerate(value):
                yield from _texts(item, (*path, index))
        case _:
            return


def _referred(tx: Transaction, spec: JobSpec, *, project: str) -> dict[str, Dataset]:
    problems = [*_model_problems(tx, spec.model, project=project)]
    for use, name in spec.secrets.given().items():
        try:
            secrets.check(tx, name, project=project)
        except NotFound as error:
            problems.append(FieldProblem(f"/secrets/{use}", error.message, error.hint))
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
    job = jobs.get(tx, model.name, project=project)
    if model.checkpoint is None:
        if job.state is not State.SUCCEEDED:
            hint = "Wait for it to succeed, or choose another model or a checkpoint of it."
            yield FieldProblem("/model", f"job {job.id} is {job.state} and has no model", hint)
        return
    if job.state not in (State.PAUSED, *FINAL):
        why = f"job {job.id} is {job.state}: its checkpoints come and go"
        yield FieldProblem("/model", why, "Pause it, or wait for its end.")
        return
    checkpoint = checkpoints.get(tx, job.id, model.checkpoint, project=project)
    paths = {file["path"] for file in checkpoint.files}
    if "config.json" not in paths or not paths & _WHOLE_WEIGHTS:
        why = f"{checkpoint.name} of job {job.id} holds no whole model, such as that of an adapter"
        hint = f"Write job:{job.id} for its finished model, once there is one."
        yield FieldProblem("/model", why, hint)
