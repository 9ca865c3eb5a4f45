# Made of luthier/client/aio/sending.py by `python -m tests.client.twins`: change that one.
"""Uploads: streamed, checked against what the service has stored, and never made twice.

A file of one part is one request, which carries no idempotency key: its body is not kept anywhere
to be sent again. So where an answer is lost, the client first looks whether the data set has come
to be, by SHA-256 and name among those that are newer than the upload, and sends the file again if
not.
"""

import hashlib
import io
from pathlib import Path

from luthier.client.calls import SLOW_SECONDS, Call, delay_seconds, is_temporary, path_of
from luthier.client.errors import BadUpload, LuthierAPIError
from luthier.client.inputs import Dataset
from luthier.client.sync.downloading import Progress
from luthier.client.sync.paging import pages
from luthier.client.sync.parting import sha256_of
from luthier.client.sync.transport import Transport
from luthier.client.sync.waiting import off_loop, sleep
from luthier.client.values import from_json

_MAX_TRIES = 4


def send(
    transport: Transport, path: Path, *, has_header: bool, progress: Progress | None
) -> Dataset:
    """Upload a file and return its data set, whose SHA-256 is the file's.

    Raises:
        BadUpload: the service has stored something else, which is deleted again.
    """
    newest = _newest(transport)
    num_tries = 0
    while True:
        num_tries += 1
        with _Counted(path, progress) as file:
            try:
                dataset = _sent(transport, file, name=path.name, has_header=has_header)
            except LuthierAPIError as error:
                if num_tries == _MAX_TRIES or not is_temporary(error):
                    raise
            else:
                _check(transport, dataset, file)
                return dataset
        sleep(delay_seconds(num_tries))
        sha256 = off_loop(sha256_of, path)
        for arrived in pages(transport, "/datasets", Dataset):
            if arrived.id == newest:
                break
            is_header = arrived.has_header == has_header
            if (arrived.sha256, arrived.name) == (sha256, path.name) and is_header:
                return arrived


def _newest(transport: Transport) -> str | None:
    for dataset in pages(transport, "/datasets", Dataset, limit=1):
        return dataset.id
    return None


def _sent(transport: Transport, file: "_Counted", *, name: str, has_header: bool) -> Dataset:
    call = Call(
        "POST",
        "/datasets",
        params={"has_header": "true" if has_header else "false"},
        files={"file": (name, file)},
        read_seconds=SLOW_SECONDS,
    )
    return from_json(Dataset, transport.json(call))


def _check(transport: Transport, dataset: Dataset, file: "_Counted") -> None:
    sent = file.sha256()
    if dataset.sha256 == sent:
        return
    transport.request(Call("DELETE", path_of("datasets", dataset.id)))
    raise BadUpload(
        f"{file.name} was sent with SHA-256 {sent}, and {dataset.sha256} arrived.",
        code="wrong_hash",
        hint="Was the file changed meanwhile? Upload it again.",
    )


class _Counted(io.FileIO):
    """A file that tells how much of it has been read, and what that was."""

    def __init__(self, path: Path, tell: Progress | None) -> None:
        super().__init__(path, "rb")
        self._tell = tell
        self._total = path.stat().st_size
        self._digest = hashlib.sha256()

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() == 0:
            self._digest = hashlib.sha256()
        chunk = super().read(-1 if size is None else size)
        self._digest.update(chunk)
        if self._tell is not None and chunk:
            self._tell(self.tell(), self._total)
        return chunk

    def sha256(self) -> str:
        """Return the digest of what was read since the start."""
        return self._digest.hexdigest()
