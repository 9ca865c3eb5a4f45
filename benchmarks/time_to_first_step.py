"""Seconds to the first optimizer step: a cold script over a warm worker's process; goal 4.0.

    python -m benchmarks.time_to_first_step

Text classification of a thousand rows with a tiny model, so that the start is what shows. The peer
is the script of transformers' text classification guide, from `python` to the end of its first
step: imports, `load_dataset`, `Dataset.map`, the model, `Trainer.train`. Ours is the process that a
worker keeps ready, from the job's line on its pipe to the end of the first step: rows are checked,
hashed and tokenized, the model loaded. Neither evaluates before it trains. Wall seconds on one
thread, since they are what a user waits for; CPU seconds stand beside them. Each side has run once
before, so that all files are in the page cache; what they make of rows is not kept.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import measure_apart, pairs, result

if TYPE_CHECKING:  # the script must not pay for them
    from trainer_core.run_directory import RunDirectory
    from worker.process import TrainingProcess

NUM_ROWS, NUM_CLASSES, MAX_LENGTH, BATCH_SIZE, EPOCHS, RATE = 1000, 10, 128, 16, 2, 2e-5
_LOOK_SECONDS = 0.01
_PATIENCE_SECONDS = 300


def run(num_runs: int) -> list[dict[str, Any]]:
    """Return seconds to the first step, the peer's over ours, and the losses of that step."""
    with tempfile.TemporaryDirectory() as name:
        folder = _prepared(Path(name))
        measures = {"ours": _measure_ours, "peer": _measure_peer}
        for measure in measures.values():
            measure(folder)
        runs = pairs(lambda side, _: measures[side](folder), num_runs=num_runs)
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


def _measure_ours(folder: Path) -> dict[str, Any]:
    """Give a process that is ready its job, and return how long the first step is in coming."""
    import psutil

    with tempfile.TemporaryDirectory(dir=folder) as name:
        directory = _write_job(Path(name), folder)
        with _spare(directory.path / "spare.txt") as process:
            spent = sum(psutil.Process(process.pid).cpu_times()[:2])
            begun = time.time()
            process.start(directory.path, trackers=[])
            _wait_for(lambda: _first_step(directory), process)
            spent = sum(psutil.Process(process.pid).cpu_times()[:2]) - spent
        step = _first_step(directory)
    assert step is not None, "it was waited for"
    seconds = datetime.fromisoformat(step["at"]).timestamp() - begun
    return {"seconds": seconds, "cpu_seconds": spent, "loss": step["data"]["loss"]}


@contextmanager
def _spare(log: Path) -> Iterator["TrainingProcess"]:
    """Give a process that has said that it is ready."""
    from worker.process import TrainingProcess

    process = TrainingProcess(log=log, num_threads=1)
    try:
        _wait_for(lambda: "ready" in log.read_text("utf-8"), process)
        yield process
    finally:
        process.kill()


def _measure_peer(folder: Path) -> dict[str, Any]:
    begun = time.time()
    told = measure_apart("time_to_first_step", "peer", folder)
    return {"seconds": told.pop("at") - begun, **told}


def _write_job(folder: Path, data: Path) -> "RunDirectory":
    from trainer_core.training.alone import write_run

    spec = {
        "task": "text-classification",
        "data": {"eval": None},
        "max_length": MAX_LENGTH,
        "training": {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "learning_rate": RATE},
    }
    rows = {"train": data / "train.jsonl"}
    return write_run(folder, spec, model=data / "model", rows=rows, num_threads=1, device="cpu")


def _wait_for(is_there: Callable[[], object], process: "TrainingProcess") -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_there():
        assert process.poll() is None, "the process has died"
        assert time.monotonic() < deadline, "the process takes too long"
        time.sleep(_LOOK_SECONDS)


def _first_step(directory: "RunDirectory") -> dict[str, Any] | None:
    """Return the event of the first step, if it is there."""
    if not directory.events.exists():
        return None
    text = directory.events.read_text("utf-8")
    lines = (json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n"))
    return next((line for line in lines if line["type"] == "progress"), None)


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
