"""What is kept of evaluations besides their figures: details, and predictions.

`evaluations/<split>-<step>.json` of a run holds what one evaluation found. What belongs to the
model that is handed out goes into its folder, as `evaluation.json` and `predictions.jsonl`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainer_core.events import Logged, Warned
from trainer_core.run_directory import read_json, write_json

REPORT = "evaluation.json"
PREDICTIONS = "predictions.jsonl"
_BASELINE = "baseline_"


def keep_details(folder: Path, *, split: str, step: int, details: Mapping[str, Any]) -> None:
    """Write what an evaluation found beside its figures."""
    folder.mkdir(exist_ok=True)
    write_json(_path(folder, split=split, step=step), details)


def kept_details(folder: Path, *, split: str, step: int) -> dict[str, Any]:
    """Return what `keep_details` wrote; empty if the evaluation was on another machine."""
    path = _path(folder, split=split, step=step)
    return read_json(path) if path.exists() else {}


def _path(folder: Path, *, split: str, step: int) -> Path:
    return folder / f"{split}-{step}.json"


def write_predictions(path: Path, predictions: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON line for each row: its number in the split, from 0, and what the model says.

    Args:
        path: of the file.
        predictions: with the number as `row`, unless they are of all rows one after the other.
    """
    with path.open("w", encoding="utf-8") as file:
        for number, prediction in enumerate(predictions):
            file.write(json.dumps({"row": number, **prediction}, ensure_ascii=False) + "\n")


def with_baseline(metrics: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of the tuned model, and those of the base model under names of their own.

    Only those that the tuned model has too: the others can't be compared.
    """
    kept = {f"{_BASELINE}{name}": value for name, value in baseline.items() if name in metrics}
    return {**metrics, **kept}


def describe_gain(
    metrics: Mapping[str, float], *, metric: str, is_greater_better: bool
) -> Logged | Warned | None:
    """Return what to tell of the metric before and after training; None if it was not measured."""
    before, after = metrics.get(f"{_BASELINE}{metric}"), metrics.get(metric)
    if before is None or after is None:
        return None
    told = f"{metric} on the evaluation rows: {before:.4g} before training, {after:.4g} after."
    if after > before if is_greater_better else after < before:
        return Logged(told, {"metric": metric, "before": before, "after": after})
    return Warned(
        "no_gain",
        f"{told} Training did not improve it.",
        "Try another training.learning_rate, more epochs or more rows.",
    )
