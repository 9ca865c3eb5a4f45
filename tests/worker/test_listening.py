"""A worker that no longer hears the bell ends, so that its supervisor starts it anew."""

import itertools
import secrets
import threading
import time
from urllib.parse import urlsplit

import pytest
import redis

from jobs.queue import QUEUE
from luthier.embedded.ports import free_port
from tests.cutting_proxy import CuttingProxy
from tests.worker.conftest import open_road
from worker.board import Board
from worker.listening import Listening

pytestmark = pytest.mark.slow


@pytest.fixture
def queue(servers):
    """A Valkey database of the test's own, and its URL."""
    parts = urlsplit(servers.redis_url)
    url = parts._replace(path=f"/{1 + secrets.randbelow(15)}").geturl()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield client, url
        client.flushdb()


def listen(url, tmp_path, *, has_free_slot=lambda: True, num_heard=lambda: 0):
    heard_nothing = threading.Event()
    listening = Listening(
        url,
        alive=tmp_path / "alive",
        has_free_slot=has_free_slot,
        num_heard=num_heard,
        on_silence=heard_nothing.set,
        silent_seconds=0.6,
        look_seconds=0.05,
    )
    listening.start()
    return listening, heard_nothing


def test_message_that_nobody_takes_while_a_slot_is_free_means_silence(queue, tmp_path):
    client, url = queue
    listening, heard_nothing = listen(url, tmp_path)
    assert not heard_nothing.wait(1)
    assert (tmp_path / "alive").exists()
    client.lpush(QUEUE, "{}")
    assert heard_nothing.wait(10)
    listening.stop()
    assert not (tmp_path / "alive").exists()


def test_message_that_is_taken_late_is_no_silence(queue, tmp_path):
    client, url = queue
    listening, heard_nothing = listen(url, tmp_path)
    for _ in range(5):
        client.lpush(QUEUE, "{}")
        time.sleep(0.25)
        client.delete(QUEUE)
        time.sleep(0.15)
    assert not heard_nothing.is_set()
    listening.stop()


def test_messages_that_come_faster_than_they_are_dropped_are_no_silence(queue, tmp_path):
    client, url = queue
    client.lpush(QUEUE, "{}")
    listening, heard_nothing = listen(url, tmp_path, num_heard=itertools.count().__next__)
    assert not heard_nothing.wait(1.5)
    listening.stop()


def test_messages_may_wait_while_every_slot_works_or_redis_is_away(queue, tmp_path):
    client, url = queue
    client.lpush(QUEUE, "{}")
    busy, none_heard = listen(url, tmp_path, has_free_slot=lambda: False)
    away, none_reached = listen(f"redis://127.0.0.1:{free_port()}/0", tmp_path)
    time.sleep(1.5)
    assert not none_heard.is_set()
    assert not none_reached.is_set()
    busy.stop()
    away.stop()


def test_slots_are_free_until_they_work(tmp_path):
    board = Board(2)
    assert board.has_free_slot
    board.mark(0, is_busy=True)
    assert board.has_free_slot
    board.mark(1, is_busy=True)
    assert not board.has_free_slot
    board.mark(0, is_busy=False)
    assert board.has_free_slot
    assert not board.is_draining
    board.drain()
    assert board.is_draining


@pytest.fixture
def road(servers, tmp_path):
    """A service whose worker has no training process."""
    with open_road(servers, tmp_path, warm_spare=False) as found:
        yield found


def test_worker_whose_connections_were_swallowed_ends_within_half_a_minute(road):
    parts = urlsplit(road.settings.redis_url)
    with CuttingProxy(road.settings.redis_url) as proxy:
        netloc = f"{parts.netloc.rpartition(':')[0]}:{proxy.port}"
        worker = road.start_worker(redis_url=parts._replace(netloc=netloc).geturl())
        alive = road.settings.home / "worker.alive"
        deadline = time.monotonic() + 60
        while not alive.exists():
            assert worker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)
        proxy.swallow_all()
        with redis.Redis.from_url(road.settings.redis_url) as client:
            client.lpush(QUEUE, "{}")  # answers a request of before, and is lost on the way
            time.sleep(1)
            client.lpush(QUEUE, "{}")  # as the sweeper rings again
            worker.wait(30)
            client.delete(QUEUE)
    road.workers.clear()


def test_worker_that_can_not_begin_says_so_by_its_exit_code(servers, tmp_path):
    with (
        open_road(servers, tmp_path, warm_spare=False) as road,
        redis.Redis.from_url(servers.redis_url) as client,
    ):
        client.replicaof("127.0.0.1", "1")  # it takes no writes
        try:
            assert road.start_worker().wait(60) == 1
        finally:
            client.replicaof("NO", "ONE")
        log = (road.settings.home / "logs" / "worker-0.log").read_text()
        assert "read only replica" in log
        assert "a defect of luthier" not in log
