"""What is checked before a job is accepted: what it refers to, and every row it would train on."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jobs.backends import Backends
from jobs.fitting import check_capacity
from jobs.outlines import known_outline
from jobs.records import Dataset
from jobs.sealing import Cipher, cipher_of
from jobs.settings import Settings
from jobs.states import FINAL, State
from jobs.storage import Storage
from jobs.store import artifacts, checkpoints, datasets, models, permissions, secrets, workers
from jobs.store.customs import customs_of
from jobs.transaction import Transaction
from jobs.weights import num_weights_in
from trainer_core.errors import FieldProblem, InvalidSpec, NotFound
from trainer_core.redaction import REDACTOR
from trainer_core.rows import apart
from trainer_core.rows.files import InputFile
from trainer_core.spec import (
    JobSpec,
    Reference,
    Scheme,
    check_built,
    parse_data_reference,
    parse_model_reference,
)
from trainer_core.spec.estimating import WEIGHT_BYTES
from trainer_core.spec.parsing import pointer_of

_WHOLE_WEIGHTS = {"model.safetensors", "model.safetensors.index.json"}
_MAX_CHECKED = 1000
_BESIDE_ROWS = {"name", "labels", "model", "resources", "checkpoints", "tracking", "output"}
"""Parts of a spec on which it does not depend whether its rows can be trained on."""

# Rows that were found good, by all that this depends on; the oldest first. A sweep, a clone or a
# second try need not read them again.
_checked: dict[str, None] = {}
_lock = threading.Lock()


def check(backends: Backends, spec: JobSpec, *, project: str) -> None:
    """Raise what is wrong with a job of a project; its rows are read in another process.

    Raises:
        InvalidSpec: it asks for what this version can't do, refers to what is not there, or holds
            a secret itself.
        NothingFits: no worker that is there is large enough.
        DataError: its rows can't be trained on.
    """
    with backends.database.transaction() as tx:
        found = look_up(
            tx,
            spec,
            project=project,
            home=backends.settings.home,
            cipher=cipher_of(backends.settings),
        )
    if is_checked(spec, found):
        return
    with files_of(backends.storage, found) as files:
        apart.check(spec.model_dump(mode="json"), files)
    with _lock:
        if len(_checked) >= _MAX_CHECKED:
            del _checked[next(iter(_checked))]
        _checked[_asked(spec, found)] = None


def look_up(
    tx: Transaction,
    spec: JobSpec,
    *,
    project: str,
    home: Path,
    cipher: Cipher | None,
    held: Mapping[str, Dataset] | None = None,
) -> dict[str, Dataset]:
    """Return the data set of each split that has one of its own; its rows are not looked at.

    Args:
        tx: the transaction.
        spec: what to train.
        project: whose job it is.
        home: of the service, where models of the Hub may be known.
        cipher: of the project's secrets; None where it is known to have none.
        held: its data sets by id, where the caller has looked.

    Raises:
        InvalidSpec: it asks for what this version can't do, refers to what is not there, or holds
            a secret itself.
        NothingFits: no worker that is there is large enough.
    """
    check_built(spec)
    check_secrets(tx, spec.model_dump(mode="json"), project=project, cipher=cipher)
    found, problems = referred(tx, spec, project=project, held=held)
    if problems:
        raise InvalidSpec(problems)
    num_weights = num_weights_of(tx, spec, project=project, home=home)
    if num_weights is not None or spec.resources.num_gpus:
        check_capacity(spec, num_weights=num_weights, workers=workers.present(tx))
    return found


def is_checked(spec: JobSpec, found: Mapping[str, Dataset]) -> bool:
    """Return whether the rows were found good before, by this process."""
    return _asked(spec, found) in _checked


def _asked(spec: JobSpec, found: Mapping[str, Dataset]) -> str:
    rows = {split: (one.sha256, one.name, one.has_header) for split, one in found.items()}
    values = spec.model_dump(mode="json", exclude=_BESIDE_ROWS)
    return hashlib.sha256(json.dumps([rows, values]).encode()).hexdigest()


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


def check_secrets(tx: Transaction, values: object, *, project: str, cipher: Cipher | None) -> None:
    """Raise InvalidSpec if a spec, or an edit of a job, holds what is or looks like a secret.

    Both are kept, shown, and written into the model's folder. Without a cipher the project is
    taken to have no secrets of its own.
    """
    kept = secrets.reveal_all(tx, project=project, cipher=cipher).values() if cipher else ()
    whole = "\n".join(text for _, text in _texts(values))  # one look, since most hold none
    if REDACTOR.text(whole) == whole and not any(value in whole for value in kept):
        return
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


def check_said(tx: Transaction, values: object, *, project: str, settings: Settings) -> None:
    """Raise InvalidSpec if what is said besides a spec holds what is or looks like a secret."""
    has_secrets = customs_of(tx, project).has_secrets
    cipher = cipher_of(settings) if has_secrets else None  # it may have to make its key
    check_secrets(tx, values, project=project, cipher=cipher)


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


def referred(
    tx: Transaction,
    spec: JobSpec,
    *,
    project: str,
    held: Mapping[str, Dataset] | None = None,
) -> tuple[dict[str, Dataset], list[FieldProblem]]:
    """Return the data sets that are there, a split each, and what is wrong with references."""
    problems = [*_model_problems(tx, spec.model, project=project)]
    for use, name in spec.secrets.given().items():
        try:
            secrets.check(tx, name, project=project)
        except NotFound as error:
            problems.append(FieldProblem(f"/secrets/{use}", error.message, error.hint))
    problems += _push_problems(tx, spec, project=project)
    found: dict[str, Dataset] = {}
    for split, source in spec.data.references().items():
        reference = parse_data_reference(source)
        if reference.scheme is not Scheme.DATASET:  # what is not built is told elsewhere
            continue
        try:
            known = held.get(reference.name) if held else None
            found[split] = known or datasets.get(tx, reference.name, project=project)
        except NotFound as error:
            problems.append(FieldProblem(f"/data/{split}", error.message, error.hint))
    return found, problems


def _push_problems(tx: Transaction, spec: JobSpec, *, project: str) -> Iterator[FieldProblem]:
    push = spec.push
    if push is None:
        return
    if push.secret is None:
        yield no_push_secret("/secrets/hf")
    elif push.secret != spec.secrets.hf:  # which is looked up with the others
        try:
            secrets.check(tx, push.secret, project=project)
        except NotFound as error:
            yield FieldProblem("/output/push/secret", error.message, error.hint)


def no_push_secret(pointer: str) -> FieldProblem:
    """Return the problem of a push for which no token is named."""
    return FieldProblem(
        pointer,
        "a push to the Hub needs a token that may write, and none is named: workers have none of "
        "their own for it, which would be everybody's",
        "Store one with `luthier secrets set NAME`, and name it in secrets.hf, or in the push's "
        "own `secret`.",
    )


def num_weights_of(tx: Transaction, spec: JobSpec, *, project: str, home: Path) -> int | None:
    """Return the number of weights of a job's base model, where that can be told at once.

    Of a model of the Hub it is what a validation has found last: nobody is asked.
    """
    model = parse_model_reference(spec.model)
    if spec.scratch is not None:
        return None
    if model.scheme is Scheme.JOB:
        files = artifacts.of_job(tx, model.name)
        sizes = (file.size_bytes for file in files if file.path.endswith(".safetensors"))
        return sum(sizes) // WEIGHT_BYTES or None
    source = models.source(tx, model, project=project)
    if isinstance(source, Path):
        return num_weights_in(source)
    known = known_outline(source, home=home, project=project if spec.secrets.hf else None)
    return None if known is None else known.num_weights


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
