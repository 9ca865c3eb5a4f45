"""A stand-in for the Hub on loopback that takes pushes, and fails where it is told to."""

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

HANG = 0  # in place of a status: the Hub takes the request and says nothing
STEPS = ("create", "info", "branch", "yaml", "preupload", "batch", "put", "commit", "tag", "refs")


@dataclass
class Repository:
    """What one repository holds."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    heads: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    tags: dict[str, str] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)  # those that were pushed


@dataclass(frozen=True)
class Fault:
    """How requests of a step go wrong."""

    status: int
    times: int = 1_000_000
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "something is wrong here"
    is_done: bool = False  # the request is carried out, and the answer gets lost


class PushableHub:
    """Repositories in memory, written by whoever has the token."""

    def __init__(self, token: str = "hf_" + "t" * 30) -> None:
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: Counter[str] = Counter()
        self.on_step: Callable[[str], object] = str  # called before each answer
        self.url = ""
        self._lock = threading.Lock()
        self._is_closing = threading.Event()

    def fail(self, step: str, status: int, **how: Any) -> None:
        """Let requests of a step fail."""
        assert step in STEPS, step
        self.faults[step] = Fault(status, **how)

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        return self.repositories[repo].branches[branch]

    def answer(
        self, method: str, path: str, body: bytes, authorization: str
    ) -> tuple[int, dict[str, str], Any]:
        """Return status, headers and JSON values, or HANG."""
        parts = [unquote(part) for part in path.partition("?")[0].strip("/").split("/")]
        step = _step_of(method, parts)
        if step is None:
            return 404, {}, {}
        with self._lock:
            self.requests[step] += 1
            fault = self.faults.get(step)
            if fault is not None and self.requests[step] > fault.times:
                fault = None
        self.on_step(step)
        if fault is not None and not fault.is_done:
            said = {"error": f"{fault.message}, {authorization}"}
            return fault.status, dict(fault.headers), said
        if step != "put" and authorization != f"Bearer {self.token}":
            return 401, {}, {"error": f"who is {authorization}?"}
        with self._lock:
            status, values = self._carry_out(step, parts, body)
        return (fault.status, {}, {}) if fault is not None else (status, {}, values)

    def _carry_out(self, step: str, parts: list[str], body: bytes) -> tuple[int, Any]:
        if step == "put":
            return self._put(parts[1], body)
        values = json.loads(body) if body and step != "commit" else {}
        if step in ("create", "yaml", "batch"):
            of_hub = {"create": self._create, "yaml": _is_good_yaml, "batch": self._batch}
            return of_hub[step](values)
        name = "/".join(parts[2:4])
        found = self.repositories.get(name)
        if found is None:
            return 404, {"error": "Repository not found"}
        revision = parts[5] if len(parts) > 5 else "main"
        match step:
            case "info":
                answer = _described(name, found, revision)
            case "branch":
                answer = _branch(found, revision)
            case "preupload":
                answer = _preupload(found, revision, values)
            case "commit":
                answer = self._commit(name, revision, body)
            case "tag":
                answer = _tag(found, values["tag"], commit=revision)
            case _:
                answer = _refs_of(found)
        return answer

    def _put(self, oid: str, body: bytes) -> tuple[int, Any]:
        assert hashlib.sha256(body).hexdigest() == oid, "not the file that it should be"
        self.blobs[oid] = body
        return 200, {}

    def _batch(self, values: Mapping[str, Any]) -> tuple[int, Any]:
        offers = [self._offer(wanted) for wanted in values["objects"]]
        return 200, {"transfer": "basic", "objects": offers}

    def _create(self, values: Mapping[str, Any]) -> tuple[int, Any]:
        name = f"{values['organization']}/{values['name']}"
        url = f"{self.url}/{name}"
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": url}
        self.repositories[name] = Repository(private=values.get("visibility") == "private")
        return 200, {"url": url}

    def _offer(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        offer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] in self.blobs:
            return offer
        href = f"{self.url}/lfs/{wanted['oid']}?X-Amz-Signature=signed-by-nobody"
        return {**offer, "actions": {"upload": {"href": href}}}

    def _commit(self, repo: str, branch: str, body: bytes) -> tuple[int, Any]:
        found = self.repositories[repo]
        files = dict(found.branches[branch])
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(f"{found.heads[branch]} {len(found.commits)} {sorted(files)}".encode())
        oid = digest.hexdigest()
        found.branches[branch], found.heads[branch] = files, oid
        found.commits.append(oid)
        url = f"{self.url}/{repo}/commit/{oid}"
        return 200, {"commitUrl": url, "commitOid": oid, "hookOutput": ""}

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve for a while and give the URL."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else _chunked(self.rfile, self.headers)
                authorization = self.headers.get("Authorization", "")
                status, headers, values = hub.answer(self.command, self.path, body, authorization)
                if status == HANG:
                    hub._is_closing.wait()
                    self.close_connection = True
                    return
                text = json.dumps(values).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST  # noqa: N815 - the server's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

            def handle(self) -> None:
                try:
                    super().handle()
                except (BrokenPipeError, ConnectionResetError):
                    return  # whoever asked has died

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self.url
        finally:
            self._is_closing.set()
            server.shutdown()
            server.server_close()
            thread.join()

    def wait_for(self, step: str, *, seconds: float = 60) -> None:
        """Wait until a step is asked for."""
        deadline = time.monotonic() + seconds
        while not self.requests[step]:
            assert time.monotonic() < deadline, f"nobody asked for {step}"
            time.sleep(0.01)


def _step_of(method: str, parts: list[str]) -> str | None:
    match parts:
        case ["api", "repos", "create"]:
            step = "create"
        case ["api", "validate-yaml"]:
            step = "yaml"
        case ["lfs", _] if method == "PUT":
            step = "put"
        case [_, _, "info", "lfs", "objects", "batch"]:
            step = "batch"
        case ["api", "models", _, _] | ["api", "models", _, _, "revision", _]:
            step = "info"
        case ["api", "models", _, _, found, *_] if found in STEPS:
            step = found
        case _:
            return None  # nothing that a push needs
    return step


def _is_good_yaml(_: Mapping[str, Any]) -> tuple[int, Any]:
    return 200, {"errors": [], "warnings": []}


def _described(name: str, found: Repository, branch: str) -> tuple[int, Any]:
    return 200, {
        "id": name, "private": found.private, "sha": found.heads[branch], "tags": [],
        "siblings": [],
    }  # fmt: skip


def _branch(found: Repository, name: str) -> tuple[int, Any]:
    if name in found.branches:
        return 409, {"error": "Reference already exists"}
    found.branches[name] = dict(found.branches["main"])
    found.heads[name] = found.heads["main"]
    return 201, {}


def _preupload(found: Repository, branch: str, values: Mapping[str, Any]) -> tuple[int, Any]:
    if branch not in found.branches:
        return 404, {"error": "Invalid rev id"}
    there = found.branches[branch]
    return 200, {"files": [_mode_of(file, there) for file in values["files"]]}


def _tag(found: Repository, name: str, *, commit: str) -> tuple[int, Any]:
    if name in found.tags:
        return 409, {"error": "Tag reference exists already"}
    found.tags[name] = commit
    return 200, {}


def _refs_of(found: Repository) -> tuple[int, Any]:
    branches, tags = _refs("heads", found.heads), _refs("tags", found.tags)
    return 200, {"branches": branches, "tags": tags, "converts": []}


def _mode_of(file: Mapping[str, Any], there: Mapping[str, bytes]) -> dict[str, Any]:
    """Return how a file is to be sent; `oid` is what the library compares to send nothing twice."""
    path = file["path"]
    mode = "lfs" if path.endswith((".safetensors", ".bin")) else "regular"
    oid = None
    if path in there:
        content = there[path]
        git = b"blob %d\0" % len(content) + content
        sha1 = hashlib.sha1(git, usedforsecurity=False).hexdigest()
        oid = hashlib.sha256(content).hexdigest() if mode == "lfs" else sha1
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def _refs(kind: str, heads: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
        for name, commit in heads.items()
    ]


def _chunked(stream: Any, headers: Any) -> bytes:
    """Return a body that comes in chunks."""
    if headers.get("Transfer-Encoding", "").lower() != "chunked":
        return b""
    found = b""
    while size := int(stream.readline(), 16):
        found += stream.read(size)
        stream.readline()
    stream.readline()
    return found
