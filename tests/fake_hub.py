"""A stand-in for the Hub on loopback: repositories whose main branch can be moved or be closed."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

_CHUNK_BYTES = 1 << 16


class FakeHub:
    """Serves snapshots of one repository: the newest under `main`, each under its commit."""

    def __init__(self) -> None:
        self._snapshots: dict[str, Mapping[str, bytes]] = {}
        self._main = ""
        self._is_closing = threading.Event()
        self.num_requests = 0
        self.num_bytes_sent = 0
        self.token = ""  # without which its files are not to be had
        self.is_private = False  # nor is it known that there are any
        self.knows_ranges = True
        self.hangs = False  # it takes requests and says nothing
        self.sizes: dict[str, int] = {}  # that it tells of files, in place of the true ones

    def push(self, files: Mapping[str, bytes]) -> str:
        """Make a snapshot the newest and return its commit."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name in sorted(files):
            digest.update(name.encode() + files[name])
        self._main = digest.hexdigest()
        self._snapshots[self._main] = files
        return self._main

    def answer(self, path: str, *, authorization: str = "") -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for a path."""
        self.num_requests += 1
        if self.hangs:
            self._is_closing.wait()
        is_asked_for_token = self.token and authorization != f"Bearer {self.token}"
        if is_asked_for_token and self.is_private:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        parts = unquote(path.partition("?")[0]).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._describe(parts)
        if len(parts) < 5:
            return 404, {}, b""
        if is_asked_for_token:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        _owner, _name, _resolve, revision, *file = parts
        commit = self._main if revision == "main" else revision
        files = self._snapshots.get(commit, {})
        name = "/".join(file)
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{hashlib.sha256(files[name]).hexdigest()}"',
            "Content-Type": "application/octet-stream",
        }
        return 200, headers, files[name]

    def _describe(self, parts: list[str]) -> tuple[int, dict[str, str], bytes]:
        revision = parts[5] if len(parts) > 5 else "main"
        commit = self._main if revision == "main" else revision
        if commit not in self._snapshots:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        names = sorted(self._snapshots[commit])
        if parts[4:5] == ["tree"]:
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self._snapshots[commit].items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(files).encode()
        described = {
            "id": "/".join(parts[2:4]),
            "sha": commit,
            "private": False,
            "tags": [],
            "siblings": [
                {
                    "rfilename": name,
                    "size": self.sizes.get(name, len(self._snapshots[commit][name])),
                }
                for name in names
            ],
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(described).encode()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve for a while and give the URL."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                _reply(self, hub, with_body=True)

            def do_HEAD(self) -> None:
                _reply(self, hub, with_body=False)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

            def handle(self) -> None:
                try:
                    super().handle()
                except (BrokenPipeError, ConnectionResetError):
                    return  # whoever asked has heard enough

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            self._is_closing.set()
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The Hub of this process and of its children."""
    hub = FakeHub()
    with hub.serve() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        yield hub


def _reply(request: BaseHTTPRequestHandler, hub: FakeHub, *, with_body: bool) -> None:
    authorization = request.headers.get("Authorization", "")
    status, headers, body = hub.answer(request.path, authorization=authorization)
    if status == 200 and hub.knows_ranges and "Range" in request.headers:
        status, body, headers["Content-Range"] = _part(body, request.headers["Range"])
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if with_body:
        for start in range(0, len(body), _CHUNK_BYTES):
            sent = body[start : start + _CHUNK_BYTES]
            request.wfile.write(sent)
            hub.num_bytes_sent += len(sent)


def _part(body: bytes, asked: str) -> tuple[int, bytes, str]:
    """Return status, bytes and `Content-Range` for a range such as `bytes=0-99`."""
    start, end = map(int, asked.removeprefix("bytes=").split("-"))
    if start >= len(body):
        return 416, b"", f"bytes */{len(body)}"
    part = body[start : end + 1]
    return 206, part, f"bytes {start}-{start + len(part) - 1}/{len(body)}"
