"""`client.tasks`: what the service can train."""

from luthier.client.aio.transport import AsyncTransport
from luthier.client.calls import path_of
from luthier.client.inputs import Task
from luthier.client.values import from_json


class AsyncTasks:
    """The tasks of a service."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self) -> tuple[Task, ...]:
        """Return every task with a one-sentence summary."""
        found = await self._transport.get("/tasks")
        return tuple(from_json(Task, values) for values in found["data"])

    async def get(self, task: str) -> Task:
        """Return a task with the JSON schema of its spec, the defaults and an example."""
        return from_json(Task, await self._transport.get(path_of("tasks", task)))
