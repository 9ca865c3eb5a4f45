"""Tests of training; files that import torch are not even collected for a quick run."""

from pathlib import Path

import pytest

_WITHOUT_TORCH = {
    "conftest.py",
    "test_directories.py",
    "test_failures.py",
    "test_safety.py",
    "test_stopping.py",
    "test_text_metrics.py",
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    is_quick = config.getoption("markexpr") == "not slow"
    is_heavy = collection_path.suffix == ".py" and collection_path.name not in _WITHOUT_TORCH
    return True if is_quick and is_heavy and collection_path.name != "__init__.py" else None
