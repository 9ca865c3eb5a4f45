"""Threads and processes of their own for looking at jobs, which takes seconds and much memory."""

from typing import Annotated

from fastapi import Depends, Request

from api.reading import Readers
from jobs.inspecting import Inspector
from jobs.settings import Settings


class Inspections(Readers):
    """Threads that wait for inspections, apart from those that read rows of submissions."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.processes = Inspector(settings)


async def _inspections(request: Request) -> Inspections:
    inspections = request.app.state.inspections
    assert isinstance(inspections, Inspections)
    return inspections


JobInspector = Annotated[Inspections, Depends(_inspections)]
