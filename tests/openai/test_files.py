"""Files and uploads in parts, as the unmodified client sends and reads them."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import openai
import pytest
from sqlalchemy import update

from api.sweeping import sweep
from jobs.tables import files, uploads
from tests.openai.conftest import CHATS, Facade, jsonl, start, upload

pytestmark = pytest.mark.slow


def test_a_file_is_kept_read_and_given_back(client):
    content = jsonl(CHATS)

    made = client.files.create(file=("chats.jsonl", content), purpose="fine-tune")

    ready = client.files.wait_for_processing(made.id, poll_interval=0.01)
    assert (ready.status, ready.status_details) == ("processed", None)
    assert (ready.filename, ready.purpose, ready.bytes) == (
        "chats.jsonl",
        "fine-tune",
        len(content),
    )
    assert ready.id.startswith("file-")
    assert client.files.content(made.id).read() == content
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_bare_bytes_and_an_expiry_are_taken(client):
    made = client.files.create(
        file=io.BytesIO(jsonl(CHATS)),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )

    assert made.filename == "upload"
    assert made.expires_at == pytest.approx(made.created_at + 3600, abs=1)


def test_rows_that_cannot_be_read_are_told_by_the_status(client):
    content = jsonl(CHATS) + b'{"messages": [}\n'

    made = client.files.create(file=("bad.jsonl", content), purpose="fine-tune")

    assert made.status == "error"
    assert made.status_details.startswith("line 13:")


def test_content_is_read_by_the_old_name_too(client):
    made = client.files.create(file=("a.txt", b"some words"), purpose="user_data")

    with pytest.warns(DeprecationWarning, match="content"):
        assert str(client.files.retrieve_content(made.id)) == "some words"


def test_files_for_evaluations_are_told_as_what_the_client_knows(client):
    made = client.files.create(file=("a.txt", b"some words"), purpose="evals")
    upload = client.uploads.create(
        bytes=8, filename="a.txt", mime_type="text/plain", purpose="evals"
    )
    part = client.uploads.parts.create(upload.id, data=b"8 bytes.")

    done = client.uploads.complete(upload.id, part_ids=[part.id])

    assert (made.purpose, done.file.purpose) == ("user_data", "user_data")
    assert client.files.retrieve(made.id).purpose == "user_data"
    assert {made.id, done.file.id} <= {file.id for file in client.files.list(purpose="evals")}


def test_files_are_listed_by_purpose_in_either_order_and_page_by_page(client):
    ids = [
        client.files.create(file=(f"{n}.txt", b"some words"), purpose="user_data").id
        for n in range(3)
    ]

    newest = [file.id for file in client.files.list(purpose="user_data", limit=2)]
    oldest = [file.id for file in client.files.list(purpose="user_data", limit=2, order="asc")]

    assert newest[:3] == ids[::-1]
    assert oldest[-3:] == ids
    assert len(set(newest)) == len(newest)
    assert ids[0] not in [file.id for file in client.files.list(purpose="fine-tune")]
    after = client.files.list(purpose="user_data", after=ids[1], limit=1)
    assert [file.id for file in after.data] == ids[:1]


def test_a_data_set_is_a_file_and_a_file_a_data_set(facade, one_client):
    file_id = upload(one_client)
    dataset_id = file_id.replace("file-", "ds_")
    with httpx.Client(base_url=facade.url) as native:
        found = native.get(f"/datasets/{dataset_id}").json()
        posted = native.post("/datasets", files={"file": ("own.jsonl", jsonl(CHATS))}).json()
        listed = one_client.files.retrieve(posted["id"].replace("ds_", "file-"))
        assert (found["name"], found["num_rows"]) == ("train.jsonl", 12)
        assert (listed.filename, listed.purpose) == ("own.jsonl", "fine-tune")
        one_client.files.delete(file_id)
        assert native.get(f"/datasets/{dataset_id}").status_code == 404


def test_a_file_that_a_job_needs_stays(one_client):
    job = start(one_client)

    with pytest.raises(openai.ConflictError) as told:
        one_client.files.delete(job.training_file)

    assert told.value.code == "dataset_in_use"
    assert told.value.response.headers["x-should-retry"] == "false"


def test_a_file_goes_when_its_time_is_over(facade, one_client):
    made = one_client.files.create(
        file=("notes.txt", b"some words"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    kept = list((facade.home / "storage" / "files").iterdir())
    with facade.backends.database.transaction() as tx:
        past = datetime.now(UTC) - timedelta(seconds=1)
        tx.connection.execute(update(files).where(files.c.id == made.id).values(expires_at=past))

    with pytest.raises(openai.NotFoundError):
        one_client.files.retrieve(made.id)
    sweep(facade.backends)

    assert len(list((facade.home / "storage" / "files").iterdir())) == len(kept) - 1


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"purpose": "world-peace"}, "purpose"),
        (
            {"purpose": "fine-tune", "expires_after": {"anchor": "created_at", "seconds": 1}},
            "expires_after.seconds",
        ),
    ],
)
def test_what_a_file_may_not_be_is_told_by_its_parameter(one_client, given, param):
    with pytest.raises(openai.BadRequestError) as told:
        one_client.files.create(file=("a.jsonl", jsonl(CHATS)), **given)

    assert (told.value.param, told.value.code) == (param, "invalid_value")


def test_a_file_comes_in_parts(client, tmp_path):
    content = jsonl(CHATS)
    path = tmp_path / "parts.jsonl"
    path.write_bytes(content)

    done = client.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="fine-tune", part_size=400
    )

    assert done.status == "completed"
    assert (done.file.filename, done.file.status) == ("parts.jsonl", "processed")
    assert client.files.content(done.file.id).read() == content


def test_parts_are_put_in_the_order_given_and_verified(facade, client):
    made = client.uploads.create(
        bytes=8, filename="note.txt", mime_type="text/plain", purpose="user_data"
    )
    second = client.uploads.parts.create(made.id, data=b"BBBB")
    first = client.uploads.parts.create(made.id, data=b"AAAA")
    ids = [first.id, second.id]
    with pytest.raises(openai.BadRequestError) as too_few:
        client.uploads.complete(made.id, part_ids=ids[:1])
    with pytest.raises(openai.BadRequestError) as other:
        client.uploads.complete(made.id, part_ids=ids, md5="0" * 32)

    digest = hashlib.md5(b"AAAABBBB", usedforsecurity=False).hexdigest()
    done = client.uploads.complete(made.id, part_ids=ids, md5=digest)

    assert (too_few.value.param, other.value.param) == ("part_ids", "md5")
    assert client.files.content(done.file.id).read() == b"AAAABBBB"
    assert not list((facade.home / "storage" / "uploads" / made.id).iterdir())
    with pytest.raises(openai.ConflictError):
        client.uploads.complete(made.id, part_ids=ids)


def test_more_than_was_announced_is_refused(one_client):
    made = one_client.uploads.create(
        bytes=4, filename="a.txt", mime_type="text/plain", purpose="user_data"
    )

    with pytest.raises(openai.BadRequestError) as told:
        one_client.uploads.parts.create(made.id, data=b"AAAAA")

    assert told.value.param == "data"


def test_a_cancelled_upload_takes_no_parts(client):
    made = client.uploads.create(
        bytes=4, filename="a.txt", mime_type="text/plain", purpose="user_data"
    )

    assert client.uploads.cancel(made.id).status == "cancelled"

    with pytest.raises(openai.ConflictError) as told:
        client.uploads.parts.create(made.id, data=b"AAAA")
    assert "is cancelled" in told.value.message


def test_an_upload_expires_and_its_parts_go(facade, one_client):
    made = one_client.uploads.create(
        bytes=8, filename="a.txt", mime_type="text/plain", purpose="user_data"
    )
    one_client.uploads.parts.create(made.id, data=b"AAAA")
    with facade.backends.database.transaction() as tx:
        past = datetime.now(UTC) - timedelta(seconds=1)
        row = update(uploads).where(uploads.c.id == made.id)
        tx.connection.execute(row.values(expires_at=past))

    with pytest.raises(openai.ConflictError) as told:
        one_client.uploads.parts.create(made.id, data=b"BBBB")
    sweep(facade.backends)

    assert "is expired" in told.value.message
    assert not list((facade.home / "storage" / "uploads" / made.id).iterdir())


def stored_bytes(facade: Facade) -> int:
    return int(httpx.get(f"{facade.url}/projects/default").json()["use"]["storage_bytes"])


@contextmanager
def room_for(facade: Facade, num_bytes: int) -> Iterator[None]:
    """Let the project store so many bytes more."""
    project = f"{facade.url}/projects/default"
    quota = {"max_storage_bytes": stored_bytes(facade) + num_bytes}
    httpx.patch(project, json=quota).raise_for_status()
    yield
    httpx.patch(project, json={"max_storage_bytes": None}).raise_for_status()


def test_a_file_of_any_purpose_counts_and_is_refused_beyond_the_quota(facade, one_client):
    before = stored_bytes(facade)
    with room_for(facade, 10):
        made = one_client.files.create(file=("a.txt", b"8 bytes."), purpose="user_data")
        kept = sorted((facade.home / "storage" / "files").iterdir())
        with pytest.raises(openai.RateLimitError) as told:
            one_client.files.create(file=("b.txt", b"8 bytes."), purpose="batch")

    assert stored_bytes(facade) == before + 8
    assert told.value.code == "insufficient_quota"
    assert sorted((facade.home / "storage" / "files").iterdir()) == kept
    one_client.files.delete(made.id)
    assert stored_bytes(facade) == before


def test_a_file_that_came_in_parts_counts_and_is_refused_beyond_the_quota(facade, one_client):
    before = stored_bytes(facade)
    given = {"bytes": 8, "filename": "a.txt", "mime_type": "text/plain", "purpose": "user_data"}
    first, second = (one_client.uploads.create(**given) for _ in range(2))
    parts = [one_client.uploads.parts.create(one.id, data=b"8 bytes.") for one in (first, second)]

    with room_for(facade, 10):
        one_client.uploads.complete(first.id, part_ids=[parts[0].id])
        with pytest.raises(openai.RateLimitError) as told:
            one_client.uploads.complete(second.id, part_ids=[parts[1].id])

    assert stored_bytes(facade) == before + 8
    assert told.value.code == "insufficient_quota"
    assert one_client.uploads.complete(second.id, part_ids=[parts[1].id]).status == "completed"
