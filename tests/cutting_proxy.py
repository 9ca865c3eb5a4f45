"""A TCP proxy that cuts its connections, as bad networks and busy gateways do."""

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_METHODS = (b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ")


class CuttingProxy:
    """Passes bytes on to a service, and closes each connection after so many of its answers'.

    Or of its requests', with `cut_after_sent_bytes`.

    Of a share of all requests it loses one half on their way, and of the other half the answers.
    """

    def __init__(
        self,
        url: str,
        *,
        cut_after_bytes: int | None = None,
        cut_after_sent_bytes: int | None = None,
        lost_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self.cut_after_bytes = cut_after_bytes
        self.num_connections = 0
        self.num_cuts = 0
        self.cut_after_sent_bytes = cut_after_sent_bytes
        self.num_bytes = 0  # of answers
        self.num_sent_bytes = 0  # of requests
        self.cut_after_request: bytes | None = None  # once: passed on, and then nothing more
        self.num_passed_before_cut = 0  # of such requests
        self._flowing = threading.Event()
        self._flowing.set()
        self._lost_share = lost_share
        self._random = random.Random(seed)  # noqa: S311 - draws losses
        self._doomed: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._swallowed: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in list(self._open):
            self._cut(end)
        for thread in self._threads:
            thread.join(timeout=10)
            assert not thread.is_alive()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def reset_all(self) -> None:
        """Break every open connection as a crashed peer does: RST, no FIN."""
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RD)  # wakes whoever reads, and tells the peer nothing
            end.close()
            self._open.discard(end)
            self.num_cuts += 1

    def hold(self) -> None:
        """Let nothing through, as a network that swallows packets; nobody is told."""
        self._flowing.clear()

    def release(self) -> None:
        """Let through what was held, and all that follows."""
        self._flowing.set()

    def swallow_all(self) -> None:
        """Pass on nothing more of what is open, and tell nobody; new connections work."""
        self._swallowed |= self._open

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.num_connections += 1
            far = socket.create_connection(self._target)
            self._open |= {near, far}
            for work in (self._pass_requests, self._pass_answers):
                thread = threading.Thread(target=work, args=(near, far))
                self._threads.append(thread)
                thread.start()

    def _pass_requests(self, near: socket.socket, far: socket.socket) -> None:
        left = self.cut_after_sent_bytes
        for chunk in _chunks(near):
            self._flowing.wait()
            with self._lock:
                self.num_sent_bytes += len(chunk)
            if left is not None and (left := left - len(chunk)) <= 0:
                self.num_cuts += 1
                break
            if near in self._swallowed:
                continue
            if self._is_lost(chunk):
                if self._random.random() < 0.5:
                    self.num_cuts += 1
                    break
                self._doomed.add(far)
            with contextlib.suppress(OSError):
                far.sendall(chunk)
            if self._is_last(chunk):
                break
        self._cut(near, far)

    def _is_lost(self, chunk: bytes) -> bool:
        """Return whether to lose the request that begins with this chunk, or its answer."""
        return chunk.startswith(_METHODS) and self._random.random() < self._lost_share

    def _is_last(self, chunk: bytes) -> bool:
        """Return whether to cut after this request."""
        with self._lock:
            if self.cut_after_request is None or self.cut_after_request not in chunk:
                return False
            if self.num_passed_before_cut:
                self.num_passed_before_cut -= 1
                return False
            self.cut_after_request = None
            self.num_cuts += 1
            return True

    def _pass_answers(self, near: socket.socket, far: socket.socket) -> None:
        left = self.cut_after_bytes
        for chunk in _chunks(far):
            self._flowing.wait()
            if far in self._swallowed:
                continue
            if far in self._doomed:
                self.num_cuts += 1
                break
            passed = chunk if left is None else chunk[:left]
            with contextlib.suppress(OSError):
                near.sendall(passed)
            with self._lock:
                self.num_bytes += len(passed)
            if left is not None:
                left -= len(passed)
                if left == 0:
                    self.num_cuts += 1
                    break
        self._cut(near, far)

    def _cut(self, *ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._open.discard(end)


def _chunks(end: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            chunk = end.recv(4096)
        except OSError:
            return
        if not chunk:
            return
        yield chunk
