"""Run directories to measure on, and what a finished run says of itself."""

import json
import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PLAIN_TRAINING: dict[str, Any] = {"warmup_ratio": 0.0, "weight_decay": 0.0}
"""What `TrainingArguments` has by default where we have something else."""

QUIET_PEER: dict[str, Any] = {
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}
"""Settings of every `Trainer` that is measured: nothing but training, on the CPU."""


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def carry_out(
    folder: Path, *, model: Path, spec: dict[str, Any], rows: dict[str, Path]
) -> dict[str, Any]:
    """Carry out a run of ours and return its figures.

    Args:
        folder: of the run; it must not be there yet.
        model: base model.
        spec: what differs from the default; its `model` and `data.train` are set here.
        rows: split -> file.
    """
    from trainer_core.run_directory import Result, RunDirectory
    from trainer_core.training.alone import train

    folder.mkdir(parents=True)
    directory = RunDirectory(folder)
    wanted = {**spec, "data": {"eval": None, **spec.get("data", {})}}
    begun = time.process_time()
    outcome = train(folder, wanted, model=model, rows=rows, num_threads=1, device="cpu")
    assert outcome.result is Result.SUCCEEDED, outcome.error
    lineage = json.loads(directory.lineage.read_text("utf-8"))
    return {
        "cpu_seconds": time.process_time() - begun,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": lineage["seconds"],
        "metrics": dict(outcome.metrics),
        "steps": outcome.step,
        "tokens": _num_tokens(directory.events),
    }


def _num_tokens(events: Path) -> int:
    lines = (json.loads(line) for line in events.read_text("utf-8").splitlines())
    told = [line["data"]["num_tokens"] for line in lines if line["type"] == "progress"]
    return int(told[-1])


class TrainingClock:
    """CPU seconds from the first step to the last one, evaluations in between among them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = 0.0

    def start(self) -> None:
        self._begun = time.process_time()

    def stop(self) -> None:
        self.seconds = time.process_time() - self._begun


@contextmanager
def watched_training(*callbacks: Any) -> Iterator[TrainingClock]:
    """Time the training of runs in this process, and let the Trainer's callbacks see it."""
    from trainer_core.training.loop.run_loop import RunLoop

    loop_class: Any = RunLoop
    clock, fit = TrainingClock(), loop_class.fit

    def timed(loop: Any, **options: Any) -> None:
        for callback in callbacks:
            loop.add_callback(callback)
        clock.start()
        fit(loop, **options)
        clock.stop()

    loop_class.fit = timed
    try:
        yield clock
    finally:
        loop_class.fit = fit
