"""The predictor beside a worker: it outlives what is no question, and is started again."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
import redis

from jobs.predictions import Asked, Asker
from trainer_core.errors import LuthierError
from worker.group import members_of
from worker.predictor import beside

pytestmark = pytest.mark.slow

ALIVE, QUESTIONS = "luthier:predict:alive", "luthier:predict:questions"
JUNK = [b"", b"{}", b"null", b"\x80\x04pickle", b"\xff\xfe", b"[" * 100_000, b"{" * 8_000_000]


@pytest.fixture
def client(settings):
    with redis.Redis.from_url(settings.redis_url) as client:
        client.delete(ALIVE, QUESTIONS)
        yield client
        client.delete(ALIVE, QUESTIONS)


def ask(settings):
    """Ask about a job that there is not; return why there is no answer."""

    async def answer():
        asker = Asker(settings.redis_url)
        try:
            async for _ in asker.ask(Asked("default", "job_of_nobody", [], {})):
                pytest.fail("nobody can know that")
        finally:
            await asker.close()

    with pytest.raises(LuthierError) as refused:
        asyncio.run(answer())
    return refused.value


def wait_until(condition, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running():
    """The predictors that this process has started."""
    found = set()
    for one in members_of(os.getpid()):
        with contextlib.suppress(OSError):
            if b"worker.predictor" in Path(f"/proc/{one.pid}/cmdline").read_bytes():
                found.add(one.pid)
    return found


def test_junk_leaves_the_predictor_alive_and_one_that_is_killed_is_started_again(
    settings, backends, client
):
    with beside(settings.model_copy(update={"predict": "cpu"})):
        wait_until(lambda: client.exists(ALIVE))
        (first,) = running()
        client.rpush(QUESTIONS, *JUNK)
        assert "job_of_nobody" in ask(settings).message
        assert running() == {first}

        seen = {first}
        for _ in range(2):
            os.kill(max(running()), signal.SIGKILL)
            wait_until(lambda seen=frozenset(seen): running() - seen)
            seen |= running()
        client.delete(ALIVE)
        wait_until(lambda: client.exists(ALIVE))
        assert "job_of_nobody" in ask(settings).message
    assert not running()
