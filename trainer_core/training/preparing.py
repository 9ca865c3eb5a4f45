"""What a run starts from: its inputs, its rows as a survey found them, its device."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from transformers.utils import logging

from trainer_core.events import Reporter, Warned
from trainer_core.rows.checking import Survey
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import Inputs, RunDirectory
from trainer_core.spec import JobSpec, unused
from trainer_core.training.data.caching import Cache
from trainer_core.training.data.surveying import known_survey
from trainer_core.training.loop.lineage import data_hashes
from trainer_core.training.process import processes
from trainer_core.training.process.devices import Device, choose_device

OWN_CACHE = "cache"  # of what is made of rows, where it is not kept for other runs


@dataclass(frozen=True, slots=True)
class Given:
    """What a run starts from."""

    spec: JobSpec  # as given
    inputs: Inputs
    files: Mapping[str, InputFile]  # by split
    hashes: Mapping[str, str]  # of the files
    found: Survey
    device: Device
    cache: Cache


def open_cache(inputs: Inputs, directory: RunDirectory, *, reporter: Reporter) -> Cache:
    """Return the cache that the inputs name, or one of this run alone."""
    kept = inputs.cache
    if kept is not None:
        try:
            return Cache(kept.path, max_bytes=kept.max_bytes)
        except OSError as error:
            message = f"tokens are not kept for other jobs: {kept.path} can't be used ({error})."
            reporter.report(Warned("cache_unusable", message))
    return Cache(directory.path / OWN_CACHE)


def prepare(spec: JobSpec, *, inputs: Inputs, cache: Cache, reporter: Reporter) -> Given:
    """Look at all rows, and tell what of the spec they leave without use."""
    device = choose_device(inputs, spec)  # first: no row is read for a device that is not there
    num_threads = inputs.num_threads
    _use_threads(num_threads and max(1, num_threads // processes.num_processes()))
    splits = {"train": inputs.train, "eval": inputs.eval, "test": inputs.test}
    files = {split: file for split, file in splits.items() if file is not None}
    hashes = processes.made_by_first(partial(data_hashes, files))
    files = {split: replace(file, sha256=hashes[split]) for split, file in files.items()}
    found = processes.made_by_first(partial(known_survey, cache, spec, files))
    _tell(spec, found, reporter=reporter)
    return Given(spec, inputs, files, hashes, found, device, cache)


def _tell(spec: JobSpec, found: Survey, *, reporter: Reporter) -> None:
    for problem in unused(found.spec):  # which columns there are says what rows can use
        name = problem.pointer.strip("/").replace("/", ".")
        reporter.report(Warned("setting_unused", f"{name} {problem.message}.", problem.hint))
    strategy = spec.resources.parallel.strategy
    if strategy != "ddp" and processes.num_processes() == 1:
        message = f"resources.parallel.strategy {strategy} is not used: there is one process."
        reporter.report(Warned("setting_unused", message, "Leave it out."))
    if found.num_skipped:
        message = f"{found.num_skipped} bad rows are left out, as data.invalid_rows says."
        reporter.report(Warned("rows_skipped", message))


def _use_threads(number: int | None) -> None:
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if number is not None:
        torch.set_num_threads(number)
        os.environ["RAYON_NUM_THREADS"] = str(number)  # the tokenizers' threads
    # Said aloud, the tokenizers do not warn of data loader workers.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if number == 1 else "true")
