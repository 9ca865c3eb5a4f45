"""The whole road through the unmodified client: a real worker trains, and the model answers."""

import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.conftest import Servers
from tests.openai.conftest import CHATS, jsonl
from tests.training.tiny import save_decoder
from tests.worker.conftest import JOB_SECONDS, Road, open_road

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def road(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory, fork_server: Path
) -> Iterator[Road]:
    folder = tmp_path_factory.mktemp("openai-road")
    options = {"fork_server": fork_server, "warm_spare": False, "predict": "cpu"}
    with open_road(servers, folder, **options) as found:
        yield found


def test_a_file_becomes_a_model_that_answers(road: Road) -> None:
    folder = save_decoder(road.settings.model_roots[0] / "tiny")
    road.client.post("/models", json={"name": "tiny", "path": str(folder)})
    road.start_worker()
    client = OpenAI(
        base_url=f"{road.client.base_url}/v1",
        api_key="none",
        _strict_response_validation=True,
        timeout=200,
        max_retries=10,  # whoever answers questions may start later than whoever trains
    )

    with client:
        file = client.files.create(file=("chats.jsonl", jsonl(CHATS * 2)), purpose="fine-tune")
        made = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=client.files.wait_for_processing(file.id).id,
            validation_file=file.id,
            suffix="greeter",
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}},
            },
        )
        done = made
        deadline = time.monotonic() + JOB_SECONDS
        while done.status not in ("succeeded", "failed", "cancelled"):
            assert time.monotonic() < deadline, "not in time"
            time.sleep(0.1)
            done = client.fine_tuning.jobs.retrieve(made.id)
        assert done.status == "succeeded", done.error
        events = [event.id for event in client.fine_tuning.jobs.list_events(made.id, limit=2)]
        checkpoints = list(client.fine_tuning.jobs.checkpoints.list(made.id, limit=1))
        table = client.files.content(done.result_files[0]).text
        figures = list(csv.DictReader(io.StringIO(table)))
        name = str(done.fine_tuned_model)
        ask = [{"role": "user", "content": "What is 2 and 2?"}]
        said = client.chat.completions.create(
            model=name,
            messages=ask,
            max_tokens=8,
            temperature=0,  # type: ignore[arg-type]
        )
        streamed = client.chat.completions.create(
            model=name,
            messages=ask,
            max_tokens=8,
            temperature=0,
            stream=True,  # type: ignore[arg-type]
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in streamed]
        native = road.client.post(
            f"/jobs/{made.id.replace('ftjob-', 'job_')}/predict",
            json={"inputs": [{"messages": ask}], "max_new_tokens": 8},
            timeout=200,
        )
        listed = [model.id for model in client.models.list()]
        deleted = client.models.delete(name).deleted

    assert done.trained_tokens is not None
    assert done.trained_tokens > 0
    assert len(events) == len(set(events)) > 4
    assert checkpoints[0].metrics.full_valid_loss is not None
    assert figures[-1]["valid_loss"]
    assert any(row["train_loss"] for row in figures)
    assert said.usage is not None
    assert (said.usage.completion_tokens, said.choices[0].finish_reason) in (
        (8, "length"),
        (said.usage.completion_tokens, "stop"),
    )
    assert "".join(pieces) == said.choices[0].message.content
    assert native.json()["data"][0]["text"] == said.choices[0].message.content
    assert name in listed
    assert deleted
    assert httpx.get(f"{road.client.base_url}/v1/models/{name}").status_code == 404
