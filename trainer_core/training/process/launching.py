"""Starting the processes of a run that wants several, and ending with them.

The environment is that of `torchrun`, which accelerate reads. Its agent is not used: it restarts
what has died, and kills on the SIGTERM that asks a run here to save. What is lost is done again
from a checkpoint, by whoever started the run.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from trainer_core.redaction import is_secret
from trainer_core.run_directory import RunDirectory

_LOOPBACK = "127.0.0.1"
_LEFT_SECONDS = 20.0  # for the others, once one has failed
_TURN_SECONDS = 0.1
_STOPPED = 75  # exit code of a run that was asked to end


class Launch:
    """The processes of one run. They are in the group of this one, and die with it."""

    def __init__(
        self,
        directory: RunDirectory,
        *,
        count: int,
        arguments: Sequence[str],
        signals: Sequence[signal.Signals],
    ) -> None:
        """Start them.

        Args:
            directory: the run.
            count: how many.
            arguments: further ones of the command.
            signals: those that ask this process to end; all of them are asked to then.
        """
        # What comes meanwhile waits: here until all are there, and there until they listen. Threads
        # block what their maker does, so it comes before the store's, and before torch's.
        signal.pthread_sigmask(signal.SIG_BLOCK, {*signals, signal.SIGTERM})
        from torch import distributed

        make_store: Any = distributed.TCPStore  # type: ignore[attr-defined]
        # Kept here, so that no port is chosen before somebody has it.
        self._store: Any = make_store(_LOOPBACK, 0, is_master=True, wait_for_workers=False)
        command = [sys.executable, "-m", "trainer_core.training", str(directory.path), "--leashed"]
        self._processes = [
            subprocess.Popen(
                [*command, *arguments],
                env=_environment(number, count, port=self._store.port),
                stdin=subprocess.PIPE,
            )
            for number in range(count)
        ]
        self._listen(signals)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*signals, signal.SIGTERM})

    def _listen(self, signals: Sequence[signal.Signals]) -> None:

        def pass_on(_number: int, _: FrameType | None) -> None:
            for process in self._processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)

        for name in signals:
            signal.signal(name, pass_on)

    def wait(self) -> int:
        """Return the exit code once all are gone: the first one's, or a failure's if there is any.

        Minus the signal, if one killed it.
        Whoever is left after a failure waits for one that does not come, and is killed.
        """
        failed_code = 0
        deadline = math.inf
        while (codes := self._poll()).count(None):
            if not failed_code and (failed_code := _failure(codes)):
                deadline = time.monotonic() + _LEFT_SECONDS
            if time.monotonic() > deadline:
                for process in self._processes:
                    process.kill()
            time.sleep(_TURN_SECONDS)
        return failed_code or _failure(codes) or codes[0] or 0

    def _poll(self) -> list[int | None]:
        return [process.poll() for process in self._processes]


def end_by(code: int) -> None:
    """End this process with an exit code, or by the signal if the code is minus one."""
    if code < 0:
        if -code != signal.SIGKILL:  # which nobody can have taken over
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _failure(codes: Sequence[int | None]) -> int:
    """Return the first exit code of a failure, or 0."""
    return next((code for code in codes if code not in (None, 0, _STOPPED)), None) or 0


def _environment(number: int, count: int, *, port: int) -> dict[str, str]:
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)) // count)
    # Trackers are the first one's.
    kept = {k: v for k, v in os.environ.items() if number == 0 or not is_secret(k)}
    return {
        **kept,
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": _LOOPBACK,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
