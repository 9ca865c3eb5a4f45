"""The import contracts of pyproject.toml: the tree keeps them, and each one catches a breach."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINTER = Path(sys.executable).with_name("lint-imports")

with (ROOT / "pyproject.toml").open("rb") as _file:
    CONFIGURATION = tomllib.load(_file)["tool"]["importlinter"]

HOUSE = "The house: arrows point down; api and worker do not know each other"
TRAINER_CORE = "trainer_core: training stands on rows, rows on the spec"
JOBS = "jobs: from the backends down to the states"
WORKER = "worker: from the command down to the process"
TRAINING_FOLDER = "training: from the command down to the process"
LOOP = "loop: from the trainer down to its steps"
RECIPES = "recipes: from the kinds of tasks down to the recipe"
MODELS = "models: from the heads down to the layers"
DATA = "data: from the batches down to the words"
PROCESS = "process: from the devices down to the clock"
ROWS = "rows: from the checks down to the files"
SPEC = "spec: from the choices down to the words"
API = "api: from the application down to the schemas"
LUTHIER = "luthier: the command stands on the client and the servers"
CLIENT = (
    "luthier.client: neither side knows the other, and both stand on what does no input or output"
)
TORCH = "torch and its libraries are imported in trainer_core.training alone"
TRAINING = "training knows no web, SQL or Redis"

# (the contract, the file that gets a line, the line). A file that is not there is an undeclared
# module.
BREACHES = [
    (HOUSE, "api/app.py", "import worker.main"),
    (HOUSE, "worker/main.py", "import api.app"),
    (HOUSE, "jobs/queue.py", "import luthier"),
    (HOUSE, "jobs/queue.py", "import api.app"),
    (HOUSE, "trainer_core/errors.py", "import jobs.states"),
    (TRAINER_CORE, "trainer_core/spec/base.py", "import trainer_core.rows"),
    (TRAINER_CORE, "trainer_core/rows/files.py", "import trainer_core.training"),
    (TRAINER_CORE, "trainer_core/undeclared.py", ""),
    (JOBS, "jobs/states.py", "import jobs.settings"),
    (JOBS, "jobs/queue.py", "import jobs.feed"),
    (JOBS, "jobs/undeclared.py", ""),
    (WORKER, "worker/process.py", "import worker.main"),
    (WORKER, "worker/undeclared.py", ""),
    (TRAINING_FOLDER, "trainer_core/training/data/tokens.py", "import trainer_core.training.run"),
    (TRAINING_FOLDER, "trainer_core/training/undeclared.py", ""),
    (LOOP, "trainer_core/training/loop/steps.py", "import trainer_core.training.loop.trainer"),
    (LOOP, "trainer_core/training/loop/undeclared.py", ""),
    (
        RECIPES,
        "trainer_core/training/recipes/recipe.py",
        "import trainer_core.training.recipes.pairs",
    ),
    (
        MODELS,
        "trainer_core/training/models/base_model.py",
        "import trainer_core.training.models.heads",
    ),
    (
        DATA,
        "trainer_core/training/data/tokens.py",
        "import trainer_core.training.data.batching",
    ),
    (
        PROCESS,
        "trainer_core/training/process/clock.py",
        "import trainer_core.training.process.devices",
    ),
    (ROWS, "trainer_core/rows/values.py", "import trainer_core.rows.checking"),
    (ROWS, "trainer_core/rows/undeclared.py", ""),
    (SPEC, "trainer_core/spec/parts.py", "import trainer_core.spec.tasks"),
    (SPEC, "trainer_core/spec/undeclared.py", ""),
    (API, "api/schemas.py", "import api.app"),
    (API, "api/undeclared.py", ""),
    (LUTHIER, "luthier/client/errors.py", "import luthier.up"),
    (CLIENT, "luthier/client/sync/jobs.py", "import luthier.client.aio.jobs"),
    (CLIENT, "luthier/client/values.py", "import luthier.client.calls"),
    (CLIENT, "luthier/client/undeclared.py", ""),
    (LUTHIER, "luthier/undeclared.py", ""),
    (TORCH, "api/app.py", "import torch"),
    (TORCH, "worker/process.py", "def late():\n    import transformers"),
    (TORCH, "jobs/submission.py", "import trainer_core.training.process.devices"),
    (TORCH, "trainer_core/rows/reading.py", "import datasets"),
    (TRAINING, "trainer_core/training/models/base_model.py", "import httpx"),
    (TRAINING, "trainer_core/rows/reading.py", "import redis"),
    (TRAINING, "trainer_core/spec/base.py", "import sqlalchemy"),
]


@dataclass(frozen=True)
class Tree:
    """The packages, copied to where they may be spoilt."""

    path: Path
    cache: Path

    def lint(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LINTER, "--no-logo", "--cache-dir", self.cache],
            cwd=self.path,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Tree:
    path = tmp_path_factory.mktemp("tree")
    for package in CONFIGURATION["root_packages"]:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, path / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", path)
    copied = Tree(path, tmp_path_factory.mktemp("cache"))
    answer = copied.lint()
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return copied


def test_every_contract_is_kept(tree):
    answer = tree.lint()
    assert answer.returncode == 0
    assert f"Contracts: {len(CONFIGURATION['contracts'])} kept, 0 broken." in answer.stdout


def test_every_contract_has_a_breach_here():
    assert {contract for contract, _, _ in BREACHES} == {
        contract["name"] for contract in CONFIGURATION["contracts"]
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contract", "file", "line"), BREACHES, ids=[f"{file}: {line}" for _, file, line in BREACHES]
)
def test_breach_is_caught_by_its_contract(tree, contract, file, line):
    path = tree.path / file
    before = path.read_bytes() if path.exists() else None
    path.write_bytes((before or b"") + f"\n{line}\n".encode())
    try:
        answer = tree.lint()
    finally:
        path.unlink() if before is None else path.write_bytes(before)
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert contract in re.findall(r"^(.+) BROKEN$", answer.stdout, re.MULTILINE)
