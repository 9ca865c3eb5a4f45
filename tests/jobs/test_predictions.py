"""Questions in line: how many may wait, of whom, and what is no question."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import redis

from jobs.predictions import MAX_WAITING_EACH, Asked, Asker, Desk
from trainer_core.errors import LuthierError, RateLimited, ServiceUnavailable

pytestmark = pytest.mark.slow

QUESTIONS = "luthier:predict:questions"
WANTED = "luthier:predict:wanted:"
ASKED = Asked("default", "job_1", [{"text": "Hello"}], {"seed": 1})


@pytest.fixture
def desk(servers) -> Iterator[Desk]:
    desk = Desk(servers.redis_url)
    desk.say_alive()
    yield desk
    with redis.Redis.from_url(servers.redis_url) as client:
        client.delete(QUESTIONS, *client.keys("luthier:predict:*"))


@pytest.fixture
def client(servers) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(servers.redis_url) as client:
        yield client


def test_one_project_leaves_places_to_others_and_all_together_have_an_end(servers, desk):
    async def ask(asker: Asker, project: str) -> str:
        try:
            async for _ in asker.ask(Asked(project, "job_1", [], {})):
                return "answered"
        except LuthierError as error:
            return error.code
        return "waited"

    async def refused(
        asker: Asker, waiting: set["asyncio.Task[str]"], project: str
    ) -> Counter[str]:
        crowd = [asyncio.create_task(ask(asker, project)) for _ in range(40)]
        waiting.update(crowd)
        done = set()
        while len(done) < 40 - MAX_WAITING_EACH:
            new, _ = await asyncio.wait(set(crowd) - done, return_when=asyncio.FIRST_COMPLETED)
            done |= new
        return Counter(task.result() for task in done)

    async def crowd() -> None:
        asker, waiting = Asker(servers.redis_url), set()
        try:
            assert await refused(asker, waiting, "loud") == {RateLimited.code: 32}
            assert await refused(asker, waiting, "quiet") == {ServiceUnavailable.code: 32}
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        assert not await asker._client.llen(QUESTIONS)  # who has gone holds no place
        await asker.close()

    asyncio.run(crowd())


@pytest.mark.parametrize(
    "changes",
    [
        {"project": "other"},
        {"id": "ask_other"},
        {"job_id": 5},
        {"inputs": "Hello"},
        {"inputs": [5]},
        {"settings": None},
        {"is_streamed": "yes"},
    ],
)
def test_forged_question_is_dropped_and_counted(desk, client, caplog, changes):
    client.set(f"{WANTED}{ASKED.id}", json.dumps(asdict(ASKED)))
    client.rpush(QUESTIONS, f"default:{ASKED.id}")
    assert desk.next() == ASKED
    client.set(f"{WANTED}{ASKED.id}", json.dumps(asdict(ASKED) | changes))
    client.rpush(QUESTIONS, f"default:{ASKED.id}")
    assert desk.next() is None
    assert "that are no question (1 so far)" in caplog.text
