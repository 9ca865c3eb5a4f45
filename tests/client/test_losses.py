"""Requests and answers that are lost: everything is made once, and what is sent is what arrives."""

from pathlib import Path

import pytest

import luthier
from tests.client.conftest import JOB, Connect
from tests.cutting_proxy import CuttingProxy
from tests.scripted_server import Answer, ScriptedServer

DATASET = {
    "id": "ds_2",
    "name": "train.csv",
    "format": "csv",
    "size_bytes": 4,
    "sha256": "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589",  # of "abcd"
    "num_rows": 1,
    "created_at": JOB["created_at"],
}
EMPTY = Answer(body={"data": [], "has_more": False})
LOST = Answer(502, b"<html>Bad gateway</html>")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.client.calls.FIRST_DELAY_SECONDS", 0.01)


@pytest.fixture
def abcd(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("abcd")
    return path


@pytest.mark.slow
def test_of_what_is_made_over_a_lossy_network_nothing_is_made_twice(
    url: str, client: luthier.Client, connect: Connect, rows: Path
) -> None:
    num_jobs = 12
    with (
        CuttingProxy(url, lost_share=0.3, seed=5) as proxy,
        connect(proxy.url, max_retries=20) as lossy,
    ):
        dataset = lossy.datasets.upload(rows)
        spec = {
            "task": "text-classification",
            "model": "hub:org/encoder",
            "data": {"train": f"dataset:{dataset.id}"},
        }
        made = [lossy.jobs.create(spec).id for _ in range(num_jobs)]
        made += [lossy.jobs.clone(made[0]).id]
        lossy.models.add("minilm", hub="org/minilm")

    assert proxy.num_cuts >= 3
    assert [job.id for job in client.jobs.list(oldest_first=True)] == made
    assert [each.id for each in client.datasets.list()] == [dataset.id]


def test_upload_whose_answer_was_lost_is_found_again_and_not_repeated(
    connect: Connect, abcd: Path
) -> None:
    arrived = Answer(body={"data": [DATASET], "has_more": False})
    with ScriptedServer([EMPTY, LOST, arrived]) as server:
        with connect(server.url) as client:
            assert client.datasets.upload(abcd).id == "ds_2"

        assert [method for method, _, _ in server.requests] == ["GET", "POST", "GET"]


def test_upload_that_was_lost_is_sent_again_and_older_ones_are_not_taken_for_it(
    connect: Connect, abcd: Path
) -> None:
    before = Answer(body={"data": [{**DATASET, "id": "ds_1"}], "has_more": False})
    with ScriptedServer([before, LOST, before, Answer(201, DATASET)]) as server:
        with connect(server.url) as client:
            assert client.datasets.upload(abcd).id == "ds_2"

        assert [method for method, _, _ in server.requests] == ["GET", "POST", "GET", "POST"]


def test_upload_that_arrived_as_something_else_is_deleted_and_refused(
    connect: Connect, abcd: Path
) -> None:
    other = Answer(201, {**DATASET, "sha256": "0" * 64})
    with ScriptedServer([EMPTY, other, Answer(body={})]) as server:
        with connect(server.url) as client, pytest.raises(luthier.BadUpload) as caught:
            client.datasets.upload(abcd)

        assert caught.value.code == "wrong_hash"
        assert server.requests[-1][:2] == ("DELETE", "/datasets/ds_2")
