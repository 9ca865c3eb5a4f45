"""The job that drills submit: tiny, and the same weights to the last bit each time."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.drills.site import Site

_COLOURS = ("red", "green", "blue")
_SIZES = ("small", "large", "old", "new")
NUM_STEPS = 30  # three epochs


@dataclass(frozen=True, slots=True)
class Work:
    """What was registered at a site for its drills."""

    dataset: str
    rows: str  # the file
    weights: str  # SHA-256 of the weights that an undisturbed run ends with
    seconds: float  # what such a run takes, from the claim on

    def submit(self, site: Site) -> str:
        """Submit the job; there is a worker for it."""
        if not any(part.is_alive() for part in site.workers):
            site.start_worker()
        return site.submit(spec_of(self.dataset))

    def running(self, site: Site) -> str:
        """Return the job once a worker has claimed it."""
        job_id = self.submit(site)
        site.wait(job_id, lambda job: job["state"] == "running")
        return job_id

    def assert_whole(self, site: Site, job_id: str, *, seconds: float = 60) -> dict[str, Any]:
        """Return the job, which has to succeed with the weights of an undisturbed run."""
        job = site.wait_for_end(job_id, seconds=seconds)
        assert job["state"] == "succeeded", (job["state"], job["error"], job["attempts"])
        assert site.weights(job) == self.weights, "the weights differ"
        return job


def spec_of(dataset: str, **changes: Any) -> dict[str, Any]:
    """Return the spec: three epochs, dropout and shuffling, a checkpoint at every sixth step."""
    training = {"max_steps": NUM_STEPS, "batch_size": 12, "learning_rate": 0.01, "seed": 3}
    return {
        "task": "text-classification",
        "model": "model:encoder",
        "data": {"train": f"dataset:{dataset}", "eval": None, "columns": {"label": "colour"}},
        "training": {**training, **changes.pop("training", {})},
        "checkpoints": {"strategy": "steps", "steps": 6, "keep": 2},
        **changes,
    }


def set_up(site: Site) -> Work:
    """Register model and rows, and run the job once undisturbed."""
    save_model("encoder", site.settings.model_roots[0] / "encoder")
    folder = str(site.settings.model_roots[0] / "encoder")
    answer = site.client.post("/models", json={"name": "encoder", "path": folder})
    assert answer.status_code == 201, answer.text
    rows = "text,colour\n" + "".join(
        f"it is a {_SIZES[n % 4]} {_COLOURS[n % 3]},{_COLOURS[n % 3]}\n" for n in range(120)
    )
    dataset = site.upload(rows, name="colours.csv")
    worker = site.start_worker()
    job = {}
    for _ in range(2):  # the first one also fills the cache of tokens
        job = site.wait_for_end(site.submit(spec_of(dataset)), seconds=180)
        assert job["state"] == "succeeded", job["error"]
    worker.stop()
    site.workers.clear()
    seconds = _seconds_between(job["started_at"], job["finished_at"])
    return Work(dataset, rows, site.weights(job), seconds)


def save_model(kind: str, folder: Path) -> None:
    """Save a tiny model of `tests/training/tiny.py`; this process imports no torch."""
    code = (
        "import sys; from pathlib import Path; from tests.training import tiny; "
        "getattr(tiny, f'save_{sys.argv[1]}')(Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, kind, str(folder)], check=True)


def _seconds_between(start: str, end: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
