"""How the client fails: typed errors, repeated requests, settings that can't be."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

import luthier
from tests.client.conftest import JOB, Connect, submit
from tests.cutting_proxy import CuttingProxy
from tests.scripted_server import Answer, ScriptedServer
from trainer_core.errors import InvalidSetting, LuthierError

PROBLEM = {"title": "Service Unavailable", "detail": "not now.", "code": "service_unavailable"}


@pytest.mark.slow
def test_missing_job_is_not_found_with_code_hint_and_request_id(client: luthier.Client) -> None:
    with pytest.raises(luthier.NotFound) as caught:
        client.jobs.get("job_0000")

    error = caught.value
    assert (error.status, error.code, error.param) == (404, "job_not_found", "id")
    assert error.hint
    assert error.request_id is not None
    assert error.request_id.startswith("req_")


@pytest.mark.slow
def test_invalid_spec_carries_every_field(client: luthier.Client, rows: Path) -> None:
    training = {"epochs": -1, "learning_rate": "fast"}

    with pytest.raises(luthier.InvalidRequest) as caught:
        submit(client, rows, training=training)

    pointers = {problem.pointer for problem in caught.value.errors}
    assert pointers == {"/training/epochs", "/training/learning_rate"}
    assert list(client.jobs.list()) == []


@pytest.mark.slow
def test_bad_rows_are_in_the_detail(client: luthier.Client, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = ['{"text": "hello", "label": "a"}'] * 20
    path.write_text("\n".join([*lines, '{"text": "broken', *lines]))

    with pytest.raises(luthier.InvalidRequest) as caught:
        submit(client, path)

    assert caught.value.code == "invalid_rows"
    assert caught.value.detail["total"] == 1
    assert caught.value.detail["rows"][0]["line"] == 21


def test_get_is_repeated_after_503() -> None:
    later = Answer(503, PROBLEM, {"Retry-After": "0"})
    with ScriptedServer([later, later, Answer(body=JOB)]) as server:
        with luthier.Client(server.url) as client:
            assert client.jobs.get("job_1").id == "job_1"

        assert len(server.requests) == 3


def test_cancel_is_repeated_after_503() -> None:
    with ScriptedServer([Answer(503, PROBLEM), Answer(body=JOB)]) as server:
        with luthier.Client(server.url) as client:
            client.jobs.cancel("job_1")

        assert [method for method, _, _ in server.requests] == ["POST", "POST"]


def test_create_is_repeated_with_the_same_key_and_another_create_has_another(
    connect: Connect,
) -> None:
    answers = [Answer(503, PROBLEM, {"Retry-After": "0"}), Answer(body=JOB)]
    with ScriptedServer(answers) as server:
        with connect(server.url) as client:
            client.jobs.create({"task": "causal-lm"})
            client.jobs.create({"task": "causal-lm"})
            client.jobs.create({"task": "causal-lm"}, idempotency_key="mine")

        first, again, second, third = [
            headers["Idempotency-Key"] for _, _, headers in server.requests
        ]
        assert first == again
        assert len({first, second}) == 2
        assert third == "mine"


def test_request_that_is_still_in_flight_is_asked_for_again() -> None:
    busy = {"title": "Conflict", "detail": "not yet.", "code": "request_in_flight"}
    with ScriptedServer([Answer(409, busy, {"Retry-After": "0"}), Answer(body=JOB)]) as server:
        with luthier.Client(server.url) as client:
            assert client.jobs.retry("job_0").id == "job_1"

        assert len(server.requests) == 2


def test_post_that_takes_no_key_is_sent_once() -> None:
    with ScriptedServer([Answer(503, PROBLEM), Answer(body={})]) as server:
        with luthier.Client(server.url) as client, pytest.raises(luthier.ServiceFailed) as caught:
            client.webhooks.create("https://example.org/")

        assert len(server.requests) == 1
        assert (caught.value.status, caught.value.message) == (503, "not now.")


def test_retry_after_is_waited_for_in_seconds_or_until_a_date(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("luthier.client.sync.transport.sleep", waits.append)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    answers = [
        Answer(429, PROBLEM, {"Retry-After": "7"}),
        Answer(503, PROBLEM, {"Retry-After": date}),
        Answer(429, PROBLEM, {"Retry-After": "86400"}),
        Answer(body=JOB),
    ]

    with ScriptedServer(answers) as server, luthier.Client(server.url) as client:
        client.jobs.get("job_1")

    seconds, until, longest = waits
    assert seconds == 7
    assert 0 < until <= 40
    assert longest == 60


def test_service_that_stays_away_is_unreachable(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer([Answer()]) as server:
        url = server.url
    monkeypatch.setattr("luthier.client.calls.FIRST_DELAY_SECONDS", 0.01)

    with connect(url) as client:
        for call in (
            lambda: client.jobs.get("job_1"),
            lambda: client.jobs.wait("job_1"),
            lambda: next(client.jobs.events("job_1")),
        ):
            with pytest.raises(luthier.ServiceUnreachable, match="connection refused"):
                call()


def test_post_that_was_cut_says_that_it_may_have_arrived() -> None:
    with (
        ScriptedServer([Answer(body=JOB)]) as server,
        CuttingProxy(server.url, cut_after_bytes=20) as proxy,
        luthier.Client(proxy.url) as client,
        pytest.raises(luthier.ServiceUnreachable) as caught,
    ):
        client.webhooks.create("https://example.org/")

    assert "may have arrived" in caught.value.hint


@pytest.mark.parametrize("status", [200, 302, 404, 500])
def test_page_of_something_else_is_an_unexpected_reply(status: int) -> None:
    page = Answer(status, b"<html>Log in</html>", {"Content-Type": "text/html"})
    with (
        ScriptedServer([page]) as server,
        luthier.Client(server.url) as client,
        pytest.raises(luthier.UnexpectedReply) as caught,
    ):
        client.jobs.get("job_1")

    assert "LUTHIER_URL" in caught.value.hint


def test_gateway_that_is_busy_is_retried_though_it_sends_a_page() -> None:
    answers = [Answer(502, b"<html>Bad</html>"), Answer(body=JOB)]

    with ScriptedServer(answers) as server, luthier.Client(server.url) as client:
        assert client.jobs.get("job_1").id == "job_1"


def test_key_of_the_environment_is_sent_as_bearer(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer([Answer(body=JOB)]) as server:
        monkeypatch.setenv("LUTHIER_URL", server.url + "/")
        monkeypatch.setenv("LUTHIER_API_KEY", "secret-1\n")
        with luthier.Client() as client:
            client.jobs.get("job_1")

        _, path, headers = server.requests[0]
        assert headers["Authorization"] == "Bearer secret-1"
        assert path == "/jobs/job_1"


def test_key_is_read_from_the_file_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("secret-1\n")
    monkeypatch.setenv("LUTHIER_API_KEY_FILE", str(file))
    with ScriptedServer([Answer(body=JOB)] * 2) as server:
        with luthier.Client(server.url) as client:
            client.jobs.get("job_1")
        with luthier.Client(server.url, api_key="secret-2") as client:
            client.jobs.get("job_1")

        sent = [headers["Authorization"] for _, _, headers in server.requests]
        assert sent == ["Bearer secret-1", "Bearer secret-2"]


@pytest.mark.parametrize(
    ("content", "other", "message"),
    [
        (b"secret-1", "secret-2", "are both set"),
        (None, "", "No such file"),
        (b"", "", "the API key is empty"),
        (b"\xff", "", "it is not text"),
    ],
)
def test_file_without_one_key_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, other: str, message: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("LUTHIER_API_KEY_FILE", str(file))
    monkeypatch.setenv("LUTHIER_API_KEY", other)
    with pytest.raises(InvalidSetting, match=message) as caught:
        luthier.Client("http://127.0.0.1:1")
    assert "secret" not in str(caught.value)


def test_refused_key_is_an_authentication_error() -> None:
    refused = Answer(401, {"title": "Unauthorized", "detail": "no.", "code": "unknown_key"})
    with (
        ScriptedServer([refused]) as server,
        luthier.Client(server.url) as client,
        pytest.raises(luthier.AuthenticationFailed) as caught,
    ):
        client.jobs.get("job_1")

    assert caught.value.code == "unknown_key"


def test_proxy_of_the_environment_is_not_asked_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    with ScriptedServer([Answer(body=JOB)]) as server, luthier.Client(server.url) as client:
        assert client.jobs.get("job_1").id == "job_1"


@pytest.mark.parametrize(
    "url", ["localhost:8750", "ftp://host", "http://", "8750", "http://[::1", "http://h:abc"]
)
def test_url_without_scheme_or_host_is_an_invalid_setting(url: str) -> None:
    with pytest.raises(InvalidSetting, match="LUTHIER_URL"):
        luthier.Client(url)


@pytest.mark.parametrize("url", ["http://user:s3cret@127.0.0.1:1", "http://user:s3cret@h:abc"])
def test_password_in_the_url_is_not_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.client.calls.FIRST_DELAY_SECONDS", 0.01)

    with pytest.raises(LuthierError) as caught, luthier.Client(url) as client:
        client.jobs.get("job_1")

    assert "s3cret" not in str(caught.value)


def test_delete_whose_first_answer_was_lost_is_done() -> None:
    gone = Answer(404, {"title": "Not Found", "detail": "no.", "code": "dataset_not_found"})
    with ScriptedServer([Answer(503, PROBLEM), gone]) as server:
        with luthier.Client(server.url) as client:
            client.datasets.delete("ds_1")
            with pytest.raises(luthier.NotFound):
                client.datasets.delete("ds_1")

        assert len(server.requests) == 3


def test_key_that_no_header_can_hold_is_refused_without_being_shown() -> None:
    with pytest.raises(InvalidSetting) as caught:
        luthier.Client("http://127.0.0.1:1", api_key="schlüssel mit leer")

    assert "schl" not in str(caught.value)


def test_identifier_can_not_lead_to_another_route() -> None:
    with ScriptedServer([Answer(body=JOB)]) as server, luthier.Client(server.url) as client:
        client.jobs.get("../datasets?x=1")
        with pytest.raises(luthier.NotFound):
            client.jobs.get("..")
        with pytest.raises(luthier.NotFound):
            client.datasets.delete("")

        assert [path for _, path, _ in server.requests] == ["/jobs/..%2Fdatasets%3Fx%3D1"]
