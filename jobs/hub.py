"""Fetching from the Hub, in a process of its own: a download can be long, and be cancelled.

    python -m jobs.hub REPOSITORY REVISION CACHE

reads a token on standard input, or nothing, and prints one line of JSON: {"path": …}, or
{"code": …, "message": …, "hint": …}. An empty REVISION is the main branch.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer_core.errors import LuthierError, ModelNotFound, ServiceUnavailable
from trainer_core.redaction import REDACTOR, is_secret

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""What is fetched of a repository beside its safetensors: no pickle, no code."""
_ERRORS: dict[str, type[LuthierError]] = {
    error.code: error for error in (ModelNotFound, ServiceUnavailable)
}
_POLL_SECONDS = 0.2


def fetch(
    repository: str,
    *,
    revision: str | None,
    cache: Path,
    check: Callable[[], None],
    token: str | None = None,
) -> Path:
    """Return the folder of a repository's snapshot, whose name is its commit.

    Args:
        repository: `owner/name`.
        revision: branch, tag or commit; None for the main branch.
        cache: folder of all snapshots. What was fetched with a token must not be found there by
            those who have none: the library hands out what is in it without asking the Hub.
        check: called again and again meanwhile; what it raises ends the download.
        token: who asks; None for everybody.

    Raises:
        ModelNotFound: no such repository or revision, or not for everybody.
        ServiceUnavailable: the Hub did not answer.
    """
    arguments = [repository, revision or "", str(cache)]
    found = ask("jobs.hub", arguments, repository=repository, check=check, token=token)
    return Path(found["path"])


def ask(
    module: str,
    arguments: list[str],
    *,
    repository: str,
    check: Callable[[], None],
    token: str | None,
) -> dict[str, Any]:
    """Return what a process finds that talks to the Hub, or raise what it says.

    Args:
        module: what it runs; it answers as `answer` does.
        arguments: of its command line.
        repository: `owner/name`, for messages.
        check: called again and again meanwhile; what it raises ends the process.
        token: what it reads on its standard input; None for nothing.
    """
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=hub_environment(),
    ) as child:
        assert child.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write((token or "").encode())
            while child.poll() is None:
                check()
                time.sleep(_POLL_SECONDS)
        finally:
            child.kill()
        assert child.stdout is not None
        told = child.stdout.read()
    try:
        values: dict[str, Any] = json.loads(told)
    except ValueError as error:
        raise ServiceUnavailable(
            f"fetching hub:{repository} broke off with exit code {child.returncode}.",
            hint="Try again.",
            param="model",
        ) from error
    if "code" in values:
        raise _ERRORS[values["code"]](values["message"], hint=values["hint"], param="model")
    return values


def answer(find: Callable[[str], Mapping[str, Any]]) -> None:
    """Print what is found with the token on standard input, for who called `ask`."""
    token = sys.stdin.read().strip()
    try:
        told = find(token)
    except LuthierError as error:
        told = {"code": error.code, "message": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(told) + "\n")


def hub_environment() -> dict[str, str]:
    """Return this process's environment without its secrets, for one that talks to the Hub."""
    from jobs.settings import PREFIX  # which takes longer than a small download

    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) and not is_secret(name)
    }
    return kept | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def understanding(repository: str, revision: str, *, token: str) -> Iterator[None]:
    """Raise ModelNotFound or ServiceUnavailable for what the Hub's library raises in a block."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # its HTTP client's error
        GatedRepoError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"hub:{repository}" + (f"@{revision}" if revision else "")
    try:
        yield
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{name} is gated, and {_whose(token)} may not read it.",
            hint="Ask for access on its page, and name your token in secrets.hf.",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelNotFound(
            f"the Hub has no {name}, or does not show it to {_whose(token)}.",
            hint="Check the name and the revision; for a private one, the token in secrets.hf.",
        ) from error
    except (HTTPError, OSError) as error:
        REDACTOR.learn([token])
        first_line = REDACTOR.text(str(error).partition("\n")[0])
        raise ServiceUnavailable(
            f"{name} could not be fetched from the Hub: {first_line}",
            hint="Register a local folder with `luthier models add NAME --path DIR` instead.",
        ) from error


def _whose(token: str) -> str:
    return "the owner of the token" if token else "somebody without a token"


def _download(repository: str, revision: str, cache: str, *, token: str) -> dict[str, str]:
    from huggingface_hub import snapshot_download

    with understanding(repository, revision, token=token):
        path = snapshot_download(
            repository,
            revision=revision or None,
            cache_dir=cache,
            allow_patterns=["*.safetensors", *SMALL_FILES],
            token=token or False,  # never the operator's own, which would open it to tenants
        )
    return {"path": path}


def main(repository: str, revision: str, cache: str) -> None:
    """Download and print the answer."""
    answer(lambda token: _download(repository, revision, cache, token=token))


if __name__ == "__main__":
    main(*sys.argv[1:])
