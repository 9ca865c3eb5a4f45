"""One file a task, found by its name: `text-classification` is `text_classification.py`."""

import importlib
from typing import Protocol, cast

from trainer_core.training.recipe import Recipe, Setup


class Task(Protocol):
    """What every task's module has."""

    def build(self, setup: Setup) -> Recipe:
        """Load the model, tokenize the rows, and return all that is particular to the task."""


def find_task(name: str) -> Task:
    """Return the module of a task of the spec."""
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return cast("Task", module)
