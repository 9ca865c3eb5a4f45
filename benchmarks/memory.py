"""Peak memory of a whole run on 10 k rows over that on 1 M rows; goal 0.91.

    python -m benchmarks.memory [--rows N]

Text classification with a tiny model, 20 steps, in processes of their own. "Ours" is the run on
many rows, the "peer" the same run on 10 k.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import measure_apart, pairs, result

NUM_ROWS = {"peer": 10_000, "ours": 1_000_000}


def run(num_runs: int) -> list[dict[str, Any]]:
    """Return the ratio of peak memories, few rows over many."""
    with tempfile.TemporaryDirectory() as name:
        for side, count in NUM_ROWS.items():
            _write(Path(name) / f"{side}.jsonl", count)
        runs = pairs(lambda side, _: measure_apart("memory", side, name), num_runs=num_runs)
    return [
        result(
            "memory",
            runs,
            figure="peak_mib",
            unit="MiB of peak resident memory",
            is_more_better=False,
            quality=lambda measured: measured["steps"],
            same=["steps"],
        )
    ]


def _write(path: Path, count: int) -> None:
    from benchmarks.texts import write_rows

    write_rows(path, count, seed=1, median_words=12, sigma=0.5)


def _measure(side: str, folder: Path) -> dict[str, Any]:
    from benchmarks.runs import carry_out
    from benchmarks.tiny import save_encoder

    with tempfile.TemporaryDirectory() as name:
        model = save_encoder(Path(name) / "model")
        spec = {
            "task": "text-classification",
            "training": {"max_steps": 20, "batch_size": 16},
            "checkpoints": {"strategy": "no"},
        }
        rows = {"train": folder / f"{side}.jsonl"}
        return carry_out(Path(name) / "run", model=model, spec=spec, rows=rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "FOLDER"))
    parser.add_argument("--rows", type=int, default=NUM_ROWS["ours"])
    given = parser.parse_args()
    NUM_ROWS["ours"] = given.rows
    if given.side:
        print(json.dumps(_measure(given.side[0], Path(given.side[1]))))
    else:
        print(json.dumps(run(1), indent=2))
