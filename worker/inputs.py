"""From a job to a run directory that a training process can work on."""

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.backends import Backends
from jobs.records import Artifact, Job
from jobs.store import artifacts, models
from jobs.submission import datasets_of, files_of
from trainer_core.errors import ModelNotFound, ServiceUnavailable, UnusableModel
from trainer_core.run_directory import Inputs, RunDirectory, write_json
from trainer_core.spec import Reference, Scheme, parse_model_reference, parse_spec

_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""What is fetched of a Hub repository: no pickle, no code."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _BaseModel:
    path: Path
    revision: str | None = None


@contextmanager
def prepare(backends: Backends, job: Job, *, device: str | None) -> Iterator[RunDirectory]:
    """Give a run directory with the spec, the rows and the model of a job.

    Checkpoints that an earlier attempt left on this machine are taken over.
    """
    run = RunDirectory(directory_of(backends, job))
    run.path.mkdir(parents=True, mode=0o700)
    _take_over_checkpoints(run, before=job.attempt)
    spec = parse_spec(job.spec)
    with backends.database.transaction() as tx:
        found = datasets_of(tx, spec)
    with ExitStack() as stack:
        files = stack.enter_context(files_of(backends.storage, found))
        model = _model(backends, parse_model_reference(job.model), run)
        inputs = Inputs(
            model=model.path,
            train=files["train"],
            eval=files.get("eval"),
            test=files.get("test"),
            model_revision=model.revision,
            num_threads=backends.settings.num_training_threads,
            device=device,
        )
        write_json(run.spec, job.spec)
        write_json(run.inputs, inputs.to_dict())
        yield run


def directory_of(backends: Backends, job: Job) -> Path:
    """Return the path of the run directory of a job's present attempt."""
    return backends.settings.home / "runs" / job.id / f"attempt-{job.attempt}"


def _take_over_checkpoints(run: RunDirectory, *, before: int) -> None:
    for number in range(before - 1, 0, -1):
        left = RunDirectory(run.path.with_name(f"attempt-{number}")).checkpoints
        if left.is_dir():
            left.rename(run.checkpoints)
            _log.info("took over the checkpoints of attempt %d: %s", number, run.checkpoints)
            return


def _model(backends: Backends, reference: Reference, run: RunDirectory) -> _BaseModel:
    match reference.scheme:
        case Scheme.HUB:
            return _from_hub(backends, reference.name, reference.revision)
        case Scheme.JOB:
            return _BaseModel(_from_job(backends, reference.name, run), reference.name)
        case _:
            with backends.database.transaction() as tx:
                registered = models.get(tx, reference.name)
            if registered.hub is not None:
                return _from_hub(backends, registered.hub, registered.revision)
            assert registered.path is not None, f"model {registered.name} has no source"
            return _BaseModel(Path(registered.path))


def _from_job(backends: Backends, job_id: str, run: RunDirectory) -> Path:
    with backends.database.transaction() as tx:
        files: list[Artifact] = artifacts.of_job(tx, job_id)
    if not files:
        raise UnusableModel(f"job {job_id} has no model.", hint="Choose another.", param="model")
    folder = run.path / "inputs" / "model"
    for file in files:
        backends.storage.fetch(file.key, folder / file.path)
    return folder


def _from_hub(backends: Backends, repository: str, revision: str | None) -> _BaseModel:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"hub:{repository}" + (f"@{revision}" if revision else "")
    try:
        path = snapshot_download(
            repository,
            revision=revision,
            cache_dir=backends.settings.home / "hub",
            allow_patterns=list(_MODEL_FILES),
            token=False,  # the operator's own token must not open repositories to tenants
        )
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{name} is gated, and this service has no token that may read it.",
            hint="Download it by hand and register its folder with `luthier models add`.",
            param="model",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelNotFound(
            f"the Hub has no {name}, or does not show it to this service.",
            hint="Check the name and the revision.",
            param="model",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ServiceUnavailable(
            f"{name} could not be fetched from the Hub: {str(error).partition(chr(10))[0]}",
            hint="Register a local folder with `luthier models add NAME --path DIR` instead.",
            param="model",
        ) from error
    return _BaseModel(Path(path), Path(path).name)


def read_resolved(run: RunDirectory) -> dict[str, object] | None:
    """Return what the run made of the spec's `auto`s, once it has said so."""
    if not run.resolved.exists():
        return None
    values: dict[str, object] = json.loads(run.resolved.read_text(encoding="utf-8"))
    return values
