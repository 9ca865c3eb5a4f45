"""What can be trained."""

import difflib

from fastapi import APIRouter

from api import problems
from api.access import Reader
from api.schemas import Json, Task, TaskList, TaskSummary
from trainer_core.errors import TaskNotFound
from trainer_core.spec import TASKS, JobSpec, parse_spec, spec_schema

router = APIRouter(tags=["tasks"])


@router.get("/tasks")
async def list_tasks(caller: Reader) -> TaskList:  # noqa: ARG001 - it has to have a key
    """List the tasks for which models can be trained."""
    return TaskList(
        data=[TaskSummary(task=name, summary=task.summary) for name, task in TASKS.items()]
    )


@router.get("/tasks/{task}", responses=problems.responses(404))
async def get_task(caller: Reader, task: str) -> Task:  # noqa: ARG001 - it has to have a key
    """Return what the specs of a task may say, what they mean, and an example."""
    if task not in TASKS:
        close = difflib.get_close_matches(task, TASKS, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"Known tasks: {', '.join(TASKS)}."
        raise TaskNotFound(f"there is no task '{task[:80]}'.", hint=hint, param="task")
    spec = parse_spec(TASKS[task].example)
    return Task(
        task=task,
        summary=TASKS[task].summary,
        schema_=spec_schema(task),
        defaults=_defaults(spec),
        example=TASKS[task].example,
        metrics=list(spec.metrics()),
    )


def _defaults(spec: JobSpec) -> Json:
    """Return every field's default: those of a spec that says only what it must."""
    least = {"task": spec.task, "model": spec.model, "data": {"train": spec.data.train}}
    values = parse_spec(least).model_dump(mode="json")
    del values["model"], values["data"]["train"]
    return values
