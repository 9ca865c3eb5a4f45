"""Fetching a model from the Hub, in a process of its own: a download can be long, and be cancelled.

    python -m worker.hub REPOSITORY REVISION CACHE

reads a token on standard input, or nothing, and prints one line of JSON: {"path": …}, or
{"code": …, "message": …, "hint": …}. An empty REVISION is the main branch.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jobs.settings import PREFIX
from trainer_core.errors import LuthierError, ModelNotFound, ServiceUnavailable
from trainer_core.redaction import REDACTOR, is_secret

_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""What is fetched of a repository: no pickle, no code."""
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
    with subprocess.Popen(
        [sys.executable, "-m", "worker.hub", repository, revision or "", str(cache)],
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
        answer = child.stdout.read()
    try:
        values = json.loads(answer)
    except ValueError as error:
        raise ServiceUnavailable(
            f"fetching hub:{repository} broke off with exit code {child.returncode}.",
            hint="Try again.",
            param="model",
        ) from error
    if "path" in values:
        return Path(values["path"])
    raise _ERRORS[values["code"]](values["message"], hint=values["hint"], param="model")


def hub_environment() -> dict[str, str]:
    """Return this process's environment without its secrets, for one that talks to the Hub."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) and not is_secret(name)
    }
    return kept | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def _download(repository: str, revision: str | None, cache: str, *, token: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"hub:{repository}" + (f"@{revision}" if revision else "")
    try:
        return snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache,
            allow_patterns=list(_FILES),
            token=token or False,  # never the operator's own, which would open it to tenants
        )
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
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        REDACTOR.learn([token])
        first_line = REDACTOR.text(str(error).partition("\n")[0])
        raise ServiceUnavailable(
            f"{name} could not be fetched from the Hub: {first_line}",
            hint="Register a local folder with `luthier models add NAME --path DIR` instead.",
        ) from error


def _whose(token: str) -> str:
    return "the owner of the token" if token else "somebody without a token"


def main(repository: str, revision: str, cache: str) -> None:
    """Download and print the answer."""
    token = sys.stdin.read().strip()
    try:
        answer = {"path": _download(repository, revision or None, cache, token=token)}
    except LuthierError as error:
        answer = {"code": error.code, "message": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
