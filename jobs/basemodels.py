"""A job's base model as a folder that can be looked at, where its weights need not be whole."""

from pathlib import Path

from jobs.backends import Backends
from jobs.records import Artifact
from jobs.store import artifacts, models
from jobs.weights import header_bytes
from trainer_core.spec import JobSpec, Scheme, parse_model_reference

_LENGTH_BYTES = 8
_MAX_SMALL_BYTES = 100 << 20  # of a file that is copied whole: the largest are tokenizers


class NotHere(Exception):
    """The model's files can't be had here; the message says why."""


def model_folder(backends: Backends, spec: JobSpec, folder: Path, *, project: str) -> Path:
    """Return a folder with the base model of a job, or raise NotHere.

    Args:
        backends: where models are registered and kept.
        spec: of the job, whose reference was looked up.
        folder: to be filled, where the model is that of another job.
        project: in which the model is registered.
    """
    model = parse_model_reference(spec.model)
    if model.checkpoint is not None:
        raise NotHere("checkpoints of jobs are opened by workers alone")
    with backends.database.transaction() as tx:
        if model.scheme is Scheme.JOB:
            files = artifacts.of_job(tx, model.name)
        else:
            files = []
            path = None
            if model.scheme is Scheme.MODEL:
                path = models.get(tx, model.name, project=project).path
            if path is None:
                raise NotHere("models of the Hub are fetched by workers, when a job needs them")
            if not Path(path).is_dir():
                raise NotHere("the model's folder is not on this machine of the API")
            return Path(path)
    for file in files:
        _copy(backends, file, folder / file.path)
    return folder


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
