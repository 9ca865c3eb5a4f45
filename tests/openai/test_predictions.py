"""Finished models asked through the unmodified client; a thread answers in place of a worker."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from jobs.predictions import MAX_WAITING, Asked, Desk
from tests.openai.conftest import MODEL, Facade, start, upload

pytestmark = pytest.mark.slow

ASK = [{"role": "user", "content": "Hello"}]
WRITTEN = {
    "outputs": [{"text": "Good day", "finish_reason": "stop"}],
    "num_input_tokens": 7,
    "num_output_tokens": 3,
}


@contextmanager
def answering(
    facade: Facade, answer: Callable[[Asked], list[dict[str, Any]]]
) -> Iterator[list[Asked]]:
    """Answer questions for a while; give those that were asked."""
    desk, stop, seen = Desk(facade.backends.redis_url), threading.Event(), []
    desk.say_alive()

    def work() -> None:
        while not stop.is_set():
            if (asked := desk.next()) is not None:
                seen.append(asked)
                for message in answer(asked):
                    desk.answer(asked, message)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield seen
    finally:
        stop.set()
        desk._client.rpush("luthier:predict:questions", "nobody:ask")  # wakes it
        worker.join()
        desk._client.delete("luthier:predict:alive")


@pytest.fixture(scope="module")
def writer(facade: Facade) -> str:
    return _trained(facade, model=MODEL)


@pytest.fixture(scope="module")
def embedder(facade: Facade) -> str:
    rows = [{"anchor": f"question {n}", "positive": f"answer {n}"} for n in range(12)]
    return _trained(facade, rows=rows, extra_body={"task": "sentence-embedding"})


def _trained(facade: Facade, *, rows: Any = None, **given: Any) -> str:
    with openai.OpenAI(base_url=f"{facade.url}/v1", api_key="sk-1", max_retries=0) as plain:
        if rows is not None:
            given["training_file"] = upload(plain, rows)
        made = start(plain, **given)
        facade.train(made.id)
        return str(plain.fine_tuning.jobs.retrieve(made.id).fine_tuned_model)


def test_a_model_answers_in_a_conversation(facade, client, writer):
    with answering(facade, lambda _: [WRITTEN]) as seen:
        said = client.chat.completions.create(
            model=writer, messages=ASK, max_tokens=20, temperature=0, stop="END", user="me"
        )

    assert said.choices[0].message.content == "Good day"
    assert said.choices[0].finish_reason == "stop"
    assert (said.model, said.object) == (writer, "chat.completion")
    assert (said.usage.prompt_tokens, said.usage.completion_tokens, said.usage.total_tokens) == (
        7, 3, 10,
    )  # fmt: skip
    (asked,) = seen
    assert asked.inputs[0]["messages"][0]["content"] == "Hello"
    assert (asked.settings["max_new_tokens"], asked.settings["temperature"]) == (20, 0)
    assert asked.settings["stop"] == ["END"]


def test_an_answer_is_streamed(facade, client, writer):
    pieces = [{"text": "Good"}, {"text": " day"}, WRITTEN]
    with answering(facade, lambda _: pieces):
        chunks = list(
            client.chat.completions.create(
                model=writer, messages=ASK, stream=True, stream_options={"include_usage": True}
            )
        )

    texts = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert texts == ["Good", " day"]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 10)


def test_texts_are_gone_on_with(facade, client, writer):
    two = {**WRITTEN, "outputs": WRITTEN["outputs"] * 2}
    with answering(facade, lambda _: [two]) as seen:
        said = client.completions.create(model=writer, prompt=["One", "Two"], seed=5)

    assert [choice.text for choice in said.choices] == ["Good day"] * 2
    assert [one["prompt"] for one in seen[0].inputs] == ["One", "Two"]
    assert (seen[0].settings["max_new_tokens"], seen[0].settings["seed"]) == (16, 5)


def test_texts_become_vectors_in_either_encoding(facade, client, embedder):
    answer = {
        "outputs": [{"vector": [0.5, -0.25]}, {"vector": [1.0, 0.0]}],
        "num_input_tokens": 4,
        "num_output_tokens": 0,
    }
    with answering(facade, lambda _: [answer]):
        found = [
            client.embeddings.create(model=embedder, input=["a", "b"], encoding_format="float")
        ]
        if not client._strict_response_validation:  # it checks before it unpacks what it asks for
            found.append(client.embeddings.create(model=embedder, input=["a", "b"]))

    for vectors in found:
        assert [list(one.embedding) for one in vectors.data] == [[0.5, -0.25], [1.0, 0.0]]
        assert vectors.usage.prompt_tokens == 4


def test_any_model_is_asked_natively(facade, embedder):
    answer = {"outputs": [{"vector": [1.0]}], "num_input_tokens": 2, "num_output_tokens": 0}
    job_id = f"job_{embedder.rpartition(':')[2]}"
    with answering(facade, lambda _: [answer]) as seen:
        said = httpx.post(
            f"{facade.url}/jobs/{job_id}/predict", json={"inputs": ["a text"], "prompt": "query"}
        )

    assert said.json() == {
        "job_id": job_id,
        "task": "sentence-embedding",
        "data": [{"vector": [1.0]}],
        "usage": {"input_tokens": 2, "output_tokens": 0},
    }
    assert (seen[0].inputs, seen[0].settings["prompt"]) == ([{"text": "a text"}], "query")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"inputs": []}, "/inputs"),
        ({"inputs": [{"txt": "a"}]}, "/inputs/0/txt"),
        ({"inputs": ["a"], "temperature": 0.5}, "/temperature"),
        ({"inputs": ["a"], "colour": "red"}, "/colour"),
        ({}, "/inputs"),
    ],
)
def test_what_a_model_cannot_be_asked_is_told_by_place(facade, embedder, body, pointer):
    job_id = f"job_{embedder.rpartition(':')[2]}"

    said = httpx.post(f"{facade.url}/jobs/{job_id}/predict", json=body)

    assert said.status_code == 422
    assert pointer in [error["pointer"] for error in said.json()["errors"]]


def test_what_would_change_the_answer_and_is_not_there_is_refused(one_client, writer):
    for given, param in (
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 1.0}, "frequency_penalty"),
    ):
        with pytest.raises(openai.BadRequestError) as told:
            one_client.chat.completions.create(model=writer, messages=ASK, **given)
        assert told.value.param == param


def test_a_model_of_another_task_or_of_nobody_is_told(facade, one_client, writer, embedder):
    with pytest.raises(openai.BadRequestError) as other:
        one_client.chat.completions.create(model=embedder, messages=ASK)
    with pytest.raises(openai.BadRequestError):
        one_client.embeddings.create(model=writer, input="a")
    with pytest.raises(openai.NotFoundError) as nobody:
        one_client.chat.completions.create(model=MODEL, messages=ASK)
    unfinished = start(one_client)
    with httpx.Client(base_url=facade.url) as native:
        waiting = native.post(
            f"/jobs/job_{unfinished.id.removeprefix('ftjob-')}/predict", json={"inputs": ["a"]}
        )

    assert other.value.param == "model"
    assert "was trained for sentence-embedding" in other.value.message
    assert nobody.value.code == "model_not_found"
    assert (waiting.status_code, waiting.json()["code"]) == (409, "model_not_ready")


def test_what_goes_wrong_in_the_models_process_is_told(facade, one_client, writer):
    from trainer_core.errors import FieldProblem, InvalidSpec, OutOfMemory

    long = InvalidSpec([FieldProblem("/inputs/0", "has 900 tokens")]).to_typed().to_dict()
    full = OutOfMemory("there was no memory.").to_typed().to_dict()
    errors = iter([long, full])
    with answering(facade, lambda _: [{"error": next(errors)}]):
        with pytest.raises(openai.BadRequestError) as refused:
            one_client.chat.completions.create(model=writer, messages=ASK)
        with pytest.raises(openai.InternalServerError) as failed:
            one_client.chat.completions.create(model=writer, messages=ASK)

    assert (refused.value.param, "900 tokens" in refused.value.message) == ("messages", True)
    assert (failed.value.code, failed.value.type) == ("prediction_failed", "server_error")


def test_nobody_waits_where_nobody_answers_or_too_many_wait(facade, one_client, writer):
    with pytest.raises(openai.InternalServerError) as alone:
        one_client.chat.completions.create(model=writer, messages=ASK)
    desk = Desk(facade.backends.redis_url)
    desk.say_alive()
    desk._client.rpush("luthier:predict:questions", *["other:ask"] * MAX_WAITING)
    try:
        with pytest.raises(openai.InternalServerError) as full:
            one_client.chat.completions.create(model=writer, messages=ASK)
    finally:
        desk._client.delete("luthier:predict:questions", "luthier:predict:alive")

    assert (alone.value.status_code, alone.value.code) == (503, "service_unavailable")
    assert "no worker answers" in alone.value.message
    assert full.value.response.headers["retry-after"] == "5"
