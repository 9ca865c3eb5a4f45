"""Exit codes, and how errors read."""

import pytest

from luthier.cli.outcomes import ExitCode, code_of_error, code_of_jobs, described
from luthier.client.errors import (
    AuthenticationFailed,
    Conflict,
    LuthierAPIError,
    ServiceFailed,
    ServiceUnreachable,
    UnexpectedReply,
    WaitTimedOut,
    error_of,
)
from luthier.client.values import JobFields, from_json
from tests.cli.conftest import command
from tests.client.conftest import JOB
from tests.scripted_server import Answer, ScriptedServer
from trainer_core.errors import FieldProblem


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["succeeded"], ExitCode.OK),
        (["succeeded", "cancelled"], ExitCode.CANCELLED),
        (["cancelled", "failed", "succeeded"], ExitCode.FAILED),
        (["vanished"], ExitCode.FAILED),
    ],
)
def test_code_of_several_jobs_is_that_of_the_worst(states: list[str], code: ExitCode) -> None:
    jobs = [from_json(JobFields, {**JOB, "state": state}) for state in states]

    assert code_of_jobs(jobs) is code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Conflict("x", status=409), ExitCode.FAILED),
        (ServiceFailed("x", status=500), ExitCode.FAILED),
        (ServiceFailed("x", status=503), ExitCode.UNREACHABLE),
        (ServiceUnreachable("x"), ExitCode.UNREACHABLE),
        (UnexpectedReply("x", status=200), ExitCode.UNREACHABLE),
        (AuthenticationFailed("x", status=401), ExitCode.UNREACHABLE),
        (WaitTimedOut("x"), ExitCode.TIMED_OUT),
    ],
)
def test_code_of_an_error(error: LuthierAPIError, code: ExitCode) -> None:
    assert code_of_error(error) is code


def test_several_wrong_fields_are_told_each_with_its_pointer() -> None:
    problems = (
        FieldProblem("/training/epochs", "should be greater than 0; got -1"),
        FieldProblem("", "is odd", "Mend it."),
    )

    lines = list(described("first (and 1 more)", hint="h", detail={}, errors=problems))

    assert lines[1:] == [
        "  /training/epochs: should be greater than 0; got -1",
        "  /: is odd (Mend it.)",
    ]
    assert "2 fields are wrong" in lines[0]


def test_one_wrong_field_is_told_once() -> None:
    problem = FieldProblem("/task", "is required", "Set it.")

    lines = list(described("/task: is required", hint="Set it.", detail={}, errors=(problem,)))

    assert [line.partition("error: ")[2] or line for line in lines] == [
        "\x1b[0m/task: is required",
        "hint: Set it.",
    ]


def test_bad_rows_are_told_as_compilers_name_places() -> None:
    rows = [
        {"file": "a.csv", "line": n, "column": "label" if n % 2 else None, "reason": "is empty"}
        for n in range(1, 31)
    ]

    lines = list(described("m", hint="Mend them.", detail={"rows": rows, "total": 50}))

    assert "50 bad rows" in lines[0]
    assert lines[1:3] == ["  a.csv:1: label: is empty", "  a.csv:2: is empty"]
    assert lines[-2:] == ["  … and 30 more", "hint: Mend them."]


def test_text_of_elsewhere_can_not_steer_the_terminal() -> None:
    (line, *_) = described("bad \x1b]0;title\x07 \x1b[2J name", hint="", detail={})

    assert line.endswith("bad \\x1b]0;title\\x07 \\x1b[2J name")


def test_problem_members_become_the_detail() -> None:
    problem: dict[str, object] = {"title": "t", "detail": "d", "code": "c", "rows": [], "total": 3}

    error = error_of(422, problem, request_id="req_1")

    assert error.detail == {"rows": [], "total": 3}
    assert (error.message, error.hint, error.request_id) == ("d", "", "req_1")


def test_unforeseen_status_shows_the_request_id_and_no_traceback() -> None:
    problem = {"title": "Internal Server Error", "detail": "it failed.", "code": "internal_error"}
    with ScriptedServer([Answer(500, problem, {"X-Request-ID": "req_7"})]) as server:
        result = command(server.url)("ps")

    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["error: it failed.", "request: req_7"]


def test_refused_key_ends_with_4() -> None:
    problem = {"title": "Unauthorized", "detail": "unknown key.", "code": "unknown_key"}
    with ScriptedServer([Answer(401, problem)]) as server:
        result = command(server.url)("show", "job_1")

    assert (result.exit_code, result.stdout) == (4, "")


def test_no_service_ends_with_4_and_says_how_to_start_one() -> None:
    with ScriptedServer([Answer()]) as server:
        url = server.url

    result = command(url)("ps", "--json")

    assert (result.exit_code, result.stdout) == (4, "")
    assert "connection refused" in result.stderr
    assert "luthier up" in result.stderr


def test_url_that_is_none_is_one_clear_line() -> None:
    result = command("localhost:8750")("ps")

    assert result.exit_code == 1
    assert "'localhost:8750' is not the URL of a service" in result.stderr
    assert "Traceback" not in result.stderr
