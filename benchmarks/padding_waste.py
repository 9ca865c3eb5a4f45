"""Real over padded tokens, the worst of five distributions of lengths; goal 0.97.

    python -m benchmarks.padding_waste

Arithmetic on our own order of rows and cutting of steps, for a model of the size of MiniLM on a
CPU; the peer pads random batches to their longest row.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.harness import machine

NUM_ROWS, BATCH_SIZE, MAX_LENGTH = 6000, 32, 512
NUM_WEIGHTS = 22_700_000


def run(_num_runs: int) -> list[dict[str, Any]]:
    """Return the worst share of real tokens; one run suffices, nothing is timed."""
    runs = {
        name: {"ours": _ours(lengths), "peer": _padded_at_random(lengths)}
        for name, lengths in _distributions()
    }
    worst, worst_peer = (min(one[side] for one in runs.values()) for side in ("ours", "peer"))
    return [
        {
            "name": "padding_waste",
            "ours": worst,
            "peer": worst_peer,
            "ratio": worst,
            "unit": "real over padded tokens, worst of five distributions",
            "quality_ours": None,
            "quality_peer": None,
            "runs": [{"distribution": name, **one} for name, one in runs.items()],
            "machine": machine(),
        }
    ]


def _distributions() -> Iterator[tuple[str, Any]]:
    chance = np.random.default_rng(0)
    is_short = chance.random(NUM_ROWS) < 0.7
    is_outlier = chance.random(NUM_ROWS) < 0.02
    drawn = {
        "log-normal, median 30": chance.lognormal(3.4, 0.7, NUM_ROWS),
        "log-normal with a long tail": chance.lognormal(4.0, 1.2, NUM_ROWS),
        "uniform": chance.integers(3, MAX_LENGTH, NUM_ROWS),
        "short questions and long texts": np.where(
            is_short, chance.normal(20, 6, NUM_ROWS), chance.normal(400, 60, NUM_ROWS)
        ),
        "alike, with outliers": np.where(is_outlier, MAX_LENGTH, chance.normal(60, 4, NUM_ROWS)),
    }
    for name, lengths in drawn.items():
        yield name, np.clip(lengths, 3, MAX_LENGTH).astype(np.int64)


def _ours(lengths: Any) -> float:
    from trainer_core.training.data.batching import RowOrder
    from trainer_core.training.loop.steps import Cutting, padding_share, pass_tokens

    order = RowOrder(lengths, batch_size=BATCH_SIZE, seed=1)
    cutting = Cutting(
        max_tokens=BATCH_SIZE * MAX_LENGTH,
        pass_tokens=pass_tokens(num_weights=NUM_WEIGHTS, device="cpu"),
    )
    return 1 - padding_share(order, cutting=cutting)


def _padded_at_random(lengths: Any) -> float:
    rows = np.random.default_rng(1).permutation(lengths)
    batches = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
    return float(lengths.sum() / sum(int(batch.max()) * len(batch) for batch in batches))


if __name__ == "__main__":
    print(json.dumps(run(1), indent=2))
