"""Importing in advance what any job needs; it takes most of a small job's start."""

import transformers.models.auto.modeling_auto
import transformers.trainer

from trainer_core.spec import TASKS
from trainer_core.training import run
from trainer_core.training.tasks import find_task

IMPORTED = (run, transformers.trainer, transformers.models.auto.modeling_auto)


def import_everything() -> None:
    """Import the tasks too; no tensor is made and no device touched."""
    for name in TASKS:
        find_task(name)
