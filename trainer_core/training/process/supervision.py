"""Waiting warm for a job under a supervisor, and dying with it.

    -> ready                            everything is imported
    <- {"run_dir": "...", "environment": {...}}    the job, one line of JSON
    <- {"run_dir": "...", "socket": "..."}         or: answer with finished models, at that socket
    <- {"run_dir": "...", "inspect": true}         or one that is to be looked at only
    <- (end of file, at any time)       the supervisor is gone

A process takes one job, so that its memory, and its crashes, end with it.
"""

import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

READY = b"ready\n"
_PR_SET_NO_NEW_PRIVS = 38  # prctl(2)


@dataclass(frozen=True, slots=True)
class Order:
    """A job for this process."""

    run_dir: Path
    environment: Mapping[str, str]  # variables that this job alone needs, such as a tracker's key
    socket: Path | None = None  # where to be asked, in place of training
    is_inspection: bool = False  # the job is not to be done, but looked at


def tell_stacks() -> None:
    """Print the stacks of all threads on SIGUSR1, and on a crash in native code.

    Not by Python's own handlers: those wait for the main thread, which may be what hangs. A data
    loader's workers take this over.
    """
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def wait_for_order() -> Order | None:
    """Say that the process is ready and return its job; None if nobody has one."""
    _renounce_privileges()
    os.write(sys.stdout.fileno(), READY)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return None
    values = json.loads(line)
    socket = values.get("socket")
    return Order(
        Path(values["run_dir"]),
        values.get("environment", {}),
        is_inspection=values.get("inspect", False),
        socket=Path(socket) if socket else None,
    )


def _renounce_privileges() -> None:
    """Let no program that this process or a child executes have more rights than it has."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            error = os.strerror(ctypes.get_errno())
            sys.stderr.write(f"could not renounce privileges: {error}\n")


def begin(run_directory: Path) -> None:
    """Print to the run's log from now on, and die with the supervisor."""
    log = os.open(run_directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.close(log)
    watch_supervisor()


def watch_supervisor() -> None:
    """Die, from now on, when whoever holds the other end of standard input does."""
    threading.Thread(target=_watch, name="supervisor-watch", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    kill_group()


def kill_group() -> None:
    """Kill this process with its children, but never a group that someone else leads."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
