"""A stand-in for the Hub on loopback: repositories whose main branch can be moved."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class FakeHub:
    """Serves snapshots of one repository: the newest under `main`, each under its commit."""

    def __init__(self) -> None:
        self._snapshots: dict[str, Mapping[str, bytes]] = {}
        self._main = ""
        self.num_requests = 0

    def push(self, files: Mapping[str, bytes]) -> str:
        """Make a snapshot the newest and return its commit."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name in sorted(files):
            digest.update(name.encode() + files[name])
        self._main = digest.hexdigest()
        self._snapshots[self._main] = files
        return self._main

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for a path."""
        self.num_requests += 1
        parts = unquote(path.partition("?")[0]).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._describe(parts)
        if len(parts) < 5:
            return 404, {}, b""
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
            "siblings": [{"rfilename": name} for name in names],
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(described).encode()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve for a while and give the URL."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._reply(with_body=True)

            def do_HEAD(self) -> None:
                self._reply(with_body=False)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

            def _reply(self, *, with_body: bool) -> None:
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
