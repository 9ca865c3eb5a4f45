"""Group C and K2: checkpoints that are cut, damaged or of other rows, on runs without a worker."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.drills.plan import Drill
from tests.drills.site import Site, until
from tests.drills.work import NUM_STEPS, Work, spec_of
from trainer_core.failpoints import VARIABLE
from trainer_core.run_directory import Outcome, RunDirectory, file_sha256, write_json
from worker.process import TrainingProcess

_RUN_SECONDS = 60
_CALLS = "write,pwrite64,fsync,rename,unlink,rmdir,ftruncate"
"""What a save and a rotation ask of the system."""


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    last = NUM_STEPS - 1
    return [
        Drill(
            "K2",
            "killed at the N-th write, sync, rename, unlink",
            "resumes",
            trials.k2,
            100,
            obstacle=_obstacle_to_tracing(),
        ),
        Drill("C1", "stopped at step N and resumed", "same weights", trials.c1, last),
        Drill("C2", "newest checkpoint: a file cut, flipped, gone", "passed over", trials.c2, 40),
        Drill("C4", "every checkpoint bad", "an explicit failure", trials.c4, 10),
        Drill("C9", "rows changed between attempts", "refused", trials.c9, 20),
    ]


def _obstacle_to_tracing() -> str | None:
    """Return why strace can't attach to a process of another parent, if it can't."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    is_free = os.geteuid() == 0 or not scope.exists() or scope.read_text().strip() == "0"
    return None if is_free else "only root may trace here"


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._calls: list[str] = []  # of an undisturbed run, in order
        self._steps: list[int] = []  # at which C1 still has to stop

    def k2(self, site: Site, chance: random.Random) -> None:
        with _run(site, self._work) as run:
            self._calls = self._calls or _calls_of(site, run)
            place = chance.randrange(len(self._calls))
            name = self._calls[place]
            number = self._calls[: place + 1].count(name)  # strace counts each kind by itself
            process = _start(site, run, strace=f"inject={name}:signal=SIGKILL:when={number}")
            assert _end(process) == -signal.SIGKILL, f"it outlived {name} number {number}"
            self._assert_resumes(site, run)

    def c1(self, site: Site, chance: random.Random) -> None:
        self._steps = self._steps or chance.sample(range(1, NUM_STEPS), NUM_STEPS - 1)
        step = self._steps.pop()
        with _run(site, self._work) as run:
            _stop_at(site, run, step)
            self._assert_resumes(site, run)

    def c2(self, site: Site, chance: random.Random) -> None:
        with _run(site, self._work) as run:
            _stop_at(site, run, 25)
            newest = run.checkpoints / "checkpoint-25"
            file = chance.choice(sorted(p for p in newest.rglob("*") if p.is_file()))
            chance.choice([_empty, _halve, _flip, Path.unlink])(file)
            self._assert_resumes(site, run)
            passed_over = [w for w in _warnings(run) if w["code"] == "checkpoint_damaged"]
            assert "checkpoint-25" in passed_over[0]["message"], passed_over

    def c4(self, site: Site, chance: random.Random) -> None:
        with _run(site, self._work) as run:
            _stop_at(site, run, 25)
            for checkpoint in run.checkpoints.glob("checkpoint-*"):
                _flip(chance.choice(sorted(p for p in checkpoint.rglob("*") if p.is_file())))
            outcome = _carry_out(site, run)
            assert outcome.error is not None, outcome
            assert outcome.error.code == "no_usable_checkpoint", outcome.error

    def c9(self, site: Site, chance: random.Random) -> None:
        with _run(site, self._work) as run:
            _stop_at(site, run, 25)
            rows = run.path / "rows.csv"
            header, *lines = rows.read_text().splitlines()
            change: Callable[[list[str]], list[str]] = chance.choice(
                [
                    lambda old: [*old, old[0]],
                    lambda old: old[1:],
                    lambda old: old[::-1],
                    lambda old: [old[0].replace("it", "that"), *old[1:]],
                ]
            )
            rows.write_text("\n".join([header, *change(lines)]) + "\n")
            outcome = _carry_out(site, run)
            assert outcome.error is not None, outcome
            assert outcome.error.code == "data_changed", outcome.error

    def _assert_resumes(self, site: Site, run: RunDirectory) -> None:
        before = _newest_sealed(run)
        outcome = _carry_out(site, run)
        assert outcome.error is None, outcome.error
        assert file_sha256(run.model / "model.safetensors") == self._work.weights
        resumed = [line["data"]["message"] for line in _lines(run) if line["type"] == "log"]
        is_resumed = any("resuming from" in message for message in resumed)
        assert is_resumed or before is None, "a whole checkpoint was there and not used"


@contextmanager
def _run(site: Site, work: Work) -> Iterator[RunDirectory]:
    """Give a run directory for the job that drills submit."""
    folder = site.settings.home.parent / "alone"
    folder.mkdir()
    run = RunDirectory(folder)
    (folder / "rows.csv").write_text(work.rows)
    write_json(run.spec, spec_of(work.dataset))
    model = site.settings.model_roots[0] / "encoder"
    train = {"path": "rows.csv", "name": "colours.csv"}
    inputs = {"model": str(model), "train": train, "num_threads": 1, "device": "cpu"}
    write_json(run.inputs, inputs)
    try:
        yield run
    finally:
        shutil.rmtree(folder)


def _start(
    site: Site, run: RunDirectory, *, failpoints: str = "", strace: str = ""
) -> TrainingProcess:
    """Start a training process on a run, with faults.

    Args:
        site: has the fork server.
        run: fresh, or to be gone on with.
        failpoints: LUTHIER_FAILPOINTS.
        strace: what strace is to inject.
    """
    run.outcome.unlink(missing_ok=True)
    run.stop.unlink(missing_ok=True)
    os.environ[VARIABLE] = failpoints
    try:
        process = TrainingProcess(
            log=run.path / "process.txt", num_threads=1, fork_server=site.settings.fork_server
        )
    finally:
        del os.environ[VARIABLE]
    if strace:
        told = run.path.with_name("strace.txt")
        told.unlink(missing_ok=True)
        command = ["strace", "-q", "-f", "-o", str(told), "-p", str(process.pid), "-e", strace]
        # Nobody's child: it ends with the process that it traces.
        subprocess.run(["sh", "-c", f"{shlex.join(command)} &"], check=True)
        until(lambda: _is_traced(process.pid), seconds=10, what="strace")
    process.start(run.path, trackers=[])
    return process


def _end(process: TrainingProcess) -> int:
    until(lambda: process.poll() is not None, seconds=_RUN_SECONDS, what="the run")
    return process.kill()


def _carry_out(site: Site, run: RunDirectory, *, failpoints: str = "") -> Outcome:
    code = _end(_start(site, run, failpoints=failpoints))
    outcome = run.read_outcome()
    assert outcome is not None, f"exit code {code} and no outcome: {run.log.read_text()[-2000:]}"
    return outcome


def _stop_at(site: Site, run: RunDirectory, step: int) -> None:
    outcome = _carry_out(site, run, failpoints=f"step.ended:term:{step}")
    assert (outcome.result, outcome.step) == ("stopped", step), outcome


def _calls_of(site: Site, run: RunDirectory) -> list[str]:
    """Return the names of the calls at which K2 kills a run, of one that is left alone."""
    process = _start(site, run, strace=f"trace={_CALLS}")
    pid = str(process.pid)
    assert _end(process) == 0
    time.sleep(0.5)  # strace writes its last lines
    told = run.path.with_name("strace.txt").read_text().splitlines()
    for path in (run.checkpoints, run.model):
        shutil.rmtree(path)
    return [match[1] for line in told if (match := re.match(rf"{pid} +(\w+)\(", line))]


def _is_traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return "TracerPid:\t0" not in status


def _newest_sealed(run: RunDirectory) -> Path | None:
    found = sorted(run.checkpoints.glob("checkpoint-*/manifest.json"))
    return found[-1] if found else None


def _lines(run: RunDirectory) -> list[dict[str, Any]]:
    lines = []
    for text in run.events.read_text("utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # cut by a kill
            continue
    return lines


def _warnings(run: RunDirectory) -> list[dict[str, Any]]:
    return [line["data"] for line in _lines(run) if line["type"] == "warning"]


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
