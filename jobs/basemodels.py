"""A job's base model as a folder that can be looked at, where its weights need not be whole."""

from pathlib import Path

from jobs.backends import Backends
from jobs.outlines import fetch_outline
from jobs.records import Artifact
from jobs.sealing import cipher_of
from jobs.store import artifacts, models, secrets
from jobs.weights import header_bytes
from trainer_core.errors import ServiceUnavailable
from trainer_core.spec import JobSpec, Reference, Scheme, parse_model_reference

_LENGTH_BYTES = 8
_MAX_SMALL_BYTES = 100 << 20  # of a file that is copied whole: the largest are tokenizers


class NotHere(Exception):
    """The model's files can't be had here; the message says why."""


def model_folder(
    backends: Backends, spec: JobSpec, folder: Path, *, project: str, may_use_secrets: bool
) -> Path:
    """Return a folder with the base model of a job, or raise NotHere.

    Args:
        backends: where models are registered and kept.
        spec: of the job, whose references were looked up.
        folder: to be filled, where the model is that of another job.
        project: in which the model is registered.
        may_use_secrets: a model of the Hub may be fetched with the token that the job names.

    Raises:
        ModelNotFound: the Hub has no such model, or does not show it.
    """
    model = parse_model_reference(spec.model)
    if model.checkpoint is not None:
        raise NotHere("checkpoints of jobs are opened by workers alone")
    if model.scheme is Scheme.JOB:
        with backends.database.transaction() as tx:
            files = artifacts.of_job(tx, model.name)
        for file in files:
            _copy(backends, file, folder / file.path)
        return folder
    with backends.database.transaction() as tx:
        source = models.source(tx, model, project=project)
    if not isinstance(source, Path):
        return _from_hub(backends, spec, source, project=project, may_use_secrets=may_use_secrets)
    if not source.is_dir():
        raise NotHere("the model's folder is not on this machine of the API")
    return source


def _from_hub(
    backends: Backends, spec: JobSpec, model: Reference, *, project: str, may_use_secrets: bool
) -> Path:
    settings, name, token = backends.settings, spec.secrets.hf, None
    if name is not None:
        if not may_use_secrets:
            raise NotHere("the model needs a secret, which a key that may only read does not use")
        with backends.database.transaction() as tx:
            token = secrets.reveal(tx, name, project=project, cipher=cipher_of(settings))
    owner = None if token is None else project
    try:
        return fetch_outline(model, home=settings.home, project=owner, token=token).folder
    except (ServiceUnavailable, OSError) as error:
        raise NotHere(str(error)) from error


def _copy(backends: Backends, file: Artifact, target: Path) -> None:
    """Copy a file; of weights only the header, in a file with holes of their size."""
    if file.path.endswith(".safetensors"):
        start = b"".join(backends.storage.read(file.key, start=0, end=_LENGTH_BYTES))
        end = min(header_bytes(start), file.size_bytes)
    elif file.size_bytes <= _MAX_SMALL_BYTES:
        end = file.size_bytes
    else:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as copy:
        for chunk in backends.storage.read(file.key, start=0, end=end):
            copy.write(chunk)
        copy.truncate(file.size_bytes)
