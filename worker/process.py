"""One training process: started ahead of its job, in a process group of its own.

The process imports everything and waits for a line that names its run directory; so a spare one
starts a job at once. Its standard input is the leash: when this side of the pipe
closes, by design or by death, the process kills its group.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer_core.children import Child, ExecutedChild, ForkedChild, training_environment
from worker.group import Member, kill, left_of, members_of

COMMAND = (sys.executable, "-m", "trainer_core.training", "--supervised")
_FIRST_TO_GO = "1000"  # to the kernel, when memory runs out; the most that there is
_NETWORK_VARIABLES = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
_TRACKER_VARIABLES = {
    "tensorboard": (),
    "wandb": (
        "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", *_NETWORK_VARIABLES,
    ),
    "mlflow": (
        "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_INSECURE_TLS",
        "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_WORKSPACE", *_NETWORK_VARIABLES,
    ),
    "trackio": (
        "TRACKIO_SERVER_URL", "TRACKIO_WRITE_TOKEN", "TRACKIO_PROJECT", *_NETWORK_VARIABLES,
    ),
}  # fmt: skip
"""What a job's experiment trackers get of it besides, over the pipe."""

_SECRET_VARIABLES = {
    "wandb": "WANDB_API_KEY",
    "mlflow": "MLFLOW_TRACKING_TOKEN",
    "trackio": "TRACKIO_WRITE_TOKEN",
}
"""Where a tracker looks for the secret that a job names for it."""
_OTHER_LOGINS = {"mlflow": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}
"""What a tracker would take before that."""

_LOOK_SECONDS = 0.02
_MAX_STACKS = 32  # processes that are asked for their stacks
_STACK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """What the kernel lets each process of a job have; None leaves it as it is."""

    open_files: int | None = None
    file_bytes: int | None = None  # of one file

    def by_resource(self) -> Iterator[tuple[int, int]]:
        """Yield the limits as `prlimit` takes them."""
        yield resource.RLIMIT_CORE, 0
        if self.open_files is not None:
            yield resource.RLIMIT_NOFILE, self.open_files
        if self.file_bytes is not None:
            yield resource.RLIMIT_FSIZE, self.file_bytes


class TrainingProcess:
    """A child that trains one job and ends."""

    def __init__(
        self,
        *,
        log: Path,
        num_threads: int,
        fork_server: Path | None = None,
        command: Sequence[str] = (),
        limits: Limits = Limits(),
    ) -> None:
        """Start the process; OSError if the system, or the fork server, does not.

        Args:
            log: file for what it prints before its job; afterwards it prints to the run's log.
            num_threads: CPU threads of its numeric libraries.
            fork_server: the socket of the server that forks it; None to execute the command.
            command: what to start; the training command without it.
            limits: of each of its processes.
        """
        self._is_group_killed = False
        self._killed: list[Member] = []
        self._waiting = threading.RLock()  # the lease's thread kills, too
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = training_environment(num_threads)
        with log.open("ab") as output:
            self._child: Child = (
                ExecutedChild(command or COMMAND, output=output, environment=environment)
                if fork_server is None
                else ForkedChild(fork_server, output=output, environment=environment)
            )
        _confine(self.pid, limits)

    @property
    def pid(self) -> int:
        """Its process id, which is its group's too."""
        return self._child.pid

    @property
    def peak_bytes(self) -> int:
        """The most memory that one process of it had, once it has ended: see `Child`."""
        return self._child.peak_bytes

    def start(
        self,
        run_directory: Path,
        *,
        trackers: Sequence[str],
        secrets: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Give it its job.

        Args:
            run_directory: of the job.
            trackers: of the job; it gets what they need of this process's environment.
            secrets: that the job names, by tracker, in place of the environment's.
            environment: further variables, in place of those.
        """
        given = environment_of(trackers, secrets=secrets) | dict(environment or {})
        self._order({"run_dir": str(run_directory), "environment": given})

    def answer(self, folder: Path, *, socket: Path) -> None:
        """Have it answer with finished models at a socket, and print to the log of a folder."""
        self._order({"run_dir": str(folder), "socket": str(socket)})

    def _order(self, values: Mapping[str, object]) -> None:
        try:
            self._child.stdin.write(json.dumps(values).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            return  # it has died already; `poll` says how

    def poll(self) -> int | None:
        """Return its exit code, minus the signal if one killed it, or None while it runs."""
        with self._waiting:
            code = self._child.poll()
        if code is not None:
            self._kill_group()
        return code

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process itself; its data loaders are its own to stop."""
        with self._waiting:
            if self._child.poll() is None:
                os.kill(self.pid, signal.SIGTERM)

    def members(self) -> list[Member]:
        """Return the process and all that belong to it, as they are now."""
        return members_of(self.pid)

    def tell_stacks(self) -> None:
        """Have it and its children print the stacks of all their threads, one after the other."""
        for member in self.members()[:_MAX_STACKS]:
            if _catches(member.pid, signal.SIGUSR1):  # it would kill one that does not
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGUSR1)
                time.sleep(_STACK_SECONDS)  # what two print at once can't be read

    def kill(self) -> int:
        """Kill all that belong to it and return the exit code. Safe to call at any time."""
        self._kill_group()
        with contextlib.suppress(BrokenPipeError):  # an unread job line goes nowhere
            self._child.stdin.close()
        with self._waiting:
            code = self._child.wait()
            self._child.close()
        return code

    def left(self, *, seconds: float) -> list[Member]:
        """Return who of the killed is still there after waiting so long at most.

        What is killed takes a moment to give back its memory, or longer while a disk is slow.
        """
        deadline = time.monotonic() + seconds
        while left := left_of(self._killed):
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK_SECONDS)
        return left

    def _kill_group(self) -> None:
        """Kill the group, and who left it, once: later its number may name a stranger's."""
        if not self._is_group_killed:
            self._is_group_killed = True
            self._killed = self.members()
            with contextlib.suppress(ProcessLookupError):  # nobody is left
                os.killpg(self.pid, signal.SIGKILL)
            kill(self._killed)


def _catches(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal; where nobody tells, it is taken so."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return not Path("/proc/self").exists()
    masks = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(masks) and bool(int(masks[0], 16) >> (number - 1) & 1)


def _confine(pid: int, limits: Limits) -> None:
    """Limit a process, and let it be killed before others when memory runs out.

    Its children inherit both. No user is asked for, so a raise of the score is always allowed.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it has died already, or /proc is not there
            for kind, wanted in limits.by_resource():
                _, most = resource.prlimit(pid, kind)
                value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
                resource.prlimit(pid, kind, (value, value))
            Path(f"/proc/{pid}/oom_score_adj").write_text(_FIRST_TO_GO)


def environment_of(
    trackers: Sequence[str], *, secrets: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return what trackers need of this process's environment.

    Args:
        trackers: names.
        secrets: those that the job names, by tracker, in place of the environment's.
    """
    found: dict[str, str] = {}
    for tracker in trackers:
        names = _TRACKER_VARIABLES[tracker]
        own = {name: os.environ[name] for name in names if name in os.environ}
        if secret := (secrets or {}).get(tracker):
            for name in _OTHER_LOGINS.get(tracker, ()):
                own.pop(name, None)
            own[_SECRET_VARIABLES[tracker]] = secret
        found |= own
    return found
