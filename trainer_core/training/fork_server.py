"""A process that has imported everything and forks a training process for each job.

For CPU hosts of many small jobs: a job starts in milliseconds and no spare's memory is held. Not
for CUDA, which does not survive a fork. The server itself computes nothing: a process forked after
the first parallel operation hangs in its own.

    -> {"environment": {...}}   and three descriptors: standard input, output, error
    <- {"pid": N}
    <- {"code": N}              once it has ended; minus the signal if one killed it

Each is a line of JSON. Whoever asked keeps the connection: until it is closed the number of an
ended process is not given to another. The server ends when its own standard input does.
"""

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

_REQUEST_BYTES = 1 << 18
_NUM_DESCRIPTORS = 3
_BACKLOG = 64


def serve(path: Path, *, work: Callable[[], int]) -> int:
    """Serve until standard input ends.

    Args:
        path: of the socket; one that is left there is replaced.
        work: what a forked process does; it returns the exit code.
    """
    gc.collect()
    gc.freeze()  # the collector would write to, and so copy, every page of what was imported
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(_BACKLOG)
    _Server(listener, work).run()
    path.unlink(missing_ok=True)
    return 0


@dataclass(slots=True)
class _Server:
    listener: socket.socket
    work: Callable[[], int]
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _children: dict[socket.socket, int] = field(default_factory=dict)
    _zombies: dict[socket.socket, int] = field(default_factory=dict)
    _untended: set[int] = field(default_factory=set)  # whoever asked is gone

    def run(self) -> None:
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing is written
        signal.set_wakeup_fd(wake)
        for source in (self.listener.fileno(), woken, sys.stdin.fileno()):
            self._selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if isinstance(key.fileobj, socket.socket):
                    self._hang_up(key.fileobj)
                elif key.fd == self.listener.fileno():
                    self._accept()
                elif not os.read(key.fd, 4096):
                    return  # of standard input
                elif key.fd == woken:
                    self._tell_ended()

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        request, descriptors, _, _ = socket.recv_fds(connection, _REQUEST_BYTES, _NUM_DESCRIPTORS)
        while request and not request.endswith(b"\n"):
            more = connection.recv(_REQUEST_BYTES)
            request = request + more if more else b""
        if request and len(descriptors) == _NUM_DESCRIPTORS:
            environment = json.loads(request)["environment"]
            sys.stdout.flush()
            begun, begin = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.setsid()
                os.close(begin)
                os.close(begun)
                self._begin(descriptors, environment)
            os.close(begin)
            os.read(begun, 1)  # it ends when the child leads its group: a kill must find that
            os.close(begun)
            self._children[connection] = pid
            self._selector.register(connection, selectors.EVENT_READ)
            _send(connection, {"pid": pid})
        else:
            connection.close()
        for descriptor in descriptors:
            os.close(descriptor)

    def _begin(self, descriptors: list[int], environment: dict[str, str]) -> NoReturn:
        """Become a training process."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for target, descriptor in enumerate(descriptors):
                os.dup2(descriptor, target)
            for descriptor in descriptors:
                os.close(descriptor)
            for connection in (self.listener, *self._children, *self._zombies):
                connection.close()
            self._selector.close()
            os.environ.clear()
            os.environ.update(environment)
            code = self.work()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _tell_ended(self) -> None:
        for pid in [pid for pid in self._untended if os.waitpid(pid, os.WNOHANG)[0]]:
            self._untended.remove(pid)
        for connection, pid in list(self._children.items()):
            # It stays a zombie: see above.
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                is_by_itself = ended.si_code == os.CLD_EXITED
                code = ended.si_status if is_by_itself else -ended.si_status
                self._zombies[connection] = self._children.pop(connection)
                _send(connection, {"code": code})

    def _hang_up(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()
        if (pid := self._zombies.pop(connection, None)) is not None:
            os.waitpid(pid, 0)
        else:
            self._untended.add(self._children.pop(connection))
            self._tell_ended()


def _send(connection: socket.socket, values: dict[str, int]) -> None:
    with contextlib.suppress(OSError):  # whoever asked is gone; hanging up follows
        connection.sendall(json.dumps(values).encode() + b"\n")
