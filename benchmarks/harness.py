"""What every bench shares: pairs of measurements in fresh processes, in turns, and their ratio.

A side of a bench is measured by `python -m benchmarks.<bench> --side <side> <arguments>`, which
prints one JSON object last. Pairs are told as they come; of many the median counts.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Pair = dict[str, dict[str, Any]]  # side -> what was measured
_LEAST_NOISE = 1e-6  # of the figure: sums are rounded in another order
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True, slots=True)
class Learned:
    """A figure by which ours may be no worse than the peer, but for the noise of the seeds."""

    figure: str
    is_more_better: bool

    def fault(self, runs: Sequence[Pair]) -> str | None:
        """Return how ours is worse, by more than two standard errors of the difference of means."""
        ours, peer = ([float(run[side][self.figure]) for run in runs] for side in ("ours", "peer"))
        noise = 2 * sum(_variance(one) / len(one) for one in (ours, peer)) ** 0.5
        behind = statistics.fmean(peer) - statistics.fmean(ours)
        behind = behind if self.is_more_better else -behind
        if behind <= max(noise, _LEAST_NOISE * abs(statistics.fmean(peer))):
            return None
        return f"{self.figure} is worse by {behind:.4g}, the noise is {noise:.4g}"


def _variance(values: Sequence[float]) -> float:
    return statistics.variance(values) if len(values) > 1 else 0.0


def measure_apart(bench: str, side: str, *arguments: object) -> dict[str, Any]:
    """Return what a side measures of itself in a process of its own, on one thread."""
    command = [sys.executable, "-m", f"benchmarks.{bench}", "--side", side, *map(str, arguments)]
    done = subprocess.run(  # noqa: PLW1510 - what it printed is told below
        command, capture_output=True, text=True, env={**os.environ, **_ENVIRONMENT}, cwd=ROOT
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def pairs(measure: Callable[[str, int], dict[str, Any]], *, num_runs: int) -> list[Pair]:
    """Return pairs of measurements, the peer first in every second one.

    Args:
        measure: measures a side, `ours` or `peer`, for the pair of a number.
        num_runs: pairs.
    """
    found = []
    for number in range(num_runs):
        sides = ("ours", "peer") if number % 2 else ("peer", "ours")
        found.append({side: measure(side, number) for side in sides})
    return found


def result(
    name: str,
    runs: Sequence[Pair],
    *,
    figure: str,
    unit: str,
    is_more_better: bool,
    quality: Callable[[Mapping[str, Any]], object],
    same: Sequence[str] = (),
    learned: Sequence[Learned] = (),
) -> dict[str, Any]:
    """Return the result of a bench: a ratio above 1 is ours ahead.

    It is 0, and `fault` says why, where ours has done other work or has learned less.

    Args:
        name: of the bench.
        runs: its pairs.
        figure: which of the values measured is compared.
        unit: of the figure.
        is_more_better: whether the larger figure is the better one.
        quality: what of a measurement says that the work was the same, or as good.
        same: which of the values have to be equal in each pair.
        learned: by which of them ours may not be worse.
    """
    fault = _fault(runs, same=same, learned=learned)
    ratios = [run["ours"][figure] / run["peer"][figure] for run in runs]
    return {
        "name": name,
        "ours": statistics.median(run["ours"][figure] for run in runs),
        "peer": statistics.median(run["peer"][figure] for run in runs),
        "ratio": 0.0
        if fault
        else statistics.median(r if is_more_better else 1 / r for r in ratios),
        "unit": unit,
        "quality_ours": [quality(run["ours"]) for run in runs],
        "quality_peer": [quality(run["peer"]) for run in runs],
        "runs": list(runs),
        "machine": machine(),
        **({"fault": fault} if fault else {}),
    }


def _fault(runs: Sequence[Pair], *, same: Sequence[str], learned: Sequence[Learned]) -> str | None:
    """Return why the figures of a bench can't be compared, if they can't."""
    for name in same:
        for run in runs:
            ours, peer = run["ours"][name], run["peer"][name]
            if ours != peer:
                return f"{name} is {ours} of ours and {peer} of the peer"
    return next((fault for one in learned if (fault := one.fault(runs))), None)


def machine() -> str:
    """Return the processor, how many there are, and the versions that matter."""
    from importlib.metadata import version

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{os.cpu_count()} x {name}, torch {version('torch')}, one thread"
