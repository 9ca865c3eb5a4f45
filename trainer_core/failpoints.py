"""Named points at which a drill makes the service fail; inert unless LUTHIER_FAILPOINTS is set.

    LUTHIER_FAILPOINTS=worker.claimed:kill            the first time it is passed
    LUTHIER_FAILPOINTS=directory.sealed:kill:3,...    the third time, in this process
    LUTHIER_FAILPOINTS=step.ended:sleep=60:5          sleep 60 seconds there

Actions: `kill`, `term` and `stop` (SIGKILL, SIGTERM and SIGSTOP to this process), `raise` (an
OSError, EIO), `raise=gpu` (as torch does when a GPU is full), `sleep=S`, `exit=CODE`, `hold=BYTES`
(of memory, for two seconds), `print=BYTES` (of anything, in a line without end).
"""

import errno
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

VARIABLE = "LUTHIER_FAILPOINTS"

NAMES = frozenset(
    {
        "job.committed",  # the API has committed a job and has not rung
        "webhook.posted",  # a webhook has been told, and no row says so
        "worker.claimed",
        "worker.storing",  # a checkpoint's next file is about to be stored
        "worker.trained",  # the process has ended, the job has not been moved
        "worker.stored",  # the model's files are stored, no row names them
        "worker.ended",  # the job has been moved, nothing has been tidied
        "worker.pushing",  # a push was claimed, nothing has been sent
        "worker.pushed",  # the Hub has answered, no row says so
        "step.ended",
        "directory.written",  # a checkpoint or the model: all files, no manifest
        "directory.sealed",  # not yet under its name
        "directory.renamed",
        "directory.discarding",  # an old one is about to go
    }
)

_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}
_HOLD_SECONDS = 2
_BLOCK = bytes(range(256)).replace(b"\n", b"") * 1024 + b"\x1b[31mred\x1b[0m\x07"

_passed: Counter[str] = Counter()


@dataclass(frozen=True, slots=True)
class _Armed:
    action: str
    nth: int


def failpoint(name: str) -> None:
    """Fail here if a drill wants it."""
    text = os.environ.get(VARIABLE)
    if not text:
        return
    assert name in NAMES, f"no failpoint is called {name}"
    armed = _parsed(text).get(name)
    if armed is None:
        return
    _passed[name] += 1
    if _passed[name] == armed.nth:
        _fail(name, armed.action)


def _fail(name: str, action: str) -> None:
    kind, _, value = action.partition("=")
    match kind:
        case "kill" | "term" | "stop":
            os.kill(os.getpid(), _SIGNALS[kind])
        case "sleep":
            time.sleep(float(value))
        case "exit":
            os._exit(int(value))
        case "hold":
            held = b"x" * int(value)  # written to, so that it is really there
            time.sleep(_HOLD_SECONDS)
            del held
        case "print":
            for _ in range(int(value) // len(_BLOCK)):
                os.write(1, _BLOCK)
        case "raise" if value == "gpu":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        case "raise":
            raise OSError(errno.EIO, f"failpoint {name}")
        case _:
            raise AssertionError(f"no failpoint does {action}")


@lru_cache
def _parsed(text: str) -> dict[str, _Armed]:
    armed = {}
    for part in text.split(","):
        name, action, *nth = part.strip().split(":")
        assert name in NAMES, f"{VARIABLE}: no failpoint is called {name}"
        armed[name] = _Armed(action, int(nth[0]) if nth else 1)
    return armed
