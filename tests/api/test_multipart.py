"""A multipart body gives its file back, byte for byte, however it is cut into chunks."""

import asyncio
import random
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import Message

from api import uploads

_BOUNDARY = b"cut"
_PIECES = (b"\r", b"\n", b"\r\n", b"-", b"\r\n--", b"\r\n--cu", b"--cut", b"row", b"x" * 50)
# What looks like a boundary is none, unless a line break and `--cut` come together.


def body_of(content: bytes) -> bytes:
    head = b'Content-Disposition: form-data; name="file"; filename="a.txt"'
    return b"--cut\r\n" + head + b"\r\n\r\n" + content + b"\r\n--cut--\r\n"


def cut(body: bytes, *, chance: random.Random) -> list[bytes]:
    places = sorted(chance.sample(range(1, len(body)), chance.randint(0, min(12, len(body) - 1))))
    return [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]


async def received(chunks: list[bytes], *, folder: Path) -> bytes:
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": number < len(chunks)}
        for number, chunk in enumerate(chunks, start=1)
    ]

    async def receive() -> Message:
        return messages.pop(0)

    kind = b"multipart/form-data; boundary=" + _BOUNDARY
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)]}
    async with uploads.received(
        Request(scope, receive), folder=folder, max_bytes=1 << 30
    ) as upload:
        assert upload.size_bytes == upload.path.stat().st_size
        return upload.path.read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_file_is_the_same_however_its_body_is_cut(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    for _ in range(100):
        content = b"".join(chance.choices(_PIECES, k=chance.randint(0, 12)))
        if b"\r\n--cut" in content:
            continue
        assert asyncio.run(received(cut(body_of(content), chance=chance), folder=tmp_path)) == (
            content
        )


def test_large_file_in_small_and_large_chunks_is_written_whole(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(9_000_000)  # noqa: S311 - repeatable, not secret
    body = body_of(content)
    for size in (3_000, 65_536, 5_000_000):
        chunks = [body[start : start + size] for start in range(0, len(body), size)]
        assert asyncio.run(received(chunks, folder=tmp_path)) == content
