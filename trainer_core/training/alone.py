"""Training without a service, from Python: one call, one folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer_core.run_directory import Outcome, RunDirectory, write_json
from trainer_core.training.process.stopping import Stopping
from trainer_core.training.run import run


def train(
    folder: Path | str,
    spec: Mapping[str, Any],
    *,
    model: Path | str,
    rows: Mapping[str, Path | str],
    **inputs: Any,
) -> Outcome:
    """Train in this process and return how that ended; the model is in `folder/model`.

    Called again on the same folder it goes on from the newest checkpoint there.

    Args:
        folder: the run directory; made if it is not there.
        spec: a job's spec. What it says of `model` and of files is filled in from the following.
        model: folder of the base model.
        rows: file of each split: `train`, and `eval` or `test` where there are such files. Without
            `eval` the spec's `data.eval` says what is held out.
        inputs: further keys of `inputs.json`, such as `device="cpu"` or `num_threads=1`.
    """
    directory = write_run(folder, spec, model=model, rows=rows, **inputs)
    return run(directory, stopping=Stopping(directory))


def write_run(
    folder: Path | str,
    spec: Mapping[str, Any],
    *,
    model: Path | str,
    rows: Mapping[str, Path | str],
    **inputs: Any,
) -> RunDirectory:
    """Return a run directory that is ready to be trained on; the arguments are those of `train`."""
    directory = RunDirectory(Path(folder).resolve())
    directory.path.mkdir(parents=True, exist_ok=True)
    files = {split: Path(path).resolve() for split, path in rows.items()}
    references = {split: f"dataset:ds_{split:0>12}" for split in files}
    data = {**spec.get("data", {}), **references}
    write_json(directory.spec, {**spec, "model": "model:base", "data": data})
    given = {split: {"path": str(path), "name": path.name} for split, path in files.items()}
    write_json(directory.inputs, {"model": str(Path(model).resolve()), **given, **inputs})
    directory.outcome.unlink(missing_ok=True)
    directory.stop.unlink(missing_ok=True)
    return directory
