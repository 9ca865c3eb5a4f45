"""Events over connections that break, and waiting for the end."""

import threading
import time
from pathlib import Path

import pytest

import luthier
from jobs.backends import Backends
from jobs.settings import Settings
from tests.api.conftest import claim, say, serve, succeed
from tests.client.conftest import fail, submit
from tests.cutting_proxy import CuttingProxy
from trainer_core.errors import LuthierError

pytestmark = pytest.mark.slow

FILES = {"config.json": b"{}"}


def test_events_come_once_each_over_connections_that_are_cut(
    url: str, client: luthier.Client, rows: Path, backends: Backends
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
    with CuttingProxy(url, cut_after_bytes=3001) as proxy, luthier.Client(proxy.url) as watcher:
        worker.start()
        seen = list(watcher.jobs.events(job.id))
        worker.join()

    assert proxy.num_cuts >= 5
    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    messages = [event.data["message"] for event in seen if event.type == "log"]
    assert messages == [f"line {number} " + "ä" * 40 for number in range(num_logs)]
    assert seen[-1].is_final


def test_events_go_on_after_the_service_was_restarted(
    service_settings: Settings, rows: Path, backends: Backends
) -> None:
    with serve(service_settings) as url, luthier.Client(url) as client:
        submit(client, rows)
        job = claim(backends)
        watcher = luthier.Client(url)
        events = watcher.jobs.events(job.id)
        first = [next(events), next(events)]
    port = int(url.rpartition(":")[2])
    say(backends, job.id, "while nobody listened")

    with serve(service_settings.model_copy(update={"port": port})), watcher:
        succeed(backends, job, FILES)
        rest = list(events)

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
    client: luthier.Client, rows: Path, backends: Backends
) -> None:
    job = submit(client, rows)
    failing = threading.Timer(0.5, fail, [backends, LuthierError("went wrong.", hint="Mend it.")])
    failing.start()

    ended = client.jobs.wait(job.id, timeout=20)
    failing.join()

    assert ended.state == "failed"
    assert ended.error is not None
    assert (ended.error.message, ended.error.hint) == ("went wrong.", "Mend it.")


def test_wait_raises_once_its_time_is_over(client: luthier.Client, rows: Path) -> None:
    job = submit(client, rows)

    with pytest.raises(TimeoutError) as caught:
        client.jobs.wait(job.id, timeout=0.3)

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


def test_metrics_and_logs_are_read(client: luthier.Client, rows: Path, backends: Backends) -> None:
    job = submit(client, rows)
    say(backends, job.id, "one", "two", "three")

    assert client.jobs.metrics(job.id) == ()
    assert [line.split()[-1] for line in client.jobs.logs(job.id, tail=2).splitlines()] == [
        "two",
        "three",
    ]
