"""Asking finished models: what a route needs to have a worker answer."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import Depends, Request

from jobs.predictions import Asked, Asker, Message
from jobs.records import Job
from jobs.settings import Settings
from jobs.store import artifacts
from jobs.transaction import Transaction
from trainer_core.errors import FieldProblem, InvalidSpec, ModelNotReady, PredictionsOff
from trainer_core.predictions import WRITERS, PredictionSettings, parse_inputs

_REWRITERS = frozenset({"summarization", "translation"})


async def _asker(request: Request) -> Asker:
    asker = request.app.state.asker
    assert isinstance(asker, Asker)
    return asker


Askers = Annotated[Asker, Depends(_asker)]


def check_askable(tx: Transaction, job: Job, settings: Settings) -> None:
    """Raise PredictionsOff or ModelNotReady unless the model of a job can be asked."""
    if settings.predict == "off":
        raise PredictionsOff(
            "models can't be tried on this service: LUTHIER_PREDICT is off.",
            hint="Download the model and serve it elsewhere.",
        )
    paths = {file.path for file in artifacts.of_job(tx, job.id)}
    if not paths:
        raise ModelNotReady(
            f"job {job.id} is {job.state} and has no model.", detail={"state": job.state}
        )
    if "config.json" not in paths:
        raise ModelNotReady(
            f"job {job.id} has made an adapter alone, which can't be tried here.",
            hint="Load it with peft, or train with adapter.output 'merged'.",
        )


def question(
    job: Job,
    inputs: Sequence[Any],
    settings: PredictionSettings,
    *,
    is_streamed: bool = False,
) -> Asked:
    """Return what to ask the model of a job, or raise InvalidSpec for what it can't be asked."""
    if problems := [*_unused(job.task, settings)]:
        raise InvalidSpec(problems)
    return Asked(
        project=job.project,
        job_id=job.id,
        inputs=parse_inputs(job.task, inputs),
        settings=settings.model_dump(mode="json", include=set(PredictionSettings.model_fields)),
        is_streamed=is_streamed,
    )


async def whole_answer(asker: Asker, asked: Asked) -> Message:
    """Return the answer once it is complete."""
    last: Message = {}
    async for message in asker.ask(asked):
        last = message
    return last


async def begun(messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
    """Return an answer whose first piece has come, so that an error is one of the request."""
    first = await anext(messages)

    async def rest() -> AsyncIterator[Message]:
        yield first
        async for message in messages:
            yield message

    return rest()


def _unused(task: str, settings: PredictionSettings) -> list[FieldProblem]:
    """Return a problem for each setting that changes nothing for a task."""
    if task in WRITERS | _REWRITERS:
        used = PredictionSettings.model_fields.keys() - {"prompt"}
    else:
        used = {"prompt"} if task == "sentence-embedding" else set()
    return [
        FieldProblem(f"/{name}", f"is not used by a model for {task}", "Leave it out.")
        for name, value in settings
        if name in PredictionSettings.model_fields
        and name not in used
        and value != PredictionSettings.model_fields[name].default
    ]
