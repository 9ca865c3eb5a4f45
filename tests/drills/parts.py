"""The processes of a service under drill: each can be killed, frozen or told to leave.

They are forked from a process that has imported everything: a drill of a hundred kills would else
be an hour of imports.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from jobs.settings import PREFIX

_FORKS = multiprocessing.get_context("forkserver")
_PRELOADED = ["api.app", "api.serving", "luthier.cli.main", "luthier.cli.service", "worker.main"]


@dataclass(slots=True)
class Part:
    """A process of the service, the leader of its own session."""

    process: Any
    log: Path
    _is_gone: bool = False

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def is_alive(self) -> bool:
        return bool(self.process.is_alive())

    def kill_group(self) -> None:
        """SIGKILL it and its pool, but not the training processes, which lead groups of theirs."""
        if not self._is_gone:  # later its number may be a stranger's
            self._is_gone = True
            self.send_to_group(signal.SIGKILL)
            self.process.join(30)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def send_to_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def stop(self, *, seconds: float = 60) -> None:
        """End it in order, and by force where that takes too long."""
        if self.is_alive():
            self.send(signal.SIGTERM)
            self.process.join(seconds)
        self.kill_group()


class Executed:
    """A process that runs a program of its own, where a fork would not do."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, log: Path, working: Path
    ) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=working,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def join(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)


def preload() -> None:
    """Have the server of these processes import everything when it starts."""
    _FORKS.set_forkserver_preload(_PRELOADED)


def start_part(command: str, values: Mapping[str, object], *, log: Path, working: Path) -> Part:
    """Start `luthier api` or `luthier worker`.

    Args:
        command: which.
        values: settings by name, `failpoints` for one; a name in capitals is a variable as it is.
        log: where it prints to.
        working: its working directory.
    """
    environment = _environment(values)
    is_several = environment.get(f"{PREFIX}API_PROCESSES", "1") != "1"  # which are no forks
    if "LD_PRELOAD" in environment or is_several:
        ours = {**os.environ, **environment}
        program = [sys.executable, "-m", "luthier", command]
        return Part(Executed(program, ours, log=log, working=working), log)
    arguments = (command, environment, str(log), str(working))
    process = _FORKS.Process(target=_run, args=arguments, name=command)
    process.start()
    return Part(process, log)


def outputs() -> Iterator[tuple[int, Path]]:
    """Yield the number of every process and the file that it prints to."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                yield int(entry.name), (entry / "fd" / "1").readlink()


def _run(command: str, environment: Mapping[str, str], log: str, working: str) -> None:
    os.setsid()
    os.chdir(working)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    os.environ.update(environment)
    tempfile.tempdir = None  # what was imported before may have asked for it
    from luthier.cli.main import cli

    cli([command], prog_name="luthier")


def _environment(values: Mapping[str, object]) -> dict[str, str]:
    return {
        name if name.isupper() else f"{PREFIX}{name.upper()}": _text(value)
        for name, value in values.items()
        if value is not None
    }


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        are_paths = all(isinstance(one, Path) for one in value)
        return (":" if are_paths else ",").join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, default=str).strip('"')
