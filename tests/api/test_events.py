"""Events as pages and live, measurements and the log."""

import csv
import io
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from jobs.backends import Backends
from jobs.feed import stream_of
from jobs.settings import Settings
from jobs.store import events
from jobs.store.events import NewEvent
from jobs.transaction import Transaction
from tests.api.conftest import Shared, claim, say, serve, spec_of, submit, succeed, upload
from trainer_core.events import EventType

pytestmark = pytest.mark.slow

SSE = {"Accept": "text/event-stream"}
DEAD_REDIS = "redis://127.0.0.1:1/0"


def frames(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the frames of a stream: fields by name, a comment under ''."""
    frame: dict[str, Any] = {}
    for line in response.iter_lines():
        if not line:
            yield frame
            frame = {}
            continue
        name, _, value = line.partition(": ")
        frame[name.rstrip(":")] = value


def live(client: httpx.Client, job_id: str, **headers: str) -> Any:
    return client.stream("GET", f"/jobs/{job_id}/events", headers={**SSE, **headers})


def ids_to_the_end(client: httpx.Client, job_id: str, *, after: int = 0) -> list[int]:
    with client.stream("GET", f"/jobs/{job_id}/events?after={after}", headers=SSE) as response:
        assert response.status_code == 200
        return [int(frame["id"]) for frame in frames(response) if "id" in frame]


def test_events_are_paged_oldest_first(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    say(backends, job_id, "one", "two", "three")

    first = client.get(f"/jobs/{job_id}/events?limit=3").json()
    rest = client.get(f"/jobs/{job_id}/events?after=3").json()

    assert [event["id"] for event in first["data"]] == [1, 2, 3]
    assert first["has_more"] is True
    assert [event["data"]["message"] for event in rest["data"]] == ["three"]
    assert rest["has_more"] is False
    assert (first["data"][0]["type"], first["data"][0]["job_id"]) == ("state", job_id)


def test_stream_tells_each_event_as_the_page_does_and_ends_with_the_job(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)
    job = claim(backends)
    say(backends, job_id, "two\nlines")
    succeed(backends, job, {"config.json": b"{}"})

    with live(client, job_id) as response:
        told = [frame for frame in frames(response) if "id" in frame]

    paged = client.get(f"/jobs/{job_id}/events").json()["data"]
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert [json.loads(frame["data"]) for frame in told] == paged
    assert [frame["event"] for frame in told] == [event["type"] for event in paged]
    assert [int(frame["id"]) for frame in told] == [event["id"] for event in paged]
    assert paged[-1]["data"]["state"] == "succeeded"


def test_stream_that_connects_while_events_come_has_no_gap_and_no_double(
    client: httpx.Client, backends: Backends
) -> None:
    dataset = upload(client)
    for round_ in range(50):
        job_id = client.post("/jobs", json=spec_of(dataset)).json()["id"]
        job = claim(backends)
        say(backends, job_id, *["before"] * (round_ % 3))

        def write(job: Any = job, round_: int = round_) -> None:
            for number in range(8):
                say(backends, job.id, f"during {number}")
                time.sleep(0.002 * (round_ % 4))
            succeed(backends, job, {"config.json": b"{}"})

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(0.003 * (round_ % 10))
        seen = ids_to_the_end(client, job_id)
        writer.join()

        with backends.database.transaction() as tx:
            stored = [event.id for event in events.read(tx, job_id, after=0, limit=1000)]
        assert seen == stored == list(range(1, len(stored) + 1)), f"round {round_}"


def test_dropped_stream_resumes_after_the_last_event_seen(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)
    job = claim(backends)
    say(backends, job_id, *map(str, range(20)))
    with live(client, job_id) as response:
        first = [int(frame["id"]) for frame in itertools.islice(frames(response), 7)]
    say(backends, job_id, "while away")
    succeed(backends, job, {"config.json": b"{}"})

    with live(client, job_id, **{"Last-Event-ID": str(first[-1])}) as response:
        rest = [int(frame["id"]) for frame in frames(response) if "id" in frame]

    assert first + rest == list(range(1, len(first) + len(rest) + 1))
    assert len(rest) > 14


def test_last_event_id_counts_over_the_parameter(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    say(backends, job_id, "two", "three")
    client.post(f"/jobs/{job_id}/cancel")

    url = f"/jobs/{job_id}/events?after=1"
    with client.stream("GET", url, headers={**SSE, "Last-Event-ID": "3"}) as response:
        seen = [int(frame["id"]) for frame in frames(response) if "id" in frame]

    assert seen == [4]


def test_client_that_has_seen_the_end_is_told_to_stop(client: httpx.Client) -> None:
    job_id = submit(client)
    client.post(f"/jobs/{job_id}/cancel")
    last = ids_to_the_end(client, job_id)[-1]

    response = client.get(f"/jobs/{job_id}/events", headers={**SSE, "Last-Event-ID": str(last)})

    assert (response.status_code, response.content) == (204, b"")


def test_stream_ends_though_something_was_told_after_the_end(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)
    client.post(f"/jobs/{job_id}/cancel")
    say(backends, job_id, "an afterthought")

    assert ids_to_the_end(client, job_id, after=2) == [3]


def test_silent_stream_sends_heartbeats(client: httpx.Client) -> None:
    job_id = submit(client)

    with live(client, job_id) as response:
        told = list(itertools.islice(frames(response), 3))

    assert [set(frame) for frame in told] == [{"event", "data", "id"}, {""}, {""}]


def test_long_history_is_replayed_in_pages(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    for _ in range(4):
        say(backends, job_id, *["again"] * 400)
    client.post(f"/jobs/{job_id}/cancel")

    assert ids_to_the_end(client, job_id) == list(range(1, 1603))


def _delayed(action: Any, seconds: float = 0.3) -> threading.Thread:
    def run() -> None:
        time.sleep(seconds)
        action()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_stream_survives_a_flushed_redis(
    client: httpx.Client, backends: Backends, settings: Settings
) -> None:
    job_id = submit(client)
    job = claim(backends)
    assert settings.redis_url is not None

    def flush_and_go_on() -> None:
        assert settings.redis_url is not None
        for number in range(5):
            say(backends, job_id, str(number))
            with redis.Redis.from_url(settings.redis_url) as server:
                server.delete(stream_of(job_id))
        succeed(backends, job, {"config.json": b"{}"})

    writer = _delayed(flush_and_go_on)
    seen = ids_to_the_end(client, job_id)
    writer.join()

    assert seen == list(range(1, 9))


def test_events_that_never_reach_redis_come_with_the_heartbeat(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)

    def write_past_redis() -> None:
        with backends.engine.begin() as connection:
            unpublished = Transaction(connection)
            events.append(unpublished, job_id, [NewEvent(EventType.LOG, {"message": "quiet"})])

    with live(client, job_id) as response:
        told = frames(response)
        next(told)
        write_past_redis()
        quiet = next(frame for frame in told if "id" in frame)

    assert json.loads(quiet["data"])["data"] == {"message": "quiet"}


def test_forged_entry_in_redis_neither_shows_nor_ends_the_stream(
    client: httpx.Client, backends: Backends, settings: Settings
) -> None:
    job_id = submit(client)
    assert settings.redis_url is not None

    def forge() -> None:
        assert settings.redis_url is not None
        with redis.Redis.from_url(settings.redis_url) as server:
            server.xadd(stream_of(job_id), {"event": "{not json"})
        client.post(f"/jobs/{job_id}/cancel")

    writer = _delayed(forge)
    seen = ids_to_the_end(client, job_id)
    writer.join()

    assert seen == [1, 2]


def test_without_redis_jobs_are_taken_and_events_come_from_the_database(
    service_settings: Settings,
) -> None:
    settings = service_settings.model_copy(update={"redis_url": DEAD_REDIS})
    with serve(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        started = time.monotonic()
        job_id = submit(client)
        submitted_in = time.monotonic() - started
        canceller = _delayed(lambda: httpx.post(f"{url}/jobs/{job_id}/cancel", timeout=30), 1)
        seen = ids_to_the_end(client, job_id)
        canceller.join()

    assert seen == [1, 2]
    assert submitted_in < 3


def test_open_streams_do_not_keep_the_service_from_stopping(service_settings: Settings) -> None:
    with httpx.Client(timeout=30) as client:
        with serve(service_settings) as url:
            client.base_url = httpx.URL(url)
            opened = live(client, submit(client))
            told = frames(opened.__enter__())
            next(told)
            stopping_at = time.monotonic()
        stopped_in = time.monotonic() - stopping_at
        rest = list(told)
        opened.__exit__(None, None, None)

    assert stopped_in < 4
    assert all("id" not in frame for frame in rest)


def test_reader_that_takes_nothing_is_cut_and_resumes_without_a_gap(
    client: httpx.Client, url: str, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D9: what is kept for it is a page, not all there is."""
    monkeypatch.setattr("api.streams.MAX_SEND_SECONDS", 0.5)
    job_id = submit(client)
    job = claim(backends)
    for _ in range(40):
        say(backends, job_id, *("x" * 10_000 for _ in range(100)))  # 40 MB in all
    succeed(backends, job, {"config.json": b"{}"})
    num_events = client.get(f"/jobs/{job_id}/events?after=4000&limit=1000").json()["data"][-1]["id"]

    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        reader.sendall(
            f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Accept: text/event-stream\r\n\r\n".encode()
        )
        time.sleep(3)
        received = b"".join(iter(lambda: reader.recv(65_536), b""))  # up to where it was cut

    assert len(received) < 30_000_000
    seen = [int(line[4:]) for line in received.split(b"\r\n\r\n", 1)[1].split(b"\n")
            if line.startswith(b"id: ")]  # fmt: skip
    assert seen == list(range(1, len(seen) + 1))
    after = seen[-2]  # the last one may not have come whole
    rest = ids_to_the_end(client, job_id, after=after)
    assert rest == list(range(after + 1, num_events + 1))


def test_streams_hold_no_database_connection(
    client: httpx.Client, url: str, backends: Backends
) -> None:
    job_id = submit(client)
    with httpx.Client(base_url=url, timeout=30) as watchers:
        opened = [live(watchers, job_id) for _ in range(40)]  # more than the pool has
        try:
            for stream in opened:
                next(frames(stream.__enter__()))

            assert client.get(f"/jobs/{job_id}", timeout=5).status_code == 200
        finally:
            for stream in opened:
                stream.__exit__(None, None, None)


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "9" * 30])
def test_wrong_last_event_id_is_refused(shared: Shared, value: str) -> None:
    job_id = submit(shared.client)

    response = shared.client.get(f"/jobs/{job_id}/events", headers={**SSE, "Last-Event-ID": value})

    assert response.status_code == 422


def test_last_event_id_of_the_future_follows_from_now(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)

    with live(client, job_id, **{"Last-Event-ID": "999"}) as response:
        canceller = _delayed(lambda: client.post(f"/jobs/{job_id}/cancel"))
        seen = [int(frame["id"]) for frame in frames(response) if "id" in frame]
        canceller.join()

    assert seen == [2]


@pytest.mark.parametrize("path", ["events", "metrics", "logs", "model", "model/x", ""])
def test_unknown_job_is_not_found_on_each_route(shared: Shared, path: str) -> None:
    headers = SSE if path == "events" else {}

    response = shared.client.get(f"/jobs/job_0123456789/{path}".rstrip("/"), headers=headers)

    assert (response.status_code, response.json()["code"]) == (404, "job_not_found")


def _measure(backends: Backends, job_id: str, *measured: dict[str, Any]) -> None:
    with backends.database.transaction() as tx:
        events.append(tx, job_id, [NewEvent(EventType.METRICS, data) for data in measured])


def test_measurements_come_as_json_and_csv(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    _measure(
        backends,
        job_id,
        {"split": "train", "step": 5, "epoch": 0.5, "metrics": {"loss": 1.5}},
        {"split": "eval", "step": 10, "epoch": 1.0, "metrics": {"accuracy": 0.75, "loss": 1.25}},
    )

    told = client.get(f"/jobs/{job_id}/metrics").json()["data"]
    by_header = client.get(f"/jobs/{job_id}/metrics", headers={"Accept": "text/csv"})
    by_parameter = client.get(f"/jobs/{job_id}/metrics?format=csv")

    assert [row["split"] for row in told] == ["train", "eval"]
    assert told[1]["metrics"] == {"accuracy": 0.75, "loss": 1.25}
    assert by_header.text == by_parameter.text
    assert by_header.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(by_header.text)))
    assert list(rows[0]) == ["split", "step", "epoch", "at", "loss", "accuracy"]
    assert [row["accuracy"] for row in rows] == ["", "0.75"]


def test_measurement_that_is_no_number_is_null(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    data = {"split": "eval", "step": 1, "epoch": 1.0, "metrics": {"loss": float("nan")}}
    _measure(backends, job_id, data)

    (row,) = client.get(f"/jobs/{job_id}/metrics").json()["data"]

    assert row["metrics"] == {"loss": None}


def test_log_is_text_with_a_line_an_entry(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    say(backends, job_id, "one", "two\nand \x1b[31mred")
    with backends.database.transaction() as tx:
        warning = {"code": "truncated", "message": "rows are cut.", "hint": "Raise max_length."}
        events.append(tx, job_id, [NewEvent(EventType.WARNING, warning)])

    whole = client.get(f"/jobs/{job_id}/logs")
    tail = client.get(f"/jobs/{job_id}/logs?tail=1")

    lines = whole.text.splitlines()
    assert whole.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert [line.split(" ", 1)[1] for line in lines] == [
        "LOG one",
        "LOG two\\x0aand \\x1b[31mred",
        "WARNING rows are cut. Raise max_length.",
    ]
    assert tail.text.splitlines() == lines[-1:]


def entries(client: httpx.Client, query: str, job_id: str) -> list[str]:
    text = client.get(f"/jobs/{job_id}/logs?{query}").text
    return [line.split(" ", 2)[2] for line in text.splitlines()]


def test_log_can_be_read_from_either_end(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    say(backends, job_id, *"abcdef")  # events 2 to 7
    _measure(backends, job_id, {"split": "train", "step": 5, "epoch": 0.5, "metrics": {"loss": 1}})

    assert entries(client, "tail=2", job_id) == ["e", "f"]
    assert entries(client, "after=5", job_id) == ["e", "f"]
    assert entries(client, "after=6&tail=3", job_id) == ["f"]
    assert entries(client, "tail=0", job_id) == []


def test_followed_log_goes_on_to_the_end_of_the_job(
    client: httpx.Client, backends: Backends
) -> None:
    job_id = submit(client)
    job = claim(backends)
    say(backends, job_id, "one", "two")
    with client.stream("GET", f"/jobs/{job_id}/logs?tail=1&follow=true") as response:
        lines = response.iter_lines()
        first = next(lines)
        say(backends, job_id, "three")
        second = next(lines)
        succeed(backends, job, {"config.json": b"{}"})
        rest = list(lines)

    assert response.headers["Content-Type"].startswith("text/plain")
    assert [line.split(" ", 2)[2] for line in (first, second, *rest)] == ["two", "three"]


def test_stream_of_the_log_is_resumed_by_its_ids(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    job = claim(backends)
    say(backends, job_id, "one", "two")
    succeed(backends, job, {"config.json": b"{}"})

    def told(**headers: str) -> list[tuple[str, str]]:
        with client.stream("GET", f"/jobs/{job_id}/logs", headers={**SSE, **headers}) as response:
            assert response.status_code == 200
            return [(f["id"], f["data"].split(" ", 2)[2]) for f in frames(response) if "id" in f]

    assert told() == [("3", "one"), ("4", "two")]
    assert told(**{"Last-Event-ID": "3"}) == [("4", "two")]
    ended = client.get(f"/jobs/{job_id}/logs", headers={**SSE, "Last-Event-ID": "5"})
    assert ended.status_code == 204


NUM_MEASURED = 2_500
PEAKS = {700: 9.0, 701: -9.0, 2_000: 7.0}


def curve(backends: Backends, job_id: str) -> None:
    """Measure a loss that falls, with peaks, and an accuracy with one."""
    rows = [
        {
            "split": "train",
            "step": step,
            "epoch": 1.0,
            "metrics": {
                "accuracy": 1.0 if step == 1_234 else 0.5,
                "loss": PEAKS.get(step, 5 - step / 1000),
            },
        }
        for step in range(NUM_MEASURED)
    ]
    evals = [
        {"split": "eval", "step": step, "epoch": 1.0, "metrics": {"loss": 1.0}} for step in range(4)
    ]
    _measure(backends, job_id, *rows, *evals)


def test_measurements_come_in_pages(client: httpx.Client, backends: Backends) -> None:
    job_id = submit(client)
    curve(backends, job_id)
    seen: list[int] = []
    has_more, after = True, 0
    while has_more:
        page = client.get(f"/jobs/{job_id}/metrics?split=train&limit=999&after={after}").json()
        seen += [row["step"] for row in page["data"]]
        has_more, after = page["has_more"], page["data"][-1]["id"]

    assert seen == list(range(NUM_MEASURED))
    table = client.get(f"/jobs/{job_id}/metrics?format=csv&split=train").text
    assert [int(row["step"]) for row in csv.DictReader(io.StringIO(table))] == seen


@pytest.mark.parametrize("form", ["json", "csv"])
def test_fewer_measurements_keep_the_ends_the_extremes_and_the_peaks(
    client: httpx.Client, backends: Backends, form: str
) -> None:
    job_id = submit(client)
    curve(backends, job_id)

    reply = client.get(f"/jobs/{job_id}/metrics?max_points=100&format={form}")

    rows = list(csv.DictReader(io.StringIO(reply.text))) if form == "csv" else reply.json()["data"]
    steps = [int(row["step"]) for row in rows if row["split"] == "train"]
    assert len(steps) <= 100
    assert steps == sorted(set(steps))
    assert {0, NUM_MEASURED - 1, 1_234, *PEAKS} <= set(steps)
    assert max(b - a for a, b in itertools.pairwise(steps)) < NUM_MEASURED / 100 * 5
    assert [int(row["step"]) for row in rows if row["split"] == "eval"] == [0, 1, 2, 3]


@pytest.mark.parametrize("max_points", [2, 3, 5])
def test_very_few_measurements_are_the_ends_first(
    client: httpx.Client, backends: Backends, max_points: int
) -> None:
    job_id = submit(client)
    curve(backends, job_id)

    query = f"max_points={max_points}&split=train"
    reply = client.get(f"/jobs/{job_id}/metrics?{query}").json()

    steps = [row["step"] for row in reply["data"]]
    assert len(steps) == max_points
    assert {0, NUM_MEASURED - 1} <= set(steps)
    assert reply["has_more"] is False
