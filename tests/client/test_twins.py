"""The two clients: made of one source, and both whole."""

import inspect
from pathlib import Path

import pytest

import luthier
from jobs.backends import Backends
from tests.api.conftest import claim, succeed
from tests.client.conftest import Connect, fail
from tests.client.driven import Driven
from tests.client.twins import TWIN, twins
from trainer_core.errors import LuthierError


def test_synchronous_client_is_made_of_the_asynchronous_one() -> None:
    for name, text in twins().items():
        assert (TWIN / name).read_text(encoding="utf-8") == text, (
            f"{name}: renew it with `python -m tests.client.twins`"
        )


def test_nothing_of_the_synchronous_client_waits_for_a_loop() -> None:
    for path in TWIN.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("async ", "await ", "asyncio", "Async")), path


def test_both_clients_have_the_same_calls() -> None:
    with luthier.Client("http://127.0.0.1:1") as client:
        other = luthier.AsyncClient("http://127.0.0.1:1")
        for name, resource in vars(client).items():
            twin = getattr(other, name)
            calls = {call for call, _ in inspect.getmembers(resource, inspect.ismethod)}
            assert calls == {call for call, _ in inspect.getmembers(twin, inspect.ismethod)}


@pytest.mark.slow
def test_job_is_made_followed_changed_and_made_again(
    url: str, connect: Connect, rows: Path, backends: Backends
) -> None:
    with connect(url) as client:
        dataset = client.datasets.upload(rows)
        spec = {
            "task": "text-classification",
            "model": "hub:org/encoder",
            "data": {"train": f"dataset:{dataset.id}"},
        }
        job = client.jobs.create(spec)
        assert isinstance(job, luthier.Job | Driven)
        fail(backends, LuthierError("went wrong."))

        seen = list(job.events())
        assert [event.id for event in seen] == list(range(1, len(seen) + 1))
        assert seen[-1].is_final
        assert job.wait().state == "failed"
        again = job.retry()
        longer = job.clone({"training": {"epochs": 7}, "name": "longer"})
        assert (again.parent_id, longer.parent_id) == (job.id, job.id)
        assert (longer.spec["training"]["epochs"], longer.name) == (7, "longer")
        assert {each.id for each in client.jobs.list(parent=job.id)} == {again.id, longer.id}
        assert [each.id for each in client.jobs.list(state=["failed"], name=None)] == [job.id]

        seen = longer.refresh()
        edited = seen.edit(notes="for Friday", labels={"team": "a"}, priority=3)
        assert (edited.notes, edited.labels, edited.priority) == ("for Friday", {"team": "a"}, 3)
        assert edited.name == "longer"
        with pytest.raises(luthier.Conflict) as caught:
            seen.edit(name=None)
        assert caught.value.status == 412
        assert client.jobs.edit(longer.id, name=None).name is None

        assert again.cancel().state == "cancelled"
        assert longer.pause().state == "paused"
        assert longer.resume().state == "queued"
        job.delete()
        with pytest.raises(luthier.NotFound):
            job.refresh()


@pytest.mark.slow
def test_job_is_downloaded_by_itself(
    url: str, connect: Connect, rows: Path, backends: Backends, tmp_path: Path
) -> None:
    with connect(url) as client:
        dataset = client.datasets.upload(rows)
        job = client.jobs.create(
            {
                "task": "text-classification",
                "model": "hub:org/encoder",
                "data": {"train": f"dataset:{dataset.id}"},
            }
        )
        succeed(backends, claim(backends), {"config.json": b"{}"})

        (path,) = job.download(tmp_path / "model")

        assert path.read_bytes() == b"{}"
        assert list(job.checkpoints()) == []


@pytest.mark.slow
def test_sweep_is_started_listed_and_cancelled_with_its_jobs(
    url: str, connect: Connect, rows: Path
) -> None:
    with connect(url) as client:
        dataset = client.datasets.upload(rows)
        sweep = client.sweeps.create(
            {
                "spec": {
                    "task": "text-classification",
                    "model": "hub:org/encoder",
                    "data": {"train": f"dataset:{dataset.id}", "eval": 0.5},
                },
                "space": {"/training/epochs": {"type": "choice", "values": [1, 2, 3]}},
                "sampler": "grid",
                "max_parallel": 2,
            }
        )

        (listed,) = client.sweeps.list()
        assert (listed.id, listed.is_final, sweep.best) == (sweep.id, False, None)
        trials = list(client.sweeps.trials(sweep.id))
        assert trials[0].params == {"/training/epochs": 1}
        assert {job.sweep_id for job in client.jobs.list()} == {sweep.id}
        client.sweeps.cancel(sweep.id)
        ended = client.sweeps.wait(sweep.id, timeout=30)
        assert (ended.state, ended.is_final) == ("cancelled", True)
        assert {job.state for job in client.jobs.list()} == {"cancelled"}
        assert list(client.workers.list()) == []
