"""What routes are given, and the parameters that they share."""

from typing import Annotated

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict

from jobs.backends import Backends
from jobs.delivery.sender import Sender
from trainer_core.errors import CheckpointNotFound


def backends_of(request: Request) -> Backends:
    """Return the servers on which the application works."""
    backends = request.app.state.backends
    assert isinstance(backends, Backends)
    return backends


async def _backends(request: Request) -> Backends:
    return backends_of(request)


async def _sender(request: Request) -> Sender:
    sender = request.app.state.sender
    assert isinstance(sender, Sender)
    return sender


Service = Annotated[Backends, Depends(_backends)]
WebhookSender = Annotated[Sender, Depends(_sender)]
JobId = Annotated[str, Path(description="Id of the job, such as `job_01k9…`.", max_length=100)]
CheckpointId = Annotated[
    str, Path(description="Id of the checkpoint, such as `checkpoint-40`.", max_length=100)
]
SweepId = Annotated[
    str, Path(description="Id of the sweep, such as `sweep_01k9…`.", max_length=100)
]
WebhookId = Annotated[
    str, Path(description="Id of the webhook, such as `wh_01k9…`.", max_length=100)
]
DatasetId = Annotated[
    str, Path(description="Id of the data set, such as `ds_01k9…`.", max_length=100)
]
Cursor = Annotated[
    str | None,
    Query(
        description="Id of the last one seen; those after it are listed.",
        min_length=1,
        max_length=100,
    ),
]
Limit = Annotated[int, Query(description="How many to list, 1 to 100.", ge=1, le=100)]


def step_of(checkpoint_id: str, *, param: str = "checkpoint_id") -> int:
    """Return the step of a checkpoint, or raise CheckpointNotFound if that is no id of one."""
    name, _, step = checkpoint_id.rpartition("-")
    is_number = step.isascii() and step.isdecimal() and step == str(int(step))
    if name != "checkpoint" or not is_number:
        raise CheckpointNotFound(
            f"'{checkpoint_id}' is no id of a checkpoint.", hint="Write checkpoint-N.", param=param
        )
    return int(step)


def accepts(request: Request, media_type: str) -> bool:
    """Return whether the client names a media type among those that it takes."""
    ranges = ",".join(request.headers.getlist("accept")).lower().split(",")
    return any(wanted.partition(";")[0].strip() == media_type for wanted in ranges)


class Parameters(BaseModel):
    """Query parameters; one that a route does not know is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageParameters(Parameters):
    """Parameters of a list."""

    after: Cursor = None
    limit: Limit = 20
