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
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from trainer_core import memory

COMMAND = (sys.executable, "-m", "trainer_core.training", "--supervised")
_FIRST_TO_GO = "1000"  # to the kernel, when memory runs out; the most that there is
_KEPT_VARIABLES = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH",
    "VIRTUAL_ENV", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF", "OPENBLAS_CORETYPE",
)  # fmt: skip
"""Nothing else of the worker's environment reaches a training process: no database, no secret."""

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


class TrainingProcess:
    """A child that trains one job and ends."""

    def __init__(self, *, log: Path, num_threads: int) -> None:
        """Start the process.

        Args:
            log: file for what it prints before its job; afterwards it prints to the run's log.
            num_threads: CPU threads of its numeric libraries.
        """
        self._is_group_killed = False
        self._waiting = threading.RLock()  # the lease's thread kills, too
        # The most memory that one process of it had, once it has ended. It counts what this process
        # had at the start: until it ran its own program it was a copy of this one.
        self.peak_bytes = 0
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=_environment(num_threads),
                start_new_session=True,
            )
        _confine(self.pid)

    @property
    def pid(self) -> int:
        """Its process id, which is its group's too."""
        return self._child.pid

    def start(self, run_directory: Path, *, trackers: Sequence[str]) -> None:
        """Give it its job, and what of the environment the job's trackers need."""
        assert self._child.stdin is not None
        order = {"run_dir": str(run_directory), "environment": environment_of(trackers)}
        line = json.dumps(order)
        try:
            self._child.stdin.write(line.encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            return  # it has died already; `poll` says how

    def poll(self) -> int | None:
        """Return its exit code, minus the signal if one killed it, or None while it runs."""
        code = self._exit_code(os.WNOHANG)
        if code is not None:
            self._kill_group()
        return code

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process itself; its data loaders are its own to stop."""
        with self._waiting:
            if self._exit_code(os.WNOHANG) is None:
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> int:
        """Kill the whole group and return the exit code. Safe to call at any time."""
        self._kill_group()
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # an unread job line goes nowhere
            self._child.stdin.close()
        code = self._exit_code(0)
        assert code is not None, "a wait came back without an exit code"
        return code

    def _exit_code(self, options: int) -> int | None:
        """Wait as `os.wait4` does: no other call tells how much memory the dead had."""
        with self._waiting:
            if self._child.returncode is None:
                pid, status, usage = os.wait4(self.pid, options)
                if pid:
                    self._child.returncode = os.waitstatus_to_exitcode(status)
                    self.peak_bytes = memory.from_max_rss(usage.ru_maxrss)
            return self._child.returncode

    def _kill_group(self) -> None:
        """Kill the group once: later its number may name a stranger's."""
        if not self._is_group_killed:
            self._is_group_killed = True
            with contextlib.suppress(ProcessLookupError):  # nobody is left
                os.killpg(self.pid, signal.SIGKILL)


def _confine(pid: int) -> None:
    """Let a process leave no core file, and be killed before others when memory runs out.

    Its children inherit both. No user is asked for, so a raise of the score is always allowed.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it has died already, or /proc is not there
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
            Path(f"/proc/{pid}/oom_score_adj").write_text(_FIRST_TO_GO)


def environment_of(trackers: Sequence[str]) -> dict[str, str]:
    """Return what trackers need of this process's environment."""
    names = [name for tracker in trackers for name in _TRACKER_VARIABLES[tracker]]
    return {name: os.environ[name] for name in names if name in os.environ}


def _environment(num_threads: int) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {
        "OMP_NUM_THREADS": str(num_threads),
        "MKL_NUM_THREADS": str(num_threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
