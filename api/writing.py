"""Writing a file of which more comes in meanwhile."""

import asyncio
import os
from collections.abc import Sequence
from typing import IO, Self

from fastapi.concurrency import run_in_threadpool

MAX_PIECES = 1000  # Linux takes 1024 at once


class Writing:
    """Writes to a file in a thread while the next bytes come in; one write at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._write: asyncio.Task[None] | None = None  # in hand

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._write is not None:
            await self._write

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Write pieces once those before are written."""
        if self._write is not None:
            await self._write
        self._write = asyncio.create_task(run_in_threadpool(_write, pieces, self._file))


def _write(pieces: Sequence[bytes], file: IO[bytes]) -> None:
    """Write all pieces to the file, as they are."""
    left = [memoryview(piece) for piece in pieces]
    while left:
        written = os.writev(file.fileno(), left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]
