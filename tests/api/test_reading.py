"""The threads that read rows."""

import asyncio
import threading

import pytest
from anyio import to_thread

from api.reading import Readers
from trainer_core.errors import ServiceUnavailable


def test_readers_leave_the_shared_threads_free_and_refuse_the_eleventh() -> None:
    async def crowd() -> tuple[int, list[int]]:
        readers = Readers()
        release = threading.Event()

        def read() -> int:
            release.wait(timeout=20)
            return 1

        running = [asyncio.create_task(readers.run(read)) for _ in range(10)]
        try:
            for _ in range(10):
                await asyncio.sleep(0)
            with pytest.raises(ServiceUnavailable) as refused:
                await readers.run(read)
            num_taken = to_thread.current_default_thread_limiter().borrowed_tokens
        finally:
            release.set()
        assert refused.value.detail["retry_after_seconds"] > 0
        return int(num_taken), await asyncio.gather(*running)

    assert asyncio.run(crowd()) == (0, [1] * 10)
