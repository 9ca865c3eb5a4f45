"""Seconds to the first optimizer step: a cold script over a warm worker's process; goal 4.0.

    python -m benchmarks.time_to_first_step

Text classification of a thousand rows with a tiny model, so that the start is what shows. The peer
is the script of transformers' text classification guide, from `python` to the end of its first
step: imports, `load_dataset`, `Dataset.map`, the model, `Trainer.train`. Ours is a service with a
real worker, one process of which is ready: from its claim of the job to the end of the first step,
with all that a worker does before and besides: rows are hashed, checked and tokenized, and the
model loaded. Neither evaluates before it trains. Wall seconds on one thread, since they are what a
user waits for. Each side has run once before, so that all files are in the page cache; what they
make of rows is not kept.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks.harness import ROOT, measure_apart, pairs, result

NUM_ROWS, NUM_CLASSES, MAX_LENGTH, BATCH_SIZE, EPOCHS, RATE = 1000, 10, 128, 16, 2, 2e-5
_LOOK_SECONDS = 0.01
_PATIENCE_SECONDS = 300


def run(num_runs: int) -> list[dict[str, Any]]:
    """Return seconds to the first step, the peer's over ours, and the losses of that step."""
    with tempfile.TemporaryDirectory() as name:
        folder = _prepared(Path(name))
        with warm_worker(folder) as measure_ours:
            measures: dict[str, Callable[[], dict[str, Any]]] = {
                "ours": measure_ours,
                "peer": partial(_measure_peer, folder),
            }
            for measure in measures.values():
                measure()
            runs = pairs(lambda side, _: measures[side](), num_runs=num_runs)
    return [
        result(
            "time_to_first_step",
            runs,
            figure="seconds",
            unit="seconds to the end of the first optimizer step",
            is_more_better=False,
            quality=lambda measured: measured["loss"],
        )
    ]


def _prepared(folder: Path) -> Path:
    """Return the folder with the rows and the model of both sides in it."""
    from benchmarks.texts import write_rows
    from benchmarks.tiny import save_encoder

    write_rows(folder / "train.jsonl", NUM_ROWS, seed=1, num_classes=NUM_CLASSES)
    save_encoder(folder / "model")
    return folder


@contextmanager
def warm_worker(folder: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run a service with one worker; give what carries out a job and returns what it took.

    Args:
        folder: with the rows and the model.
    """
    from benchmarks.http_load import servers, service

    with servers(durable=False) as given:
        settings = {
            **given,
            "LUTHIER_DEVICES": "cpu",
            "LUTHIER_MODEL_ROOTS": str(folder),
            "LUTHIER_PREDICT": "off",
            "LUTHIER_TRAINING_THREADS": "1",
        }
        with service(settings) as (port, _), _worker(settings) as worker:
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=60) as client:
                model = {"name": "bench", "path": str(folder / "model")}
                client.post("/models", json=model).raise_for_status()
                rows = (folder / "train.jsonl").read_text("utf-8")
                log = Path(settings["LUTHIER_HOME"], "logs", "training.log")
                yield partial(_measure_ours, client, rows, log, worker)


@contextmanager
def _worker(settings: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "luthier", "worker"],
        env={**os.environ, **settings},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield worker
    finally:
        worker.terminate()
        worker.wait(_PATIENCE_SECONDS)


def _spec(client: httpx.Client, rows: str) -> dict[str, Any]:
    """Return a spec on rows that it uploads."""
    dataset = client.post("/datasets", files={"file": ("train.jsonl", rows)}).json()["id"]
    return {
        "task": "text-classification",
        "model": "model:bench",
        "data": {"train": f"dataset:{dataset}", "eval": None},
        "max_length": MAX_LENGTH,
        "training": {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "learning_rate": RATE},
    }


def _measure_ours(
    client: httpx.Client, rows: str, log: Path, worker: "subprocess.Popen[bytes]"
) -> dict[str, Any]:
    """Submit a job to a worker whose spare is ready, and return how long its first step took."""
    num_before = len(client.get("/jobs").json()["data"])
    own = json.loads(rows.splitlines()[0]) | {"text": f"no job before {num_before} had this row"}
    spec = _spec(client, f"{rows}{json.dumps(own)}\n")  # or its tokens would be in the cache

    def wait_for(found: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (told := found()):
            assert worker.poll() is None, "the worker has died"
            assert time.monotonic() < deadline, "the worker takes too long"
            time.sleep(_LOOK_SECONDS)
        return told

    wait_for(lambda: log.exists() and log.read_text("utf-8").count("ready") > num_before)
    job_id = client.post("/jobs", json=spec).json()["id"]
    step = wait_for(lambda: _first_step(client, job_id))
    job = wait_for(lambda: _ended(client, job_id))
    (attempt,) = job["attempts"]
    begun, stepped = (datetime.fromisoformat(at) for at in (attempt["started_at"], step["at"]))
    return {"seconds": (stepped - begun).total_seconds(), "loss": step["data"]["loss"]}


def _first_step(client: httpx.Client, job_id: str) -> dict[str, Any] | None:
    events = client.get(f"/jobs/{job_id}/events", params={"limit": 1000}).json()["data"]
    return next((event for event in events if event["type"] == "progress"), None)


def _ended(client: httpx.Client, job_id: str) -> dict[str, Any] | None:
    job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
    assert job["state"] != "failed", job["error"]
    return job if job["state"] == "succeeded" else None


def _measure_peer(folder: Path) -> dict[str, Any]:
    begun = time.time()
    told = measure_apart("time_to_first_step", "peer", folder)
    return {"seconds": told.pop("at") - begun, **told}


def _script(folder: Path) -> dict[str, Any]:
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    with tempfile.TemporaryDirectory(dir=folder) as name:
        rows = load_dataset(
            "json", data_files=str(folder / "train.jsonl"), cache_dir=name, split="train"
        )
        rows = rows.class_encode_column("label")
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        tokenized = rows.map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH),
            batched=True,
        )
        names = rows.features["label"].names
        model = AutoModelForSequenceClassification.from_pretrained(
            folder / "model",
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
        told: dict[str, Any] = {}

        class FirstStep(TrainerCallback):
            def on_step_end(self, *given: Any, **_: Any) -> None:
                told.update(at=time.time(), cpu_seconds=time.process_time())
                given[2].should_training_stop = True  # the control

        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=f"{name}/output",
                learning_rate=RATE,
                per_device_train_batch_size=BATCH_SIZE,
                num_train_epochs=EPOCHS,
                weight_decay=0.01,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
            ),
            train_dataset=tokenized,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer=tokenizer),
            callbacks=[FirstStep()],
        )
        return {"loss": trainer.train().training_loss, **told}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "FOLDER"))
    given = parser.parse_args()
    if given.side:
        print(json.dumps(_script(Path(given.side[1]))))  # ours is a command already
    else:
        print(json.dumps(run(3), indent=2))
