"""Which checkpoint a run goes on from, if any, and what it has to keep from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer_core.errors import DataChanged, NoUsableCheckpoint
from trainer_core.events import Logged, Reporter, Warned
from trainer_core.run_directory import LINEAGE, checkpoints_in, read_json
from trainer_core.spec import Choice, JobSpec, parse_spec
from trainer_core.training.loop.checkpoints import newest_whole
from trainer_core.training.loop.lineage import differences
from trainer_core.training.process.devices import Device
from trainer_core.training.process.directories import discard

_ORIGIN = {
    "spec_sha256": "spec",
    "base_model_revision": "revision of the base model",
    "base_model_fingerprint": "base model: its files have changed",
}
# Where to train, not what; and what follows from the micro-batch, which may have become smaller.
_LEFT_OPEN = ("/resources/gpus", "/evaluation/batch_size")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint of this very run."""

    path: Path
    lineage: Mapping[str, Any]  # of the attempt that saved it


def resumable(folder: Path, *, origin: Mapping[str, Any], reporter: Reporter) -> Checkpoint | None:
    """Return the newest whole checkpoint, or None to begin at the first step.

    Checkpoints of another origin are removed: they are newer by their steps than any to come.

    Raises:
        DataChanged: the rows are not those that the checkpoint was trained on.
        NoUsableCheckpoint: there are some, and none is whole.
    """
    path = newest_whole(folder, reporter=reporter)
    if path is None:
        if checkpoints_in(folder):
            raise NoUsableCheckpoint(
                "every checkpoint of this run is damaged; it does not begin anew by itself.",
                hint="Look at the worker's disk, then submit the job again.",
            )
        return None
    before = read_json(path / LINEAGE)
    if before["data_sha256"] != origin["data_sha256"]:
        raise DataChanged(
            f"the rows are not those that {path.name} was trained on.",
            hint="Submit a new job for the new rows.",
        )
    for name, what in _ORIGIN.items():
        if before.get(name, origin[name]) != origin[name]:  # an older version told less
            message = (
                f"{path.name} is of another {what}; training begins at the first step, and "
                "the checkpoints that there are are removed."
            )
            reporter.report(Warned("checkpoint_unusable", message))
            for one in checkpoints_in(folder):
                discard(one)
            return None
    return Checkpoint(path, before)


def keep_choices(
    spec: JobSpec, checkpoint: Checkpoint, *, device: Device
) -> tuple[JobSpec, tuple[Choice, ...]]:
    """Return the spec with each `auto` as it was decided for the checkpoint, and those choices.

    Decided anew they could differ: another memory gives another micro-batch. Left open is what
    this device can't do.
    """
    values = spec.model_dump(mode="json")
    kept = []
    for choice in (Choice(**values) for values in checkpoint.lineage.get("choices", ())):
        *parents, name = choice.pointer.strip("/").split("/")
        part: Any = values
        for parent in parents:
            part = part.get(parent, {})
        if part.get(name) == "auto" and _is_possible(choice, device):
            part[name] = choice.value
            kept.append(choice)
    return parse_spec(values), tuple(kept)


def _is_possible(choice: Choice, device: Device) -> bool:
    if choice.pointer == "/training/precision":
        return device.computes(str(choice.value))
    if choice.pointer == "/training/tf32":
        return device.has_tf32 or not choice.value
    return choice.pointer not in _LEFT_OPEN


def tell_resumption(
    checkpoint: Checkpoint, *, lineage: Mapping[str, Any], reporter: Reporter
) -> None:
    """Say where training goes on, and what keeps the result from being the same to the last bit."""
    if changed := differences(checkpoint.lineage, lineage):
        message = f"{', '.join(changed)} changed; the result may differ in the last digits."
        reporter.report(Warned("not_bit_exact", message))
    name = checkpoint.path.name
    reporter.report(Logged(f"resuming from {name}", {"checkpoint": name}))
