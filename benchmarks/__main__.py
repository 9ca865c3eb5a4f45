"""Run benches and write `benchmarks/results.json`: `python -m benchmarks [NAME...]`."""

import argparse
import importlib
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT

# Module -> pairs of measurements.
_BENCHES = {
    "padding_waste": 1,
    "large_vocab": 3,
    "step_overhead": 5,
    "tokenize": 3,
    "classify_vs_stock": 3,
    "seq2seq_vs_stock": 3,
    "time_to_first_step": 3,
    "sft_vs_trl": 3,
    "memory": 1,
    "submit": 3,
    "list_1m": 3,
    "stream": 1,
    "upload": 3,
    "attacks": 3,
}
_RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Measure the benches that are named, or all; results of the others stay as they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*_BENCHES, []])
    names = parser.parse_args().names or list(_BENCHES)
    known: dict[str, dict[str, Any]] = {}
    if _RESULTS.exists():
        known = {one["name"]: one for one in json.loads(_RESULTS.read_text("utf-8"))}
    measured = _moment()
    for name in names:
        bench = importlib.import_module(f"benchmarks.{name}")
        for one in bench.run(_BENCHES[name]):
            known[one["name"]] = {**one, "measured": measured}
            print(f"{one['name']}: ratio {one['ratio']:.3f} ({one['unit']})", flush=True)
        text = json.dumps(list(known.values()), indent=2, ensure_ascii=False)
        _RESULTS.write_text(text + "\n", encoding="utf-8")


def _moment() -> str:
    """Return the day and the commit of a measurement."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return f"{datetime.now(UTC).date()} at {commit.strip() or 'no commit'}"


if __name__ == "__main__":
    main()
