"""Questions to finished models, and answers: lists in Redis, of which nothing is kept.

    luthier:predict:alive          there while a worker answers
    luthier:predict:questions      those that wait
    luthier:predict:wanted:ID      there while somebody waits for the answer
    luthier:predict:answer:ID      what is answered, piece by piece

Whoever asks waits, so what is lost is asked again by a person. A few may wait, and no more.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import RedisError

from jobs.identifiers import new_id
from trainer_core.errors import (
    FieldProblem,
    InvalidSpec,
    LuthierError,
    PredictionFailed,
    PredictionRefused,
    ServiceUnavailable,
    TypedError,
    Whose,
)
from trainer_core.predictions import MAX_SECONDS

MAX_WAITING = 8
_RETRY_SECONDS = 5
_ALIVE_SECONDS = 10
_LOOK_SECONDS = 1
_ALIVE = "luthier:predict:alive"
_QUESTIONS = "luthier:predict:questions"

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to the model of a job."""

    job_id: str
    inputs: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    is_streamed: bool = False
    id: str = field(default_factory=lambda: new_id("ask"))


class Asker:
    """Where questions are asked: the API's side."""

    def __init__(self, redis_url: str) -> None:
        # Longer than what a blocking read waits for.
        self._client = redis.asyncio.Redis.from_url(
            redis_url, socket_timeout=_LOOK_SECONDS + 5, socket_connect_timeout=2
        )

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def ask(self, asked: Asked) -> AsyncIterator[Message]:
        """Yield the pieces of an answer; the last one has `outputs`.

        Raises:
            ServiceUnavailable: no worker answers, or too many wait already.
            InvalidSpec, PredictionRefused: the model can't be asked so.
            PredictionFailed: there was no answer.
        """
        try:
            await self._check()
            await self._client.set(_wanted(asked.id), 1, ex=MAX_SECONDS)
            await self._client.rpush(_QUESTIONS, json.dumps(asdict(asked)))
            try:
                async for message in self._answers(asked.id):
                    yield message
            finally:
                await self._client.delete(_wanted(asked.id), _answer(asked.id))
        except RedisError as error:
            raise ServiceUnavailable("Redis can't be reached.", hint="Try again soon.") from error

    async def _check(self) -> None:
        if not await self._client.exists(_ALIVE):
            raise ServiceUnavailable(
                "no worker answers questions to models.",
                hint="Start one whose LUTHIER_PREDICT is not off.",
            )
        if await self._client.llen(_QUESTIONS) >= MAX_WAITING:
            raise ServiceUnavailable(
                f"{MAX_WAITING} questions wait already.",
                hint="Ask again a little later; for traffic, serve the model elsewhere.",
                detail={"retry_after_seconds": _RETRY_SECONDS},
            )

    async def _answers(self, asked_id: str) -> AsyncIterator[Message]:
        deadline = time.monotonic() + MAX_SECONDS
        while time.monotonic() < deadline:
            found = await self._client.blpop([_answer(asked_id)], timeout=_LOOK_SECONDS)
            if found is None:
                continue
            message = json.loads(found[1])
            if "error" in message:
                raise _raised(TypedError.from_dict(message["error"]))
            yield message
            if "outputs" in message:
                return
        raise PredictionFailed(f"there was no answer within {MAX_SECONDS} s.", hint="Ask for less.")


class Desk:
    """Where questions are answered: the worker's side."""

    def __init__(self, redis_url: str) -> None:
        self._client = redis.Redis.from_url(
            redis_url, socket_timeout=_LOOK_SECONDS + 5, socket_connect_timeout=2
        )

    def say_alive(self) -> None:
        """Let others know that there is somebody to answer."""
        self._client.set(_ALIVE, 1, ex=_ALIVE_SECONDS)

    def next(self) -> Asked | None:
        """Return a question to which somebody waits for the answer, waiting for one a moment."""
        found: Any = self._client.blpop([_QUESTIONS], timeout=_LOOK_SECONDS)
        if found is None:
            return None
        asked = Asked(**json.loads(found[1]))
        return asked if self._client.exists(_wanted(asked.id)) else None

    def answer(self, asked: Asked, message: Message) -> None:
        """Tell a piece of an answer."""
        key = _answer(asked.id)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.rpush(key, json.dumps(message))
            pipe.expire(key, MAX_SECONDS)
            pipe.execute()


def _raised(error: TypedError) -> LuthierError:
    """Return an error of the model's process as one of a request."""
    if error.code == InvalidSpec.code:
        return InvalidSpec([FieldProblem(**problem) for problem in error.detail["errors"]])
    kind = PredictionRefused if error.whose in (Whose.USER, Whose.DATA) else PredictionFailed
    return kind(error.message, hint=error.hint, param=error.param)


def _wanted(asked_id: str) -> str:
    return f"luthier:predict:wanted:{asked_id}"


def _answer(asked_id: str) -> str:
    return f"luthier:predict:answer:{asked_id}"
