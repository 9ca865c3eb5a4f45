"""From a job to a run directory that a training process can work on."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.backends import Backends
from jobs.hub import fetch
from jobs.records import Dataset, Job
from jobs.sealing import cipher_of
from jobs.store import artifacts, checkpoints, fine_tunes, models, permissions, secrets
from jobs.submission import datasets_of, files_of
from jobs.transaction import Transaction
from trainer_core.errors import UnusableModel
from trainer_core.run_directory import (
    LINEAGE,
    CacheFolder,
    Inputs,
    RunDirectory,
    checkpoints_in,
    read_json,
    write_json,
)
from trainer_core.spec import JobSpec, Reference, Scheme, parse_model_reference, parse_spec

_TAKEN_OVER = ("checkpoints", "evaluations", "model", "outcome.json", "tracking")
"""What an earlier attempt has done that need not be done again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job trains on, as the database knows it."""

    datasets: Mapping[str, Dataset]  # by split
    folder: Path | None = None  # the base model, if it is registered by path
    hub: Reference | None = None  # or if it comes from the Hub
    files: Mapping[str, str] = field(default_factory=dict)  # or if a job made it: path to key
    environment: Mapping[str, str] = field(default_factory=dict)  # of its process: where to track
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)  # by use


def read_needs(backends: Backends, job: Job) -> Needs:
    """Return what a job trains on, with the secrets that it names.

    Raises:
        NotFound: a data set, the model, the checkpoint or a secret is no longer known.
        UnusableModel: the job that is to give the model has none.
    """
    spec = parse_spec(job.spec)
    with backends.database.transaction() as tx:
        revealed = {
            use: secrets.reveal(tx, name, project=job.project, cipher=cipher_of(backends.settings))
            for use, name in spec.secrets.given().items()
        }
    return replace(_sources(backends, job, spec), secrets=revealed)


def _sources(backends: Backends, job: Job, spec: JobSpec) -> Needs:
    model = parse_model_reference(job.model)
    with backends.database.transaction() as tx:
        needs = Needs(
            datasets_of(tx, spec, project=job.project),
            environment=fine_tunes.tracking_of(tx, job.id),
        )
        if model.scheme is Scheme.JOB:
            return replace(needs, files=_files_of_job(tx, model, project=job.project))
        source = models.source(tx, model, project=job.project)
    if isinstance(source, Path):
        return replace(needs, folder=source)
    return replace(needs, hub=source)


def _files_of_job(tx: Transaction, model: Reference, *, project: str) -> dict[str, str]:
    if model.checkpoint is not None:
        step = model.checkpoint
        source = permissions.source_job(tx, model.name, step=step, project=project)
        checkpoint = checkpoints.get(tx, source.id, step, project=source.project)
        return {file.path: file.key for file in checkpoint.artifacts}
    files = artifacts.of_job(tx, model.name)
    if not files:
        raise UnusableModel(
            f"job {model.name} has no model.", hint="Choose another.", param="model"
        )
    return {file.path: file.key for file in files}


@contextmanager
def prepare(
    backends: Backends,
    job: Job,
    needs: Needs,
    *,
    device: str | None,
    check: Callable[[], None],
    restore: Callable[[], None],
) -> Iterator[RunDirectory]:
    """Give a run directory with the spec, the rows and the model of a job.

    Args:
        backends: where the rows are.
        job: the job, claimed.
        needs: what it trains on.
        device: where to train; None for the best there is.
        check: called between files; what it raises ends the preparing.
        restore: called once what is left on this machine is there; brings what others have stored.
    """
    run = RunDirectory(directory_of(backends, job))
    run.path.mkdir(parents=True, mode=0o700)
    _take_over(run, before=job.attempt)
    restore()
    with files_of(backends.storage, needs.datasets) as files:
        check()
        model = _model_folder(backends, job, needs, run, check)
        inputs = Inputs(
            model=model,
            train=files["train"],
            eval=files.get("eval"),
            test=files.get("test"),
            model_revision=model.name if needs.hub else None,
            num_threads=backends.settings.num_training_threads,
            device=device,
            num_processes=_num_processes(job, device),
            cache=_cache_of(backends),
            memory_bytes=backends.settings.job_memory_bytes,
            micro_batch_size=job.micro_batch_size,
            run_id=job.id,
        )
        write_json(run.spec, job.spec)
        write_json(run.inputs, inputs.to_dict())
        yield run


def _num_processes(job: Job, device: str | None) -> int:
    """Return one for each GPU that the job asks for; the run says so if there are not as many."""
    gpus = job.spec["resources"]["gpus"]
    has_several = device in (None, "cuda")  # as far as is known without torch
    return gpus if has_several and isinstance(gpus, int) and gpus > 1 else 1


def _cache_of(backends: Backends) -> CacheFolder | None:
    settings = backends.settings
    if not settings.token_cache_bytes:
        return None
    return CacheFolder(settings.home / "cache" / "tokens", settings.token_cache_bytes)


def directory_of(backends: Backends, job: Job) -> Path:
    """Return the path of the run directory of a job's present attempt."""
    return runs_of(backends) / job.id / f"attempt-{job.attempt}"


def runs_of(backends: Backends) -> Path:
    """Return the folder of the run directories of all jobs on this machine."""
    return backends.settings.home / "runs"


def _take_over(run: RunDirectory, *, before: int) -> None:
    for number in range(before - 1, 0, -1):
        earlier = run.path.with_name(f"attempt-{number}")
        if earlier.is_dir():
            for name in _TAKEN_OVER:
                if (earlier / name).exists():
                    (earlier / name).rename(run.path / name)
            _log.info("attempt %d goes on with what attempt %d has done", before, number)
            return


def _model_folder(
    backends: Backends, job: Job, needs: Needs, run: RunDirectory, check: Callable[[], None]
) -> Path:
    if needs.folder is not None:
        return needs.folder
    if needs.hub is not None:
        token = needs.secrets.get("hf")
        cache = backends.settings.home / "hub"
        if token is not None:
            cache = cache / "of-projects" / job.project  # what may be nobody else's to see
        revision = _commit_before(run) or needs.hub.revision
        return fetch(needs.hub.name, revision=revision, cache=cache, check=check, token=token)
    folder = run.path / "inputs" / "model"
    for path, key in needs.files.items():
        backends.storage.fetch(key, folder / path, check=check)
    return folder


def _commit_before(run: RunDirectory) -> str | None:
    """Return the commit of the base model that earlier attempts had: a branch may have moved."""
    earlier = sorted(run.path.parent.glob("attempt-*/inputs.json"))
    commits = [read_json(path).get("model_revision") for path in earlier]
    # On another machine only a checkpoint tells.
    told = [one / LINEAGE for one in checkpoints_in(run.checkpoints)]
    commits += [read_json(path).get("base_model_revision") for path in told if path.exists()]
    return next((commit for commit in commits if commit), None)
