"""Fetches the checkpoint that a job goes on from, where this machine does not have it."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jobs.records import Checkpoint
from jobs.storage import FileLost, Storage
from trainer_core.errors import NoUsableCheckpoint, ServiceUnavailable
from trainer_core.events import EventType
from trainer_core.run_directory import (
    MANIFEST,
    Result,
    RunDirectory,
    checkpoints_in,
    file_sha256,
    fsync_directory,
    read_json,
    step_of,
    verified_manifest,
)
from worker.patience import pauses, rest

_STATE = "trainer_state.json"

_log = logging.getLogger(__name__)


class Teller(Protocol):
    """Who writes to the database for this attempt."""

    def say(self, kind: EventType, data: dict[str, Any]) -> None:
        """Add an event of the worker's own."""

    def retire(self, checkpoint: Checkpoint) -> None:
        """Let a stored checkpoint go."""


def restore(
    storage: Storage,
    run: RunDirectory,
    stored: Sequence[Checkpoint],
    *,
    check: Callable[[], None],
    teller: Teller,
) -> None:
    """Bring the newest stored checkpoint that verifies, unless one as new is here already.

    With it comes the best one so far, which the model may be made of in the end.

    Args:
        storage: where they are.
        run: the run directory, with what an earlier attempt has left on this machine.
        stored: what there is, the latest step first.
        check: called again and again; what it raises ends the fetching.
        teller: told what is fetched and what is damaged.

    Raises:
        NoUsableCheckpoint: some are stored, none of them is whole, and none is here.
    """
    if not stored or is_trained(run):
        return
    fetching = _Fetching(storage, run.checkpoints, check, teller)
    here = _newest_whole_step(run, at_least=stored[-1].step)
    for one in stored:
        if one.step <= here:
            return
        if fetching.bring(one):
            fetching.bring_best(run.checkpoints / one.name, stored)
            return
    if not run.has_checkpoints:
        raise NoUsableCheckpoint(
            "every checkpoint of this job in the storage is damaged; it does not begin anew by "
            "itself.",
            hint="Look at the storage, then submit the job again.",
        )


def is_trained(run: RunDirectory) -> bool:
    """Return whether an earlier attempt had finished training, and only the storing failed."""
    outcome = run.read_outcome()
    return (
        outcome is not None
        and outcome.result is Result.SUCCEEDED
        and verified_manifest(run.model) is not None
    )


def _newest_whole_step(run: RunDirectory, *, at_least: int) -> int:
    """Return the step of the newest checkpoint on this machine that verifies, -1 if none does."""
    for path in reversed(checkpoints_in(run.checkpoints)):
        if step_of(path) < at_least:
            break  # whole or not, a stored one is newer
        if verified_manifest(path) is not None:
            return step_of(path)
    return -1


@dataclass(frozen=True, slots=True)
class _Fetching:
    """Fetches checkpoints of one job into a folder."""

    storage: Storage
    folder: Path
    check: Callable[[], None]
    teller: Teller

    def bring(self, one: Checkpoint) -> bool:
        """Fetch a checkpoint; return whether it is whole. One that is not is let go."""
        partial = self.folder / f".partial-{one.name}"
        for pause in pauses():
            shutil.rmtree(partial, ignore_errors=True)
            try:
                self._fetch(one, partial)
                break
            except FileLost:
                break
            except ServiceUnavailable as error:
                _log.warning("fetching %s failed, again in %d s: %s", one.name, pause, error)
                rest(pause, self.check)
        if not _is_whole(partial, one):
            shutil.rmtree(partial, ignore_errors=True)
            self._pass_over(one)
            return False
        _put_in_place(partial, self.folder / one.name)
        message = f"fetched {one.name} from the storage: this machine does not have it"
        self.teller.say(EventType.LOG, {"message": message, "fields": {"checkpoint": one.name}})
        return True

    def bring_best(self, newest: Path, stored: Sequence[Checkpoint]) -> None:
        """Fetch the best checkpoint up to another one, if it is stored and not here."""
        state = newest / _STATE
        step = read_json(state).get("best_global_step") if state.exists() else None
        best = next((one for one in stored if one.step == step), None)
        if best is not None and not (self.folder / best.name).exists():
            self.bring(best)

    def _fetch(self, one: Checkpoint, partial: Path) -> None:
        for file, key in zip(one.files, one.keys, strict=True):
            self.check()
            self.storage.fetch(key, partial / file["path"], check=self.check)

    def _pass_over(self, one: Checkpoint) -> None:
        message = f"{one.name} in the storage is damaged or incomplete and is passed over."
        hint = "Look at the storage if nothing was deleted there."
        warning = {"code": "stored_checkpoint_damaged", "message": message, "hint": hint}
        self.teller.say(EventType.WARNING, warning)
        self.teller.retire(one)


def _is_whole(folder: Path, one: Checkpoint) -> bool:
    """Return whether a folder holds the very files that were stored."""
    manifest = folder / MANIFEST
    is_same = manifest.is_file() and file_sha256(manifest) == one.files[-1]["sha256"]
    return is_same and verified_manifest(folder) is not None


def _put_in_place(partial: Path, path: Path) -> None:
    """Give a checkpoint its name; one of that name is damaged."""
    if path.exists():
        damaged = path.with_name(f".discarded-{path.name}")
        path.rename(damaged)
        shutil.rmtree(damaged)
    partial.rename(path)
    fsync_directory(path.parent)
