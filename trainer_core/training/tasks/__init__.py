"""One file a task, or two that are alike, of the same name as the file of its spec class."""

import importlib
from typing import Protocol, cast

from trainer_core.spec import TASKS
from trainer_core.training.recipes.recipe import Recipe, Setup


class Task(Protocol):
    """What every task's module has."""

    def build(self, setup: Setup) -> Recipe:
        """Load the model, tokenize the rows, and return all that is particular to the task."""


def find_task(name: str) -> Task:
    """Return the module of a task of the spec."""
    file = TASKS[name].__module__.rpartition(".")[2]
    return cast("Task", importlib.import_module(f"{__name__}.{file}"))
