"""Events over connections that break, and waiting for the end."""

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import luthier
from jobs.backends import Backends
from jobs.settings import Settings
from jobs.store import events
from jobs.store.events import NewEvent
from tests.api.conftest import claim, say, serve, succeed
from tests.client.conftest import Connect, fail, submit
from tests.cutting_proxy import CuttingProxy
from trainer_core.errors import LuthierError
from trainer_core.events import EventType

pytestmark = pytest.mark.slow

FILES = {"config.json": b"{}"}


def test_events_come_once_each_over_connections_that_are_cut(
    url: str, client: luthier.Client, connect: Connect, rows: Path, backends: Backends
) -> None:
    submit(client, rows)
    job = claim(backends)
    num_logs = 80

    def work() -> None:
        for number in range(num_logs):
            say(backends, job.id, f"line {number} " + "ä" * 40)
            time.sleep(0.005)
        succeed(backends, job, FILES)

    worker = threading.Thread(target=work)
    with CuttingProxy(url, cut_after_bytes=3001) as proxy, connect(proxy.url) as watcher:
        worker.start()
        seen = list(watcher.jobs.events(job.id))
        worker.join()

    assert proxy.num_cuts >= 5
    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    messages = [event.data["message"] for event in seen if event.type == "log"]
    assert messages == [f"line {number} " + "ä" * 40 for number in range(num_logs)]
    assert seen[-1].is_final


def test_events_go_on_after_the_service_was_restarted(
    service_settings: Settings, connect: Connect, rows: Path, backends: Backends
) -> None:
    with ExitStack() as watching:
        with serve(service_settings) as url, luthier.Client(url) as client:
            submit(client, rows)
            job = claim(backends)
            watcher = watching.enter_context(connect(url))
            seen = watcher.jobs.events(job.id)
            first = [next(seen), next(seen)]
        port = int(url.rpartition(":")[2])
        say(backends, job.id, "while nobody listened")

        with serve(service_settings.model_copy(update={"port": port})):
            succeed(backends, job, FILES)
            rest = list(seen)

    assert [event.id for event in [*first, *rest]] == [1, 2, 3, 4]


def test_events_after_a_number_are_the_later_ones(
    client: luthier.Client, rows: Path, backends: Backends
) -> None:
    job = submit(client, rows)
    succeed(backends, claim(backends), FILES)

    everything = list(client.jobs.events(job.id))

    assert list(client.jobs.events(job.id, after=1)) == everything[1:]
    assert list(client.jobs.events(job.id, after=everything[-1].id)) == []
    assert list(client.jobs.history(job.id)) == everything


def test_wait_returns_a_failed_job_without_raising(
    url: str, client: luthier.Client, connect: Connect, rows: Path, backends: Backends
) -> None:
    job = submit(client, rows)
    failing = threading.Timer(0.5, fail, [backends, LuthierError("went wrong.", hint="Mend it.")])
    failing.start()

    with connect(url) as waiter:
        ended = waiter.jobs.get(job.id).wait(timeout=20)
    failing.join()

    assert ended.state == "failed"
    assert ended.error is not None
    assert (ended.error.message, ended.error.hint) == ("went wrong.", "Mend it.")


def test_wait_raises_once_its_time_is_over(
    url: str, client: luthier.Client, connect: Connect, rows: Path
) -> None:
    job = submit(client, rows)

    with connect(url) as waiter, pytest.raises(TimeoutError) as caught:
        waiter.jobs.wait(job.id, timeout=0.3)

    assert isinstance(caught.value, luthier.WaitTimedOut)
    assert client.jobs.get(job.id).state == "queued"


def test_wait_gives_up_on_a_service_that_stays_away(
    service_settings: Settings, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.client.calls.FIRST_DELAY_SECONDS", 0.05)
    caught: list[Exception] = []

    def wait() -> None:
        try:
            client.jobs.wait(job.id, outage_seconds=0.5)
        except luthier.ServiceUnreachable as error:
            caught.append(error)

    with serve(service_settings) as url:
        client = luthier.Client(url)
        job = submit(client, rows)
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.5)
    waiting.join(timeout=20)
    client.close()

    assert len(caught) == 1


def test_metrics_are_read_and_make_a_table(
    url: str, client: luthier.Client, connect: Connect, rows: Path, backends: Backends
) -> None:
    job = submit(client, rows)
    assert client.jobs.metrics(job.id) == ()
    measured = [
        NewEvent(
            EventType.METRICS,
            {"split": split, "step": step, "epoch": step / 2, "metrics": {"loss": 1 / step}},
        )
        for step, split in ((1, "train"), (2, "train"), (2, "eval"))
    ]
    with backends.database.transaction() as tx:
        events.append(tx, job.id, measured)

    with connect(url) as reader:
        table = reader.jobs.get(job.id).metrics().to_pandas()

    assert list(table.columns) == ["split", "step", "epoch", "at", "loss"]
    assert table.set_index(["split", "step"])["loss"].to_dict() == {
        ("train", 1): 1.0,
        ("train", 2): 0.5,
        ("eval", 2): 0.5,
    }
    assert table["at"].notna().all()


def test_logs_are_read(client: luthier.Client, rows: Path, backends: Backends) -> None:
    job = submit(client, rows)
    say(backends, job.id, "one", "two", "three")

    assert [line.split()[-1] for line in job.logs(tail=2).splitlines()] == ["two", "three"]
