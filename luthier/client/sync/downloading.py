# Made of luthier/client/aio/downloading.py by `python -m tests.client.twins`: change that one.
"""Files of a model, fetched so that what lies under the final name is whole and right.

A file grows under its name with `.part` added, and is renamed once its SHA-256 is the one that the
service told. What was left half-made, or breaks off, goes on at its last byte; a part that turns
out wrong is thrown away and fetched anew, once.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO
from urllib.parse import quote

import httpx

from luthier.client.calls import Call, path_of_model
from luthier.client.errors import BadDownload, Conflict, LuthierAPIError
from luthier.client.sync.patience import OUTAGE_SECONDS, Patience
from luthier.client.sync.transport import Transport
from luthier.client.sync.waiting import off_loop
from luthier.client.values import Artifact, Checkpoint, JobFields, from_json

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""
_CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class _Tally:
    """Counts the bytes of several files."""

    total: int
    tell: Progress | None
    before: int = 0  # bytes of the files that are done

    def at(self, size: int) -> None:
        if self.tell is not None:
            self.tell(self.before + size, self.total)


def download(
    transport: Transport,
    root: str,
    artifacts: Sequence[Artifact],
    *,
    folder: Path,
    progress: Progress | None,
) -> tuple[Path, ...]:
    """Fetch the files below the path `root` into `folder` and return their paths, in order.

    Raises:
        BadDownload: a path leads out of the folder, or a file is not what the service says it is.
    """
    targets = [target_of(folder, artifact.path) for artifact in artifacts]
    tally = _Tally(sum(artifact.size_bytes for artifact in artifacts), progress)
    for artifact, target in zip(artifacts, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not off_loop(_is_whole, target, artifact):
            _fetch(transport, root, artifact, target=target, tally=tally)
        tally.before += artifact.size_bytes
        tally.at(0)
    return tuple(targets)


def find_model(
    transport: Transport, job_id: str, *, checkpoint: int | None
) -> tuple[str, tuple[Artifact, ...]]:
    """Return the path below which the model of a job, or of its checkpoint, lies, and its files.

    Raises:
        Conflict: the job has no model, or not yet.
        NotFound: the checkpoint is not stored, or no longer.
    """
    path = path_of_model(job_id, checkpoint)
    if checkpoint is not None:
        saved = get_checkpoint(transport, job_id, checkpoint)
        return f"{path}/model", saved.artifacts
    job = from_json(JobFields, transport.json(Call("GET", path)))
    if not job.artifacts:
        raise Conflict(
            f"job {job_id} is {job.state} and has no model.",
            code="model_not_ready",
            hint="Choose a job that has succeeded." if job.is_final else "Wait for its end.",
            detail={"state": job.state},
        )
    return f"{path}/model", job.artifacts


def get_checkpoint(transport: Transport, job_id: str, step: int) -> Checkpoint:
    """Return the checkpoint of a step, with the files of its model, or raise NotFound."""
    call = Call("GET", path_of_model(job_id, step))
    return from_json(Checkpoint, transport.json(call))


def target_of(folder: Path, path: str) -> Path:
    """Return where a file of the service belongs, or raise BadDownload if that leaves `folder`."""
    pure = PurePosixPath(path)
    is_plain = (
        path == str(pure)
        and not pure.is_absolute()
        and ".." not in pure.parts
        and pure.parts
        and path.isprintable()
        and "\\" not in path
        and not PureWindowsPath(path).drive
    )
    target = folder / pure
    if not is_plain or not target.resolve().is_relative_to(folder.resolve()):
        raise BadDownload(
            f"the service names a file {path[:200]!r}, which would leave {folder}.",
            code="unsafe_path",
            hint="Nothing was written. Don't trust this service.",
        )
    return target


def _fetch(
    transport: Transport, root: str, artifact: Artifact, *, target: Path, tally: _Tally
) -> None:
    part = target.with_name(target.name + ".part")
    was_begun = part.exists()
    is_right = _filled(transport, root, artifact, part=part, tally=tally)
    if not is_right and was_begun:  # what was left by an earlier try may be of another file
        is_right = _filled(transport, root, artifact, part=part, tally=tally)
    if not is_right:
        raise _wrong(artifact, "has another SHA-256 than the service says", code="wrong_hash")
    part.replace(target)


def _filled(
    transport: Transport, root: str, artifact: Artifact, *, part: Path, tally: _Tally
) -> bool:
    """Complete a part and return whether it is right; one that is wrong is removed."""
    path = f"{root}/{quote(artifact.path)}"
    patience = Patience(OUTAGE_SECONDS)
    with part.open("ab+") as file:
        growing = off_loop(_Growing, file, artifact)
        while growing.size < artifact.size_bytes:
            before = growing.size
            try:
                chunks = growing.append(transport, path, patience=patience)
                with contextlib.closing(chunks):
                    for _ in chunks:
                        tally.at(growing.size)
            except LuthierAPIError as error:
                if growing.size > before:
                    patience.progressed()
                patience.failed(error)
            else:
                if growing.size == before:
                    raise _wrong(artifact, "is shorter than the service says", code="wrong_size")
        is_right = growing.is_right()
        file.flush()
        off_loop(os.fsync, file.fileno())
    if not is_right:
        off_loop(part.unlink)
    return is_right


class _Growing:
    """A part of a file, with the hash of what it holds."""

    def __init__(self, file: BinaryIO, artifact: Artifact) -> None:
        self._file = file
        self._artifact = artifact
        self._digest = hashlib.sha256()
        self.size = 0
        file.seek(0)
        while chunk := file.read(_CHUNK_BYTES):
            self._digest.update(chunk)
            self.size += len(chunk)

    def is_right(self) -> bool:
        """Return whether it is the artifact."""
        artifact = self._artifact
        return self.size == artifact.size_bytes and self._digest.hexdigest() == artifact.sha256

    def append(
        self, transport: Transport, path: str, *, patience: Patience
    ) -> Generator[None, None]:
        """Fetch what is missing, yielding after each chunk."""
        headers = {"Accept-Encoding": "identity"}
        if self.size:
            headers |= {
                "Range": f"bytes={self.size}-",
                "If-Range": f'"{self._artifact.sha256}"',
            }
        call = Call("GET", path, headers=headers)
        with transport.stream(call) as response:
            patience.reached()
            if self.size and response.status_code != httpx.codes.PARTIAL_CONTENT:
                self._empty()  # it sends the file from its first byte
            with transport.translated(call):
                # As they come: what waits for more is lost in a cut.
                for chunk in response.iter_raw():
                    self._add(chunk)
                    yield

    def _add(self, chunk: bytes) -> None:
        if self.size + len(chunk) > self._artifact.size_bytes:
            raise _wrong(self._artifact, "is longer than the service says", code="wrong_size")
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def _empty(self) -> None:
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.size = 0


def _wrong(artifact: Artifact, what: str, *, code: str) -> BadDownload:
    return BadDownload(
        f"{artifact.path} {what}.",
        code=code,
        hint="Download again. If it stays so, the service's storage is damaged.",
    )


def _is_whole(target: Path, artifact: Artifact) -> bool:
    if not target.is_file() or target.stat().st_size != artifact.size_bytes:
        return False
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256
