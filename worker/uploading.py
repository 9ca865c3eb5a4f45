"""Pushing a model to the Hub, in a process of its own: an upload can be long, hang, and be ended.

    python -m worker.uploading

reads one line of JSON on standard input, an `Upload` with its token, and prints one line, an
`Answer`. The input is its leash: it ends with whoever started it. Done twice, a push makes one
commit, since the library leaves out what the repository has.
"""

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TextIO

from jobs.hub import hub_environment
from trainer_core.redaction import REDACTOR

if TYPE_CHECKING:
    from httpx2 import Client
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

_POLL_SECONDS = 0.1
_MARGIN_SECONDS = 10.0  # for the process to say by itself that its time is over
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 120.0  # a commit of many files takes the Hub a while
_MAX_CHARACTERS = 500
_PASSING = frozenset({408, 409, 412, 425, 429})  # and 5xx
_MAYBE_THERE = frozenset({401, 402, 403, 409})  # what the Hub says to making a repository again
_REFUSALS = {
    401: ("the Hub does not know the token", "Store a valid one: luthier secrets set NAME."),
    402: ("the Hub asks for payment", "See the billing page of the repository's owner."),
    403: ("the token may not write there", "Store one that may: luthier secrets set NAME."),
    404: ("the Hub shows no such place to the owner of the token", "Check the name and the token."),
}
_PAUSES = ("Retrying", "Rate limited")  # how the library tells that it waits
_QUERY = re.compile(r"\?[^\s'\"]*")  # of a URL: it may hold a signature


@dataclass(frozen=True, slots=True)
class Upload:
    """What to push, and where to."""

    repo: str
    private: bool
    branch: str | None
    tag: str | None
    message: str  # of the commit
    files: Mapping[str, str]  # path in the repository to path here
    seconds: float  # how long it may take


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it: a commit, or why there is none."""

    commit: str | None = None
    url: str | None = None
    message: str = ""
    hint: str = ""
    status: int | None = None  # of the Hub's answer
    is_passing: bool = False  # it may go well another time
    retry_after_seconds: float | None = None


class _Refused(Exception):
    """What was asked for would do what must not be done."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def upload(asked: Upload, *, token: str, check: Callable[[], None]) -> Answer:
    """Push to the Hub and return what came of it.

    Args:
        asked: what.
        token: whose.
        check: called again and again meanwhile; what it raises ends the pushing.
    """
    deadline = time.monotonic() + asked.seconds + _MARGIN_SECONDS
    with subprocess.Popen(
        [sys.executable, "-m", "worker.uploading"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it says why, or nothing
                child.stdin.write(json.dumps({**asdict(asked), "token": token}) + "\n")
                child.stdin.flush()
            while child.poll() is None and time.monotonic() < deadline:
                check()
                time.sleep(_POLL_SECONDS)
        finally:
            child.kill()
        told = child.stdout.read()
    try:
        return Answer(**json.loads(told))
    except ValueError:
        return Answer(
            message=f"the pushing process broke off with exit code {child.returncode}.",
            hint="See the worker's log.",
            is_passing=True,
        )


def _environment() -> dict[str, str]:
    """Return the environment of the pushing process.

    Where the library has `hf_xet`, it takes any endpoint for one with Xet storage, and fails if it
    is none. Mirrors of the Hub seldom are; whoever has one that is says HF_HUB_DISABLE_XET=0.
    """
    given = hub_environment()
    if "HF_ENDPOINT" in given:
        given.setdefault("HF_HUB_DISABLE_XET", "1")
    return given


class _LastWords(logging.Handler):
    """Remembers what the library complained of last: it tries again in silence."""

    words = "nothing"

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if record.levelno >= logging.WARNING and not said.startswith(_PAUSES):
            self.words = _shown(said)


class _Voice:
    """Says one answer, the first."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def say(self, answer: Answer) -> None:
        """Say it and end the process, whatever its threads are busy with."""
        with self._lock:
            self._out.write(json.dumps(asdict(answer)) + "\n")
            self._out.flush()
            os._exit(0)


def _push(asked: Upload, *, token: str) -> Answer:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    _make_repository(api, asked)
    if asked.private and api.model_info(asked.repo).private is False:
        raise _Refused(
            "the repository is there and is public, and a private one was asked for",
            hint='Push to another one, or say "private": false.',
        )
    if asked.branch is not None and asked.branch != "main":
        api.create_branch(asked.repo, branch=asked.branch, exist_ok=True)
    made = api.create_commit(
        asked.repo,
        [CommitOperationAdd(path, here) for path, here in asked.files.items()],
        commit_message=asked.message,
        revision=asked.branch,
    )
    if asked.tag is not None:
        _tag(api, asked, commit=made.oid)
    place = f"/tree/{asked.branch}" if asked.branch else ""
    return Answer(commit=made.oid, url=f"{api.endpoint}/{asked.repo}{place}")


def _make_repository(api: "HfApi", asked: Upload) -> None:
    """Make the repository where it is not there, by a token that may just write to it, too."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_repo(asked.repo, private=asked.private)
    except HfHubHTTPError as error:
        if error.response.status_code not in _MAYBE_THERE:
            raise
        try:
            api.model_info(asked.repo)
        except HfHubHTTPError:
            raise error from None


def _tag(api: "HfApi", asked: Upload, *, commit: str) -> None:
    """Tag a commit; a tag that is there stays where it is, and may only be there already."""
    assert asked.tag is not None
    api.create_tag(asked.repo, tag=asked.tag, revision=commit, exist_ok=True)
    there = [
        tag.target_commit for tag in api.list_repo_refs(asked.repo).tags if tag.name == asked.tag
    ]
    if there and there != [commit]:
        raise _Refused(
            f"the model is pushed, and the tag '{asked.tag}' is at another commit, {there[0]}",
            hint="Push with another tag, or delete that one on the Hub.",
        )


def _bound_requests() -> None:
    """Give each request of the library a time-out: it has none of its own."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def bounded() -> "Client":
        client = default_client_factory()
        client.timeout = (_CONNECT_SECONDS, _SILENCE_SECONDS, _SILENCE_SECONDS, _CONNECT_SECONDS)
        return client

    set_client_factory(bounded)


def _explained(error: Exception) -> Answer:
    """Return what an error of the library says."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError

    for one in _causes(error):
        match one:
            case _Refused():
                return Answer(message=f"{one}.", hint=one.hint)
            case HfHubHTTPError():
                return _of_status(one)
            case HTTPError():
                why = _shown(f"{type(one).__name__}: {one}")
                return Answer(message=f"the Hub does not answer: {why}.", is_passing=True)
            case json.JSONDecodeError():
                return Answer(message="the Hub's answer is no JSON.", is_passing=True)
            case OSError():
                why = one.strerror or str(one)  # without the path
                return Answer(message=_shown(f"{type(one).__name__}: {why}."), is_passing=True)
    return Answer(message=_shown(f"{type(error).__name__}: {error}"))


def _of_status(error: "HfHubHTTPError") -> Answer:
    status = error.response.status_code
    is_passing = status in _PASSING or status >= 500
    what, hint = _REFUSALS.get(status, ("the Hub refuses it", ""))
    if is_passing:
        what, hint = "the Hub fails", ""
    told = _shown(error.server_message or "no more is said")
    after = error.response.headers.get("Retry-After", "")
    return Answer(
        message=f"{what} ({status}: {told}).",
        hint=hint,
        status=status,
        is_passing=is_passing,
        retry_after_seconds=float(after) if after.isdecimal() else None,
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _shown(text: str) -> str:
    """Return a text as others may see it: short, no secret, no signature of a URL."""
    return REDACTOR.text(_QUERY.sub("", " ".join(text.split())))[:_MAX_CHARACTERS]


def main(given: TextIO, out: TextIO) -> None:
    """Push what the first line of an input says, and print the answer; end with the input."""
    values = json.loads(given.readline())
    token = values.pop("token")
    asked = Upload(**values)
    REDACTOR.learn([token])
    last_words = _LastWords()
    logging.getLogger("huggingface_hub").addHandler(last_words)
    voice = _Voice(out)

    def give_up() -> None:
        why = f"it was not over within {asked.seconds:g} s; last heard: {last_words.words}"
        voice.say(Answer(message=f"{why}.", is_passing=True))

    def end_with_input() -> None:
        given.read()
        os._exit(1)

    threading.Thread(target=end_with_input, daemon=True).start()
    timer = threading.Timer(asked.seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        _bound_requests()
        answer = _push(asked, token=token)
    except Exception as error:  # noqa: BLE001 - whatever the library raises is told
        answer = _explained(error)
    voice.say(answer)


if __name__ == "__main__":
    told, sys.stdout = sys.stdout, sys.stderr  # nothing but the answer goes out
    main(sys.stdin, told)
