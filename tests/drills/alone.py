"""Runs without a worker, for drills of what a training process keeps on its disk."""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.drills.site import Site, until
from tests.drills.work import Work, spec_of
from trainer_core.failpoints import VARIABLE
from trainer_core.run_directory import Outcome, RunDirectory, file_sha256, write_json
from worker.process import TrainingProcess

_RUN_SECONDS = 60


def obstacle_to_tracing() -> str | None:
    """Return why strace can't attach to a process of another parent, if it can't."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    is_free = os.geteuid() == 0 or not scope.exists() or scope.read_text().strip() == "0"
    return None if is_free else "only root may trace here"


@dataclass(frozen=True, slots=True)
class Alone:
    """A run directory for the job that drills submit, and what carries it out."""

    site: Site
    work: Work
    run: RunDirectory

    def start(self, *, failpoints: str = "", strace: str = "") -> TrainingProcess:
        """Start a training process on the run, with faults.

        Args:
            failpoints: LUTHIER_FAILPOINTS.
            strace: what strace is to trace or inject.
        """
        run = self.run
        run.outcome.unlink(missing_ok=True)
        run.stop.unlink(missing_ok=True)
        os.environ[VARIABLE] = failpoints
        server = self.site.settings.fork_server
        try:
            process = TrainingProcess(
                log=run.path / "process.txt", num_threads=1, fork_server=server
            )
        finally:
            del os.environ[VARIABLE]
        if strace:
            self.told.unlink(missing_ok=True)
            options = ["-q", "-f", "-y", "-o", str(self.told), "-p", str(process.pid)]
            calls = strace.partition("=")[2].partition(":")[0]
            command = ["strace", *options, "-e", f"trace={calls}", "-e", strace]
            # Nobody's child: it ends with the process that it traces.
            subprocess.run(["sh", "-c", f"{shlex.join(command)} &"], check=True)
            until(lambda: _is_traced(process.pid), seconds=10, what="strace")
        process.start(run.path, trackers=[])
        return process

    @property
    def told(self) -> Path:
        """The file in which strace tells what it saw."""
        return self.run.path.with_name("strace.txt")

    def carry_out(self, *, failpoints: str = "", strace: str = "") -> Outcome:
        """Run to the end, which has to come with an outcome."""
        code = end(self.start(failpoints=failpoints, strace=strace))
        outcome = self.run.read_outcome()
        log = self.run.log.read_text("utf-8", errors="replace") if self.run.log.exists() else ""
        assert outcome is not None, f"exit code {code} and no outcome: {log[-2000:]}"
        return outcome

    def stop_at(self, step: int) -> None:
        """Run up to a step, and save there."""
        outcome = self.carry_out(failpoints=f"step.ended:term:{step}")
        assert (outcome.result, outcome.step) == ("stopped", step), outcome

    def assert_resumes(self) -> None:
        """Run again without a fault: to the weights of an undisturbed run, from what is whole."""
        before = newest_sealed(self.run)
        outcome = self.carry_out()
        assert outcome.error is None, outcome.error
        assert file_sha256(self.run.model / "model.safetensors") == self.work.weights
        resumed = [line["data"]["message"] for line in self.lines() if line["type"] == "log"]
        is_resumed = any("resuming from" in message for message in resumed)
        assert is_resumed or before is None, "a whole checkpoint was there and not used"

    def calls(self, names: str) -> list[str]:
        """Return the lines of strace on such calls of a run that is left alone, in order.

        They are those of the main thread, and the run is as if it had not been.
        """
        process = self.start(strace=f"trace={names}")
        pid = str(process.pid)
        assert end(process) == 0
        time.sleep(0.5)  # strace writes its last lines
        told = self.told.read_text("utf-8", errors="replace").splitlines()
        self.clear()
        return [line[len(pid) :].lstrip() for line in told if re.match(rf"{pid} +\w+\(", line)]

    def clear(self) -> None:
        """Forget what a run made."""
        for path in (self.run.checkpoints, self.run.model):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.run.events, self.run.outcome):
            path.unlink(missing_ok=True)

    def lines(self) -> list[dict[str, Any]]:
        """Return the events that the run has told, but what a kill has cut."""
        lines = []
        for text in self.run.events.read_text("utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines

    def warnings(self) -> list[dict[str, Any]]:
        """Return what the run has warned of."""
        return [line["data"] for line in self.lines() if line["type"] == "warning"]


@contextmanager
def alone(site: Site, work: Work, **changes: Any) -> Iterator[Alone]:
    """Give a run directory for the job that drills submit.

    Args:
        site: has the fork server and the model.
        work: has the rows.
        changes: of the spec.
    """
    folder = site.settings.home.parent / "alone"
    folder.mkdir()
    run = RunDirectory(folder)
    (folder / "rows.csv").write_text(work.rows)
    write_json(run.spec, spec_of(work.dataset, **changes))
    write_inputs(site, run)
    try:
        yield Alone(site, work, run)
    finally:
        shutil.rmtree(folder)


def write_inputs(site: Site, run: RunDirectory, *, num_threads: int = 1) -> None:
    """Say to a run where everything is."""
    model = site.settings.model_roots[0] / "encoder"
    train = {"path": "rows.csv", "name": "colours.csv"}
    inputs = {"model": str(model), "train": train, "num_threads": num_threads, "device": "cpu"}
    write_json(run.inputs, inputs)


def end(process: TrainingProcess) -> int:
    """Wait for a process and return its exit code."""
    until(lambda: process.poll() is not None, seconds=_RUN_SECONDS, what="the run")
    return process.kill()


def newest_sealed(run: RunDirectory) -> Path | None:
    """Return the newest checkpoint that has a manifest."""
    found = sorted(
        run.checkpoints.glob("checkpoint-*/manifest.json"),
        key=lambda path: int(path.parent.name.rpartition("-")[2]),
    )
    return found[-1].parent if found else None


def _is_traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return "TracerPid:\t0" not in status
