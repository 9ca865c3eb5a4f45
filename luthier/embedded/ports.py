"""Starting a server on a port of its own."""

import socket
import time
from collections.abc import Callable

from luthier.embedded.child import Child
from trainer_core.errors import ServerFailed

LOOPBACK = "127.0.0.1"
_ATTEMPTS = 3
_RETRY_SECONDS = 1.0


def free_port(*, preferred: int | None = None) -> int:
    """Return the preferred port if it can be bound on loopback now, else any that can."""
    if preferred is not None and _can_bind(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def start_on_free_port(
    launch: Callable[[int], Child], *, preferred: int | None, wait: Callable[[Child, int], None]
) -> tuple[Child, int]:
    """Start a server and wait until it is ready; return it and its port.

    Another program may take the port between the check and the server's own bind, and a crashed
    PostgreSQL's last processes may hold its memory for a moment. So a server that ends at once is
    tried again.

    Args:
        launch: makes the child, not started, for a port.
        preferred: the port of last time.
        wait: returns when the server on that port is ready, or raises ServerFailed.
    """
    attempt = 1
    while True:
        port = free_port(preferred=preferred)
        child = launch(port)
        child.start()
        try:
            wait(child, port)
        except ServerFailed:
            has_ended = child.poll() is not None
            child.stop(timeout_seconds=5)
            if not has_ended or attempt == _ATTEMPTS:
                raise
            attempt += 1
            time.sleep(_RETRY_SECONDS)
        except BaseException:
            child.stop(timeout_seconds=5)
            raise
        else:
            return child, port


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do, or connections of the last run, lingering in TIME_WAIT, count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
