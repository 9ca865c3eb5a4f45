"""`client.tasks`: what the service can train."""

from luthier.client.transport import Transport, path_of
from luthier.client.values import Task, from_json


class Tasks:
    """The tasks of a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> tuple[Task, ...]:
        """Return every task with a one-sentence summary."""
        return tuple(from_json(Task, values) for values in self._transport.get("/tasks")["data"])

    def get(self, task: str) -> Task:
        """Return a task with the JSON schema of its spec, the defaults and an example."""
        return from_json(Task, self._transport.get(path_of("tasks", task)))
