"""A real HTTP server that receives webhooks, and answers as a test tells it to."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Received:
    """One POST."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """Keeps what it is sent; `answer` says the status of each request, by default 200."""

    def __init__(
        self,
        answer: Callable[[Received], int] = lambda _: 200,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.received: list[Received] = []
        self.num_connections = 0
        self._answer = answer
        self._headers = headers or {}
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._server.receiver = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                received = Received(self.path, headers, content.decode())
                receiver.received.append(received)
                self.send_response(receiver._answer(received))
                for name, value in receiver._headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"seen")

            def log_message(self, *args: object) -> None:  # noqa: ARG002
                return

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    receiver: Receiver

    def verify_request(self, *args: object) -> bool:  # noqa: ARG002
        self.receiver.num_connections += 1
        return True

    def handle_error(self, *args: object) -> None:  # noqa: ARG002
        return  # the sender has gone away, as some tests mean it to
