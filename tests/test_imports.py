"""What the parts load when they start: nothing heavy, nothing of another part."""

import re
import subprocess
import sys

import pytest

TRAINING = {"torch", "transformers", "datasets", "accelerate", "peft", "trl", "sklearn", "scipy"}
API = {"fastapi", "starlette", "uvicorn"}
STORE = {"sqlalchemy", "psycopg", "alembic", "celery", "kombu", "redis", "obstore"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("api.app", TRAINING | {"worker", "luthier", "optuna"}),
        ("worker.main", TRAINING | API | {"api", "luthier"}),
        ("trainer_core.spec", TRAINING | API | STORE | {"httpx", "numpy", "pyarrow"}),
        (
            "luthier.cli.main",
            TRAINING | API | STORE | {"httpx", "rich", "pydantic", "numpy", "pyarrow"},
        ),
        ("luthier.up", TRAINING | API | {"httpx", "rich"}),
    ],
)
def test_import_loads_nothing_that_it_does_not_need(module, unwanted):
    loaded = imported_by(module)
    assert module in loaded
    assert not {name.partition(".")[0] for name in loaded} & unwanted


def imported_by(module: str) -> set[str]:
    """Return every module that a new interpreter loads when it imports one."""
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {module}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", answer.stderr, re.MULTILINE))
