"""Messages in the queue that no service has sent: dropped, counted, and none of them is run."""

import base64
import json
import pickle
import re
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from jobs.backends import connect
from jobs.identifiers import new_id
from jobs.queue import QUEUE, TASK, Bell, make_celery
from jobs.states import State
from jobs.store import jobs, models
from tests.stored import DATASET, keep_dataset
from tests.worker.conftest import Road, open_road
from trainer_core.spec import parse_spec

pytestmark = pytest.mark.slow

PICKLED = pickle.dumps(print)
JUNK = {
    "nothing": b"",
    "a pickle": PICKLED,
    "no JSON": b"run everything",
    "no UTF-8": b"\xff\xfe{}",
    "an empty object": b"{}",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1e999",
    "deep JSON": b"[" * 100_000,
    "a type that JSON lacks": b'{"__type__": "bytes", "__value__": 3}',
    "a number of many digits": b"1" * 5_000,
}


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def body(*args: object, kwargs: object = None, **embedded: object) -> dict[str, object]:
    plan = dict.fromkeys(("callbacks", "errbacks", "chain", "chord")) | embedded
    return {"body": encoded([list(args), kwargs or {}, plan])}


JOB = new_id("job")
CALL = {"task": TASK, "args": [JOB], "kwargs": {}, "options": {}}
CHANGED: dict[str, dict[str, Any]] = {
    "an unknown task": {"headers": {"task": "os.system"}},
    "a task of Celery's own": {"headers": {"task": "celery.map"}, **body(CALL, [[JOB]])},
    "no task": {"headers": {"task": None}},
    "a pickled body": {
        "content-type": "application/x-python-serialize",
        "content-encoding": "binary",
        "body": base64.b64encode(PICKLED).decode(),
    },
    "a YAML body": {"content-type": "application/x-yaml", "body": encoded("!!python/none")},
    "a body that is not encoded": {"body": "[[], {}, {}]"},
    "an encoding that nobody knows": {"properties": {"body_encoding": "rot13"}},
    "no arguments": body(),
    "more arguments": body(JOB, JOB),
    "arguments with names": body(JOB, kwargs={"command": "id"}),
    "an argument that is no job": body("../../etc/passwd"),
    "an argument that is no text": body({"$gt": ""}),
    "a huge body": body("job_" + "0" * 8_000_000),
    "a task to follow": body(JOB, callbacks=[CALL]),
    "a chain": body(JOB, chain=[CALL]),
    "a limit of its time, which would kill the slot": {"headers": {"timelimit": [1, 1]}},
    "a time far ahead": {"headers": {"eta": "2999-01-01T00:00:00+00:00"}},
    "a time that is none": {"headers": {"expires": "soon"}},
    "a compressed body": {
        "headers": {"compression": "application/x-gzip"},
        "body": base64.b64encode(zlib.compress(b"0" * 8_000_000)).decode(),
    },
    "a header of its own": {"headers": {"run_as": "root"}},
    "tries without an end": {"headers": {"retries": 10**9}},
    "headers that are a list": {"headers": []},
    "no tag": {"properties": {"delivery_tag": None}},
    "no way that it came": {"properties": {"delivery_info": None}},
    "another queue's": {"properties": {"delivery_info": {"exchange": "", "routing_key": "x"}}},
    "a field of its own": {"also": 1},
}


@pytest.fixture
def road(servers, tmp_path) -> Iterator[Road]:
    with open_road(servers, tmp_path, warm_spare=False) as found:
        yield found


@pytest.fixture
def queue(road) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(road.settings.redis_url) as client:
        yield client


@pytest.fixture
def ring(road, queue) -> Callable[[str], None]:
    app = make_celery(road.settings.redis_url, socket_timeout_seconds=2)
    bell = Bell(app, queue)
    return lambda job_id: bell.ring([job_id])


def genuine(queue: "redis.Redis", ring: Callable[[str], None]) -> dict[str, Any]:
    """A message of the service's own, taken out of the queue before anybody hears it."""
    ring(JOB)
    message: dict[str, Any] = json.loads(queue.lpop(QUEUE))
    return message


def changed(message: dict[str, Any], change: dict[str, Any]) -> bytes:
    merged = {
        name: {**message[name], **value} if isinstance(value, dict) else value
        for name, value in change.items()
    }
    return json.dumps({**message, **merged}).encode()


def forged(message: dict[str, Any]) -> dict[str, bytes]:
    return JUNK | {name: changed(message, change) for name, change in CHANGED.items()}


def wait_until(worker, condition: Callable[[], object], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert worker.poll() is None, "the worker has ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_forged_messages_are_dropped_and_counted_and_the_next_job_is_taken(road, queue, ring):
    messages = forged(genuine(queue, ring))
    assert len(messages) >= 20
    # What Celery would take for messages that a worker has lost, and read before all others.
    queue.hset("unacked", "tag", b"no JSON")
    queue.zadd("unacked_index", {"tag": 1})
    backends = connect(road.settings)
    worker = road.start_worker()
    log = road.settings.home / "logs" / "worker-0.log"
    wait_until(worker, (road.settings.home / "worker.alive").exists)

    for message in messages.values():
        queue.lpush(QUEUE, message)
    queue.lpush(f"{QUEUE}\x06\x163", *messages.values())  # of another priority
    ring(new_id("job"))  # of nobody: well formed, and there is nothing to run
    wait_until(worker, lambda: f"{TASK}[" in log.read_text())
    with backends.database.transaction() as tx:
        models.create(tx, "gone", project="default", path="/nowhere", hub=None, revision=None)
        keep_dataset(tx)
        values = {"task": "text-classification", "model": "model:gone"}
        values |= {"data": {"train": f"dataset:{DATASET}"}}
        job = jobs.create(tx, parse_spec(values), project="default", max_attempts=1)
    wait_until(worker, lambda: road.job(job.id)["state"] == State.FAILED)
    wait_until(worker, lambda: f"({2 * len(messages)} so far)" in log.read_text())
    road.stop_workers()
    backends.engine.dispose()

    told = log.read_text()
    assert len(re.findall(rf"{re.escape(TASK)}\[.*received", told)) <= 3  # ours, and the sweeper's
    assert "Traceback" not in told
    assert "os.system" not in told
    assert [attempt["number"] for attempt in road.job(job.id)["attempts"]] == [1]
