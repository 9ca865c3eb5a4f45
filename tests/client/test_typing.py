"""The types that programs see."""

import subprocess
import sys
from pathlib import Path

import pytest

import luthier

CONSUMER = Path(__file__).with_name("typed_consumer.py")


@pytest.mark.slow
def test_program_that_uses_both_clients_is_clean_under_strict_mypy(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--follow-imports=silent",
    ]
    ended = subprocess.run(
        [*command, f"--cache-dir={tmp_path}", CONSUMER],
        cwd=CONSUMER.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_package_says_that_it_is_typed() -> None:
    assert Path(luthier.__file__).with_name("py.typed").exists()
