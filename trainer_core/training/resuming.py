"""Which checkpoint a run goes on from, if any."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer_core.errors import DataChanged
from trainer_core.events import Logged, Reporter, Warned
from trainer_core.run_directory import read_json
from trainer_core.training.checkpoints import LINEAGE, newest_whole
from trainer_core.training.lineage import differences


def resumable(folder: Path, *, lineage: Mapping[str, Any], reporter: Reporter) -> Path | None:
    """Return the newest whole checkpoint, or None to begin at the first step.

    Raises:
        DataChanged: the rows are not those that the checkpoint was trained on.
    """
    path = newest_whole(folder, reporter=reporter)
    if path is None:
        return None
    before = read_json(path / LINEAGE)
    if before["data_sha256"] != lineage["data_sha256"]:
        raise DataChanged(
            f"the rows are not those that {path.name} was trained on.",
            hint="Submit a new job for the new rows.",
        )
    if before["spec_sha256"] != lineage["spec_sha256"]:
        message = f"{path.name} is of another spec; training begins at the first step."
        reporter.report(Warned("checkpoint_unusable", message))
        return None
    if changed := differences(before, lineage):
        message = f"{', '.join(changed)} changed; the result may differ in the last digits."
        reporter.report(Warned("not_bit_exact", message))
    reporter.report(Logged(f"resuming from {path.name}", {"checkpoint": path.name}))
    return path
