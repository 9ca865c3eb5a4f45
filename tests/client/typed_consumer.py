"""A program that uses both clients, for mypy: it is never run."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_type

import luthier


def train(client: luthier.Client, rows: Path) -> luthier.Job:
    """Train and fetch a model, as a script does."""
    progress: list[float] = []
    dataset = client.datasets.upload(
        rows, progress=lambda done, total: progress.append(done / total)
    )
    job = client.jobs.create({"data": {"train": f"dataset:{dataset.id}"}})
    assert_type(job, luthier.Job)
    for event in job.events():
        assert_type(event, luthier.Event)
    ended = job.wait(timeout=60)
    if ended.error is not None:
        raise RuntimeError(ended.error.message)
    figures = job.metrics()
    assert_type(figures, luthier.Measurements)
    assert_type(figures[0], luthier.Measurement)
    for each in client.jobs.list(state=["failed"], created_from=datetime.now(UTC), limit=3):
        assert_type(each.retry().id, str)
    paths: tuple[Path, ...] = ended.download("model")
    assert paths
    return ended.edit(labels={"kept": "yes", "draft": None}, notes=None)


async def watch(job_id: str) -> str:
    """Follow a job, as a service does."""
    async with luthier.AsyncClient(max_retries=5) as client:
        job = await client.jobs.get(job_id)
        assert_type(job, luthier.AsyncJob)
        async for event in job.events():
            assert_type(event.id, int)
        async for checkpoint in client.jobs.checkpoints(job_id):
            assert_type(checkpoint, luthier.Checkpoint)
        ended, sweeps = await asyncio.gather(job.wait(), client.sweeps.get("sweep_1"))
        assert_type(sweeps, luthier.Sweep)
        return (await ended.clone({"training": {"epochs": 5}})).id


def receive(body: bytes, headers: dict[str, str], secret: str) -> str:
    """Take a webhook's event."""
    try:
        event = luthier.verify_webhook(body, headers, secret)
    except luthier.InvalidSignature as error:
        return error.hint
    except luthier.LuthierAPIError as error:
        return f"{error.status} {error.code} {error.request_id}"
    assert_type(event, luthier.WebhookEvent)
    return str(event.data["id"])
