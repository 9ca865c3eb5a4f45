"""Starting uvicorn as this service needs it: no version told, streams ended on a stop.

Its quick parser takes heads of any length, at any pace; ours ends the connection.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from jobs.settings import Settings

_IDLE_SECONDS = 75  # longer than clients keep a connection: who closes first loses no request
_STOP_SECONDS = 5  # how long requests may take to end when the service stops
_MAX_HEAD_BYTES = 1 << 16  # of the request line and the headers
_HEADER_BYTES = 32  # what a header costs besides
_KILL_SECONDS = 15  # after which one of several processes that was to stop is killed
_SILENT_SECONDS = 30  # one that says no more that it lives is replaced
_HEAD_SECONDS = 30  # from the first byte of a request to the end of its headers

_log = logging.getLogger(__name__)


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose heads are short and come soon, and whose streams end when the server stops."""

    _num_head_bytes = 0
    _is_in_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        # Else uvicorn would wait for the open event streams.
        self.app.state.stopping.set()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            self._num_head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._num_head_bytes > _MAX_HEAD_BYTES:
            self._refuse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_head_bytes += len(name) + len(value) + _HEADER_BYTES
        if self._num_head_bytes > 2 * _MAX_HEAD_BYTES:  # counted by pieces and by headers
            raise ValueError("the headers are too long")  # the parser's caller answers 400
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._is_in_head = False
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._stop_timer()
        self._is_in_head = True
        self._num_head_bytes = 0
        self._timer = self.loop.call_later(_HEAD_SECONDS, self._refuse)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.send_400_response("The headers are too long, or took too long.")


def configuration(
    app: FastAPI | Callable[[], FastAPI], settings: Settings, *, access_log: bool = False
) -> uvicorn.Config:
    """Return how an application, or what makes one, is served on the settings' host and port."""
    return uvicorn.Config(
        app,
        factory=not isinstance(app, FastAPI),
        workers=settings.api_processes,
        http=Protocol,
        host=settings.host,
        port=settings.port,
        server_header=False,
        proxy_headers=False,
        access_log=access_log,
        log_config=None,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        timeout_worker_healthcheck=_SILENT_SECONDS,
    )


def serve(make: Callable[[], FastAPI], settings: Settings) -> bool:
    """Serve until SIGINT or SIGTERM, in as many processes as the settings say.

    Several share one socket, and each takes its next connection when it is idle. One that ends by
    itself is started again.

    Args:
        make: makes the application, in the process that serves it; can be pickled.
        settings: of the service.

    Returns:
        Whether it could start; why it could not is logged.
    """
    if settings.api_processes > 1:
        return _serve_together(partial(_make_shared, make), settings)
    server = uvicorn.Server(configuration(make, settings, access_log=True))
    try:
        server.run()
    except KeyboardInterrupt:  # raised anew once it has stopped in order
        return True
    except SystemExit:  # how uvicorn says that it can't listen
        return False
    return server.started


def _serve_together(make: Callable[[], FastAPI], settings: Settings) -> bool:
    config = configuration(make, settings, access_log=True)
    try:
        sockets = _listening(settings, backlog=config.backlog)
    except OSError as error:
        _log.error("can't listen on %s: %s", settings.host, error)
        return False
    processes = _Processes(config, sockets=sockets)
    processes.run()
    return STARTUP_FAILURE not in {one.exitcode for one in processes.processes}


def _listening(settings: Settings, *, backlog: int) -> list[socket.socket]:
    """Return a socket for each address of the host, on which connections may come already."""
    found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys((family, *address[:2]) for family, _, _, _, address in found)
    sockets = [
        socket.create_server((str(host), int(port)), family=family, backlog=backlog)
        for family, host, port in addresses
    ]
    for one in sockets:
        _log.info("listening on %s, port %d", *one.getsockname()[:2])
    return sockets


class _Processes(Multiprocess):
    """Several processes, none of which can keep the others from stopping."""

    def terminate_all(self) -> None:
        for one in self.sockets:
            one.close()  # else who connects now is kept waiting
        super().terminate_all()

    def join_all(self) -> None:
        deadline = time.monotonic() + _KILL_SECONDS
        for one in self.processes:
            one.process.join(max(0.0, deadline - time.monotonic()))
            if one.process.is_alive():
                one.kill()
                one.join()

    def handle_hup(self) -> None:
        self.handle_term()  # as it ends one process


def _make_shared(make: Callable[[], FastAPI]) -> FastAPI:
    """Return the application of one of several processes, which ends with the one of them all."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_KILL_SECONDS)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    return make()
