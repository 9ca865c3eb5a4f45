# Made of luthier/client/aio/tasks.py by `python -m tests.client.twins`: change that one.
"""`client.tasks`: what the service can train."""

from luthier.client.calls import path_of
from luthier.client.inputs import Task
from luthier.client.sync.transport import Transport
from luthier.client.values import from_json


class Tasks:
    """The tasks of a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> tuple[Task, ...]:
        """Return every task with a one-sentence summary."""
        found = self._transport.get("/tasks")
        return tuple(from_json(Task, values) for values in found["data"])

    def get(self, task: str) -> Task:
        """Return a task with the JSON schema of its spec, the defaults and an example."""
        return from_json(Task, self._transport.get(path_of("tasks", task)))
