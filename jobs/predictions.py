"""Questions to finished models, and answers: lists in Redis, of which nothing is kept.

    luthier:predict:alive          there while a worker answers
    luthier:predict:questions      those that wait, as PROJECT:ID
    luthier:predict:wanted:ID      a question, there while somebody waits for the answer
    luthier:predict:answer:ID      what is answered, piece by piece

Whoever asks waits, so what is lost is asked again by a person. A few may wait, fewer of one
project, and no more.
"""

import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import redis
import redis.asyncio
from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError

from jobs.identifiers import new_id
from trainer_core.errors import (
    FieldProblem,
    InvalidSpec,
    LuthierError,
    PredictionFailed,
    PredictionRefused,
    RateLimited,
    ServiceUnavailable,
    TypedError,
    Whose,
)
from trainer_core.predictions import MAX_SECONDS

MAX_WAITING = 16
MAX_WAITING_EACH = 8  # of a project, so that none keeps the others out
_RETRY_SECONDS = 5
_ALIVE_SECONDS = 10
_LOOK_SECONDS = 1
_ALIVE = "luthier:predict:alive"
_QUESTIONS = "luthier:predict:questions"

# In one step, so that no two that ask at once take the same place.
_LINE_UP = """
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 'full' end
local own = 0
for _, waiting in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if string.sub(waiting, 1, #ARGV[3]) == ARGV[3] then own = own + 1 end
end
if own >= tonumber(ARGV[2]) then return 'full of its own' end
redis.call('SET', KEYS[2], ARGV[5], 'EX', ARGV[6])
redis.call('RPUSH', KEYS[1], ARGV[3] .. ARGV[4])
return 'waits'
"""

_log = logging.getLogger(__name__)

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to the model of a job."""

    project: str
    job_id: str
    inputs: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    is_streamed: bool = False
    id: str = field(default_factory=lambda: new_id("ask"))


_ASKED = TypeAdapter(Asked)


class Asker:
    """Where questions are asked: the API's side."""

    def __init__(self, redis_url: str) -> None:
        # Longer than what a blocking read waits for.
        self._client = redis.asyncio.Redis.from_url(
            redis_url, socket_timeout=_LOOK_SECONDS + 5, socket_connect_timeout=2
        )
        self._line_up = self._client.register_script(_LINE_UP)

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def ask(self, asked: Asked) -> AsyncIterator[Message]:
        """Yield the pieces of an answer; the last one has `outputs`.

        Raises:
            ServiceUnavailable: no worker answers, or too many wait already.
            RateLimited: too many of the project do.
            InvalidSpec, PredictionRefused: the model can't be asked so.
            PredictionFailed: there was no answer.
        """
        try:
            await self._wait_in_line(asked)
            try:
                async for message in self._answers(asked.id):
                    yield message
            finally:
                await self._client.lrem(_QUESTIONS, 1, f"{asked.project}:{asked.id}")
                await self._client.delete(_wanted(asked.id), _answer(asked.id))
        except RedisError as error:
            raise ServiceUnavailable("Redis can't be reached.", hint="Try again soon.") from error

    async def _wait_in_line(self, asked: Asked) -> None:
        if not await self._client.exists(_ALIVE):
            raise ServiceUnavailable(
                "no worker answers questions to models.",
                hint="Start one whose LUTHIER_PREDICT is not off.",
            )
        bounds = (MAX_WAITING, MAX_WAITING_EACH, f"{asked.project}:", asked.id)
        found = await self._line_up(
            keys=[_QUESTIONS, _wanted(asked.id)],
            args=[*bounds, json.dumps(asdict(asked)), MAX_SECONDS],
        )
        hint = "Ask again a little later; for traffic, serve the model elsewhere."
        if found == b"full":
            raise ServiceUnavailable(
                f"{MAX_WAITING} questions wait already.",
                hint=hint,
                detail={"retry_after_seconds": _RETRY_SECONDS},
            )
        if found == b"full of its own":
            raise RateLimited(
                f"{MAX_WAITING_EACH} questions of the project '{asked.project}' wait already.",
                hint=hint,
                retry_after_seconds=_RETRY_SECONDS,
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
        self._num_dropped = 0

    def say_alive(self) -> None:
        """Let others know that there is somebody to answer."""
        self._client.set(_ALIVE, 1, ex=_ALIVE_SECONDS)

    def next(self) -> Asked | None:
        """Return a question to which somebody waits for the answer, waiting for one a moment.

        What is no question is dropped and counted: anybody who can write to Redis can put it there.
        """
        found: Any = self._client.blpop([_QUESTIONS], timeout=_LOOK_SECONDS)
        if found is None:
            return None
        project, _, asked_id = found[1].decode(errors="replace").partition(":")
        written: Any = self._client.get(_wanted(asked_id))
        if asked_id and written is None:
            return None
        try:
            asked = _ASKED.validate_json(written or b"", strict=True)
        except ValidationError:
            asked = None
        if asked is not None and (asked.project, asked.id) == (project, asked_id):
            return asked
        self._num_dropped += 1
        _log.warning(
            "dropped %d bytes that are no question (%d so far)",
            len(written or found[1]),
            self._num_dropped,
            extra={"action": "message_dropped"},
        )
        return None

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
