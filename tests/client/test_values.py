"""What the client's calls return, against the real service."""

import subprocess
import sys
from pathlib import Path

import pytest

import luthier
from luthier.client.sync.job import Job
from luthier.client.sync.paging import pages
from luthier.client.values import from_json, to_json
from tests.api.conftest import CSV, spec_of
from tests.client.conftest import JOB, submit


@pytest.mark.slow
def test_created_job_is_typed_and_comes_back_by_its_id(client: luthier.Client, rows: Path) -> None:
    created = submit(client, rows, name="first", labels={"team": "support"})

    job = client.jobs.get(created.id)

    assert (job.state, job.queue_position, job.is_final) == ("queued", 1, False)
    assert (job.name, job.labels, job.attempts) == ("first", {"team": "support"}, ())
    assert job.created_at.tzinfo is not None
    assert job.spec["training"]["batch_size"] == 16


@pytest.mark.slow
def test_jobs_are_listed_by_state_and_label(client: luthier.Client, rows: Path) -> None:
    plain = submit(client, rows)
    labelled = submit(client, rows, labels={"team": "a"})
    client.jobs.cancel(plain.id)

    assert [job.id for job in client.jobs.list(labels={"team": "a"})] == [labelled.id]
    assert [job.id for job in client.jobs.list(state="cancelled")] == [plain.id]
    assert [job.id for job in client.jobs.list(limit=1)] == [labelled.id]


@pytest.mark.slow
def test_lists_fetch_further_pages_by_themselves(client: luthier.Client, rows: Path) -> None:
    spec = spec_of(client.datasets.upload(rows).id)
    created = [client.jobs.create(spec).id for _ in range(5)]

    listed = list(pages(client._transport, "/jobs", Job, cursor="id", page_size=2))
    four = list(pages(client._transport, "/jobs", Job, cursor="id", page_size=3, limit=4))

    assert [job.id for job in listed] == created[::-1]
    assert [job.id for job in four] == created[:0:-1]


@pytest.mark.slow
def test_upload_tells_progress_rows_and_columns(client: luthier.Client, rows: Path) -> None:
    told: list[tuple[int, int]] = []

    dataset = client.datasets.upload(rows, progress=lambda done, total: told.append((done, total)))

    assert (dataset.num_rows, dataset.num_bad_rows, dataset.name) == (40, 0, "train.csv")
    assert [column.name for column in dataset.columns] == ["text", "label"]
    assert told[-1] == (len(CSV), len(CSV))
    assert client.datasets.preview(dataset.id).rows[0] == {"text": "message 0", "label": "a"}
    assert client.datasets.get(dataset.id) == dataset
    client.datasets.delete(dataset.id)
    assert list(client.datasets.list()) == []


@pytest.mark.slow
def test_model_is_registered_by_hub_name(client: luthier.Client) -> None:
    added = client.models.add("minilm", hub="org/minilm", revision="main")

    assert client.models.get("minilm") == added
    assert list(client.models.list()) == [added]
    assert (added.hub, added.path, added.revision) == ("org/minilm", None, "main")


@pytest.mark.slow
def test_task_tells_schema_example_and_metrics(client: luthier.Client) -> None:
    names = [task.task for task in client.tasks.list()]
    task = client.tasks.get("text-classification")

    assert "causal-lm" in names
    assert task.example is not None
    assert task.example["task"] == "text-classification"
    assert task.schema is not None
    assert "training" in task.schema["properties"]
    assert task.metrics[0] == "accuracy"


def test_fields_of_a_newer_service_are_ignored() -> None:
    best = {"step": 3, "metrics": {"accuracy": 0.5}, "novelty": 1}

    job = from_json(Job, {**JOB, "novelty": {"a": 1}, "best": best})

    assert job.best is not None
    assert job.best.metrics == {"accuracy": 0.5}
    assert "novelty" not in to_json(job)


def test_values_are_frozen() -> None:
    job = from_json(Job, JOB)

    with pytest.raises(AttributeError):
        job.state = "running"  # type: ignore[misc]


def test_answer_of_another_form_is_an_unexpected_reply() -> None:
    with pytest.raises(luthier.UnexpectedReply, match="no Job"):
        from_json(Job, {"hello": "world"})


def test_import_of_the_package_loads_no_library() -> None:
    code = (
        "import sys, luthier\n"
        "heavy = {'httpx', 'rich', 'fastapi', 'sqlalchemy', 'celery', 'torch', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert luthier.Client.__name__ == 'Client' and 'Client' in dir(luthier)\n"
        "assert all(hasattr(luthier, name) for name in luthier.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Violin'"):
        _ = luthier.Violin
