"""Fetching a model from the Hub, in a process of its own: a download can be long, and be cancelled.

    python -m worker.hub REPOSITORY REVISION CACHE

prints one line of JSON: {"path": …}, or {"code": …, "message": …, "hint": …}. An empty REVISION is
the main branch.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from trainer_core.errors import LuthierError, ModelNotFound, ServiceUnavailable

_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""What is fetched of a repository: no pickle, no code."""
_ERRORS: dict[str, type[LuthierError]] = {
    error.code: error for error in (ModelNotFound, ServiceUnavailable)
}
_POLL_SECONDS = 0.2


def fetch(repository: str, *, revision: str | None, cache: Path, check: Callable[[], None]) -> Path:
    """Return the folder of a repository's snapshot, whose name is its commit.

    Args:
        repository: `owner/name`.
        revision: branch, tag or commit; None for the main branch.
        cache: folder of all snapshots.
        check: called again and again meanwhile; what it raises ends the download.

    Raises:
        ModelNotFound: no such repository or revision, or not for everybody.
        ServiceUnavailable: the Hub did not answer.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "worker.hub", repository, revision or "", str(cache)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    ) as child:
        try:
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


def _download(repository: str, revision: str | None, cache: str) -> str:
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
            token=False,  # the operator's own token must not open repositories to tenants
        )
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{name} is gated, and this service has no token that may read it.",
            hint="Download it by hand and register its folder with `luthier models add`.",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelNotFound(
            f"the Hub has no {name}, or does not show it to this service.",
            hint="Check the name and the revision.",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise ServiceUnavailable(
            f"{name} could not be fetched from the Hub: {first_line}",
            hint="Register a local folder with `luthier models add NAME --path DIR` instead.",
        ) from error


def main(repository: str, revision: str, cache: str) -> None:
    """Download and print the answer."""
    try:
        answer = {"path": _download(repository, revision or None, cache)}
    except LuthierError as error:
        answer = {"code": error.code, "message": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
