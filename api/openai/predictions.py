"""`/v1/chat/completions`, `/v1/completions` and `/v1/embeddings`, for trying a finished model."""

import base64
import json
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from api import openai_errors, openapi
from api.access import Caller, Submitter
from api.asking import Askers, begun, check_askable, question, whole_answer
from api.bodies import JsonBody
from api.dependencies import Service
from api.openai import schemas
from api.openai.asked import ChatBody, CompletionBody, EmbeddingBody, Written, parsed_asked
from api.openai.models import tuned_job
from api.openai_errors import responses as errors
from jobs.backends import Backends
from jobs.identifiers import sibling
from jobs.predictions import Asked, Asker, Message
from jobs.records import Job
from trainer_core.errors import FieldProblem, InvalidSpec, LuthierError
from trainer_core.predictions import WRITERS, PredictionSettings

router = APIRouter()

_REWRITERS = frozenset({"summarization", "translation"})
_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}
Chunk = Callable[[str | None, str | None], dict[str, Any]]  # of a text, and why it ended


@router.post(
    "/chat/completions",
    response_model=schemas.ChatCompletion,
    responses={200: {"content": _EVENTS}, **errors(404, 409, 413, 415, 503)},
    openapi_extra=openapi.body({"schema": openapi.schema_of(ChatBody)}),
)
async def create_chat_completion(
    caller: Submitter, service: Service, asker: Askers, body: JsonBody
) -> Any:
    """Let a fine-tuned language model answer in a conversation."""
    asked = parsed_asked(ChatBody, body)
    job = await run_in_threadpool(_job, service, caller, asked.model, WRITERS)
    inputs = [{"messages": [dict(message) for message in asked.messages]}]
    if asked.stream:
        put = _question(job, inputs, asked, {"/inputs/0/messages": "/messages"}, is_streamed=True)
        return await _streamed(asker, put, asked, _chat_chunk(put.id, asked.model))
    put = _question(job, inputs, asked, {"/inputs/0/messages": "/messages"})
    answer = await _answer(asker, put, {"/inputs/0": "/messages"})
    (said,) = answer["outputs"]
    choice = {
        "message": {"role": "assistant", "content": said["text"]},
        "finish_reason": said["finish_reason"],
    }
    return schemas.ChatCompletion.model_validate(
        {
            "id": sibling(put.id, prefix="chatcmpl-"),
            "created": int(time.time()),
            "model": asked.model,
            "choices": [choice],
            "usage": _usage(answer),
        }
    )


@router.post(
    "/completions",
    response_model=schemas.Completion,
    responses={200: {"content": _EVENTS}, **errors(404, 409, 413, 415, 503)},
    openapi_extra=openapi.body({"schema": openapi.schema_of(CompletionBody)}),
)
async def create_completion(
    caller: Submitter, service: Service, asker: Askers, body: JsonBody
) -> Any:
    """Let a fine-tuned model go on with a text, or write what a text becomes."""
    asked = parsed_asked(CompletionBody, body)
    job = await run_in_threadpool(_job, service, caller, asked.model, WRITERS | _REWRITERS)
    inputs = [asked.prompt] if isinstance(asked.prompt, str) else list(asked.prompt)
    if asked.stream:
        put = _question(job, inputs, asked, {"/inputs": "/prompt"}, is_streamed=True)
        return await _streamed(asker, put, asked, _text_chunk(put.id, asked.model))
    put = _question(job, inputs, asked, {"/inputs": "/prompt"})
    answer = await _answer(asker, put, {"/inputs": "/prompt"})
    choices = [
        {"index": place, "text": said["text"], "finish_reason": said["finish_reason"]}
        for place, said in enumerate(answer["outputs"])
    ]
    return schemas.Completion.model_validate(
        {
            "id": sibling(put.id, prefix="cmpl-"),
            "created": int(time.time()),
            "model": asked.model,
            "choices": choices,
            "usage": _usage(answer),
        }
    )


@router.post(
    "/embeddings",
    openapi_extra=openapi.body({"schema": openapi.schema_of(EmbeddingBody)}),
    responses=errors(404, 409, 413, 415, 503),
)
async def create_embedding(
    caller: Submitter, service: Service, asker: Askers, body: JsonBody
) -> schemas.Embeddings:
    """Turn texts into vectors with a fine-tuned embedding model."""
    asked = parsed_asked(EmbeddingBody, body)
    tasks = frozenset({"sentence-embedding"})
    job = await run_in_threadpool(_job, service, caller, asked.model, tasks)
    inputs = [asked.input] if isinstance(asked.input, str) else list(asked.input)
    places = {"/inputs": "/input"}
    try:
        put = question(job, inputs, PredictionSettings())
    except InvalidSpec as error:
        raise _told(error, places) from error
    answer = await _answer(asker, put, places)
    is_plain = asked.encoding_format == "float"
    data = [
        {
            "index": place,
            "embedding": said["vector"] if is_plain else _packed(said["vector"]),
        }
        for place, said in enumerate(answer["outputs"])
    ]
    count = answer["num_input_tokens"]
    usage = {"prompt_tokens": count, "total_tokens": count}
    return schemas.Embeddings.model_validate({"data": data, "model": asked.model, "usage": usage})


def _job(service: Backends, caller: Caller, model: str, tasks: frozenset[str]) -> Job:
    with service.database.transaction() as tx:
        job = tuned_job(tx, model, project=caller.project)
        check_askable(tx, job, service.settings)
    if job.task not in tasks:
        known = ", ".join(sorted(tasks))
        message = f"'{model[:200]}' was trained for {job.task}; this takes {known}"
        hint = "POST /jobs/ID/predict asks a model of any task."
        raise InvalidSpec([FieldProblem("/model", message, hint)])
    return job


def _question(
    job: Job,
    inputs: list[Any],
    asked: Written,
    places: Mapping[str, str],
    *,
    is_streamed: bool = False,
) -> Asked:
    try:
        return question(job, inputs, asked.settings(), is_streamed=is_streamed)
    except InvalidSpec as error:
        raise _told(error, places) from error


async def _answer(asker: Asker, put: Asked, places: Mapping[str, str]) -> Message:
    try:
        return await whole_answer(asker, put)
    except InvalidSpec as error:
        raise _told(error, places) from error


def _told(error: InvalidSpec, places: Mapping[str, str]) -> InvalidSpec:
    """Return an error in what is asked with the places of the request."""
    problems = []
    for problem in error.problems:
        pointer = problem.pointer
        for ours, theirs in places.items():
            if pointer.startswith(ours):
                pointer = theirs + pointer.removeprefix(ours)
                break
        problems.append(FieldProblem(pointer, problem.message, problem.hint))
    return InvalidSpec(problems)


async def _streamed(asker: Asker, put: Asked, asked: Written, chunk: Chunk) -> Response:
    messages = await begun(asker.ask(put))
    has_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return StreamingResponse(
        _events(messages, chunk, has_usage=has_usage), media_type="text/event-stream"
    )


async def _events(
    messages: AsyncIterator[Message], chunk: Chunk, *, has_usage: bool
) -> AsyncIterator[str]:
    """Yield an answer as server-sent events, as OpenAI's client reads them."""
    try:
        async for message in messages:
            if "text" in message:
                yield _event(chunk(message["text"], None))
                continue
            yield _event(chunk(None, message["outputs"][0]["finish_reason"]))
            if has_usage:
                yield _event({**chunk(None, None), "choices": [], "usage": _usage(message)})
    except LuthierError as error:
        told = openai_errors.body(error.code, error.message, hint=error.hint, param=error.param)
        yield _event(told)
    yield "data: [DONE]\n\n"


def _event(values: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(values)}\n\n"


def _chat_chunk(asked_id: str, model: str) -> Chunk:
    common = {
        "id": sibling(asked_id, prefix="chatcmpl-"),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }

    def chunk(text: str | None, finish_reason: str | None) -> dict[str, Any]:
        delta = {} if text is None else {"role": "assistant", "content": text}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**common, "choices": [choice]}

    return chunk


def _text_chunk(asked_id: str, model: str) -> Chunk:
    common = {
        "id": sibling(asked_id, prefix="cmpl-"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }

    def chunk(text: str | None, finish_reason: str | None) -> dict[str, Any]:
        choice = {
            "index": 0, "text": text or "", "logprobs": None, "finish_reason": finish_reason,
        }  # fmt: skip
        return {**common, "choices": [choice]}

    return chunk


def _usage(answer: Message) -> dict[str, int]:
    read, written = answer["num_input_tokens"], answer["num_output_tokens"]
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _packed(vector: list[float]) -> str:
    """Return a vector as OpenAI's client asks for it: base64 of 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
