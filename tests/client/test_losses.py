"""Requests and answers that are lost: everything is made once, and what is sent is what arrives."""

import hashlib
import signal
import subprocess
import sys
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
PART_BYTES = 64 << 10
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


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of eight parts."""
    path = tmp_path / "large.csv"
    line = "a message of some length,b\n"
    path.write_text("text,label\n" + line * (8 * PART_BYTES // len(line) - 20))
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


@pytest.mark.slow
def test_upload_in_parts_goes_on_where_its_connections_were_cut(
    url: str, client: luthier.Client, connect: Connect, large: Path
) -> None:
    told: list[tuple[int, int]] = []
    with (
        CuttingProxy(url, cut_after_sent_bytes=int(1.6 * PART_BYTES)) as proxy,
        connect(proxy.url) as cut,
    ):
        dataset = cut.datasets.upload(
            large, part_bytes=PART_BYTES, progress=lambda *done: told.append(done)
        )
        assert proxy.num_cuts >= 4
        # One part fits through a connection, and a half of the next is lost.
        assert proxy.num_sent_bytes < 2 * large.stat().st_size

    assert dataset.sha256 == hashlib.sha256(large.read_bytes()).hexdigest()
    assert [each.id for each in client.datasets.list()] == [dataset.id]
    assert told == sorted(set(told))
    assert told[-1] == (large.stat().st_size, large.stat().st_size)


@pytest.mark.slow
def test_upload_of_a_killed_process_is_gone_on_with_by_another(
    url: str, connect: Connect, large: Path
) -> None:
    size = large.stat().st_size
    first = f"""
import os, signal, luthier
def half(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
luthier.Client({url!r}).datasets.upload({str(large)!r}, part_bytes={PART_BYTES}, progress=half)
"""
    done = subprocess.run([sys.executable, "-c", first], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    with CuttingProxy(url) as proxy, connect(proxy.url) as client:
        dataset = client.datasets.upload(large, part_bytes=PART_BYTES)
        assert proxy.num_sent_bytes < 0.6 * size

    assert dataset.sha256 == hashlib.sha256(large.read_bytes()).hexdigest()


@pytest.mark.slow
def test_upload_that_was_begun_in_other_parts_is_begun_anew(
    url: str, connect: Connect, large: Path
) -> None:
    with connect(url) as client:
        with pytest.raises(ZeroDivisionError):
            client.datasets.upload(large, part_bytes=PART_BYTES // 3, progress=lambda *_: 1 / 0)
        dataset = client.datasets.upload(large, part_bytes=PART_BYTES)

    assert dataset.sha256 == hashlib.sha256(large.read_bytes()).hexdigest()


def test_part_that_keeps_arriving_as_something_else_is_told(connect: Connect, abcd: Path) -> None:
    begun = Answer(201, {"id": "upload_1", "size_bytes": 4, "parts": []})
    other = Answer(body={"number": 1, "size_bytes": 3, "sha256": "0" * 64})
    with ScriptedServer([begun, other, other, other]) as server:
        with connect(server.url) as client, pytest.raises(luthier.BadUpload, match="part 1"):
            client.datasets.upload(abcd, part_bytes=3)

        assert [method for method, _, _ in server.requests] == ["POST", "PUT", "PUT", "PUT"]


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
