"""Reading uploads in processes of their own, which have little memory and may be lost.

An upload is hostile until read, and so is what reads it once it has: 300 bytes of Parquet can ask
for gigabytes, and a library in C can be made to crash. So a service lets another process read,
which holds no secret, and of which only JSON comes back. One that needs more memory than it may is
lost with its file alone. The processes wait for the next file, having imported everything.

    python -m trainer_core.rows.apart BYTES    reads a request a line, and writes a reply a line
"""

import atexit
import contextlib
import json
import os
import queue
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer_core.errors import DataError, LuthierError, TypedError, restored
from trainer_core.rows.describing import Description
from trainer_core.rows.describing import describe as describe_here
from trainer_core.rows.examined import Examined
from trainer_core.rows.files import InputFile

MEMORY_BYTES = 2 << 30  # beyond what the process has when it has imported everything
MAX_REPLY_BYTES = 32 << 20
NUM_PROCESSES = 2

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH",
                   "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")  # fmt: skip
"""Nothing else of the service's environment reaches the process: no database, no secret."""
_STOP_SECONDS = 2

Json = dict[str, Any]


class _Lost(Exception):
    """The process has ended, or says what it must not."""


class _Process:
    """One process that reads, on one request at a time."""

    def __init__(self, memory_bytes: int) -> None:
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "trainer_core.rows.apart", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**kept, "ARROW_DEFAULT_MEMORY_POOL": "system"},
        )

    def ask(self, request: Json) -> Json:
        """Return the reply to a request, or raise _Lost."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline(MAX_REPLY_BYTES)
        except OSError as error:
            raise _Lost(str(error)) from error
        if not line.endswith(b"\n"):
            raise _Lost("no whole reply")
        reply: Json = json.loads(line)
        return reply

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._child.poll() is None

    def stop(self) -> None:
        """End it at once."""
        self._child.kill()
        self._child.wait(_STOP_SECONDS)
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what it was not able to take
                    pipe.close()


class Pool:
    """The processes that wait; whoever finds none waits too."""

    def __init__(self, size: int, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._waiting: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(size):
            self._waiting.put(None)  # one that is still to be started
        atexit.register(self.stop)

    def ask(self, request: Json, *, name: str) -> Json:
        """Return the reply to a request about the file of a name.

        Raises:
            DataError: the process was lost over it.
        """
        process = self._waiting.get()
        try:
            if process is None or not process.is_alive:
                process = _Process(self._memory_bytes)
            return process.ask(request)
        except _Lost as error:
            assert process is not None
            process.stop()
            process = None
            raise too_demanding(name) from error
        finally:
            self._waiting.put(process)

    def warm(self) -> None:
        """Start one that is not running yet."""
        self.ask({"call": "nothing"}, name="")

    def stop(self) -> None:
        """End those that wait."""
        with contextlib.suppress(queue.Empty):
            while True:
                process = self._waiting.get_nowait()
                if process is not None:
                    process.stop()


def too_demanding(name: str) -> DataError:
    """Return the error of a file that can't be read with the memory that there is for it."""
    return DataError(
        f"{name} can't be read with the memory that there is for it ({MEMORY_BYTES >> 30} GiB).",
        hint="Write it with shorter rows, or in smaller row groups, or split it.",
    )


_POOL = Pool(NUM_PROCESSES)
_EXAMINERS = Pool(NUM_PROCESSES)


def warm() -> None:
    """Have a process wait for the first file."""
    _POOL.warm()


def describe(path: Path, *, name: str, has_header: bool = True, pool: Pool = _POOL) -> Description:
    """Return what is in a file, as `describing.describe` does; DataError as well if it can't be."""
    request = {"call": "describe", "path": str(path), "name": name, "has_header": has_header}
    return Description.from_dict(_asked(request, name=name, pool=pool))


def check(spec: Json, files: Mapping[str, InputFile]) -> None:
    """Raise whatever `checking.survey` raises of the rows of a spec, given as JSON."""
    request = {"call": "check", "spec": spec, "files": _told(files)}
    _asked(request, name=files["train"].name, pool=_POOL)


def examine(
    spec: Json, files: Mapping[str, InputFile], *, folder: Path, pool: Pool = _EXAMINERS
) -> Examined:
    """Return what `examining.examine` does of the rows of a spec, given as JSON.

    Args:
        spec: what the job says of its rows.
        files: the file of each split that has one of its own; `train` always.
        folder: gets a file with a sample of each split.
        pool: the processes to ask, other than those that submissions wait for.
    """
    request = {"call": "examine", "spec": spec, "files": _told(files), "folder": str(folder)}
    try:
        return Examined.from_dict(_asked(request, name=files["train"].name, pool=pool))
    except DataError as error:  # the process was lost
        return Examined(None, (error,))


def _told(files: Mapping[str, InputFile]) -> Json:
    return {
        split: {"path": str(file.path), "name": file.name, "has_header": file.has_header}
        for split, file in files.items()
    }


def _asked(request: Json, *, name: str, pool: Pool) -> Json:
    reply = pool.ask(request, name=name)
    if "error" in reply:
        raise restored(TypedError.from_dict(reply["error"]))
    if "fault" in reply:
        raise RuntimeError(f"reading {name} failed unforeseen:\n{reply['fault']}")
    result: Json = reply["result"]
    return result


def _describe(request: Json) -> Json:
    path, name, has_header = Path(request["path"]), request["name"], request["has_header"]
    return describe_here(path, name=name, has_header=has_header).to_dict()


def _check(request: Json) -> Json:
    from trainer_core.rows.checking import survey
    from trainer_core.spec import parse_spec

    survey(parse_spec(request["spec"]), _files(request))
    return {}


def _examine(request: Json) -> Json:
    from trainer_core.rows.examined import told
    from trainer_core.rows.examining import examine as examine_here
    from trainer_core.spec import parse_spec

    examination = examine_here(parse_spec(request["spec"]), _files(request))
    return told(examination, folder=Path(request["folder"]))


def _files(request: Json) -> dict[str, InputFile]:
    return {
        split: InputFile(Path(file["path"]), file["name"], file["has_header"])
        for split, file in request["files"].items()
    }


def _nothing(request: Json) -> Json:  # noqa: ARG001
    return {}


_CALLS: Mapping[str, Callable[[Json], Json]] = {
    "describe": _describe,
    "check": _check,
    "examine": _examine,
    "nothing": _nothing,
}


def _answered(request: Json) -> Json:
    try:
        return {"result": _CALLS[request["call"]](request)}
    except LuthierError as error:
        return {"error": error.to_typed().to_dict()}
    except MemoryError:
        return {"error": too_demanding(request.get("name", "The file")).to_typed().to_dict()}
    except Exception:  # noqa: BLE001 - the service tells it as its own fault
        return {"fault": traceback.format_exc()[-4000:]}


def _limit(memory_bytes: int) -> None:
    """Take no more memory than allowed, and be the first to go when the machine has none."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/statm")
    if not status.exists():
        return  # macOS takes no limit of memory
    has = int(status.read_text().split()[0]) * resource.getpagesize()
    most = has + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.suppress(OSError):  # a sandbox may forbid it; the limit above still holds
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    """Answer requests until the service closes the pipe."""
    import pyarrow.parquet

    import trainer_core.rows.checking
    import trainer_core.rows.examining
    import trainer_core.spec  # noqa: F401

    assert pyarrow.parquet
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no reply
    _limit(int(sys.argv[1]))
    for line in sys.stdin.buffer:
        replies.write(json.dumps(_answered(json.loads(line))).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    main()
