"""Large uploads go in parts, so that one that broke goes on where it was, also in a later run.

The service knows an upload by the file's name, size and SHA-256, and tells which parts have come:
so nothing is kept here in between. A part whose answer was lost is sent again in its own place.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

from luthier.client.aio.downloading import Progress
from luthier.client.aio.patience import OUTAGE_SECONDS, AsyncPatience
from luthier.client.aio.transport import AsyncTransport
from luthier.client.aio.waiting import off_loop
from luthier.client.calls import SLOW_SECONDS, Call, path_of
from luthier.client.errors import BadUpload, LuthierAPIError
from luthier.client.inputs import Dataset
from luthier.client.values import from_json

PART_BYTES = 16 << 20
_MAX_WRONG = 3  # of one part, after which the way is to blame


async def send_in_parts(
    transport: AsyncTransport,
    path: Path,
    *,
    has_header: bool,
    progress: Progress | None,
    part_bytes: int,
) -> Dataset:
    """Upload a file and return its data set, whose SHA-256 is the file's.

    Raises:
        BadUpload: a part arrives as something else, again and again.
    """
    size = await off_loop(size_of, path)
    file = {
        "name": path.name,
        "size_bytes": size,
        "sha256": await off_loop(sha256_of, path),
        "has_header": has_header,
    }
    sending = _Sending(transport)
    upload = await sending.json(_begin(file))
    if not _is_cut_alike(upload, part_bytes=part_bytes):  # by somebody with parts of another size
        await transport.request(Call("DELETE", path_of("uploads", upload["id"])))
        upload = await sending.json(_begin(file))
    there = {part["number"]: part["sha256"] for part in upload["parts"]}
    with path.open("rb") as source:
        for number in range(1, math.ceil(size / part_bytes) + 1):
            data = await off_loop(source.read, part_bytes)
            await sending.put(upload["id"], number, data, there=there.get(number))
            if progress is not None:
                progress(min(number * part_bytes, size), size)
    return from_json(Dataset, await sending.json(_complete(upload["id"])))


def size_of(path: Path) -> int:
    """Return the size of a file in bytes."""
    return path.stat().st_size


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Sending:
    """Sends what may be sent again, and bears an outage."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._patience = AsyncPatience(OUTAGE_SECONDS)

    async def json(self, call: Call) -> Any:
        """Return the JSON of an answer."""
        while True:
            try:
                answer = await self._transport.json(call)
            except LuthierAPIError as error:
                await self._patience.failed(error)
            else:
                self._patience.progressed()
                return answer

    async def put(self, upload_id: str, number: int, data: bytes, *, there: str | None) -> None:
        """Send a part, unless what is `there` already is the same."""
        sent = await off_loop(_digest, data)
        num_wrong = 0
        while there != sent:
            if num_wrong == _MAX_WRONG:
                raise BadUpload(
                    f"part {number} was sent with SHA-256 {sent}, and {there} arrived.",
                    code="wrong_hash",
                    hint="Something between here and the service changes what is sent.",
                )
            num_wrong += 1
            path = path_of("uploads", upload_id, "parts", str(number))
            there = (await self.json(Call("PUT", path, files={"data": ("part", data)})))["sha256"]


def _begin(file: dict[str, Any]) -> Call:
    return Call("POST", "/uploads", json=file, is_repeatable=True)


def _complete(upload_id: str) -> Call:
    path = path_of("uploads", upload_id, "complete")
    return Call("POST", path, read_seconds=SLOW_SECONDS, is_repeatable=True)


def _is_cut_alike(upload: Any, *, part_bytes: int) -> bool:
    """Return whether the parts that have come are those that this client would send."""
    size = upload["size_bytes"]
    return all(
        part["size_bytes"] == min(part_bytes, size - (part["number"] - 1) * part_bytes)
        for part in upload["parts"]
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
