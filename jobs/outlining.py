"""Fetching the outline of a model of the Hub, in a process of its own.

    python -m jobs.outlining REPOSITORY REVISION CACHE DRAFT

answers {"commit": …, "num_weights": …}, as `jobs.hub` does with a path. Unless the cache holds a
folder named for the commit, the draft is made: the files that a worker would fetch, but of weights
only the headers, in files with holes of their size. A few megabytes outline a model of hundreds of
gigabytes.
"""

import re
import resource
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jobs.hub import SMALL_FILES, answer, understanding
from jobs.weights import WEIGHTS, WEIGHTS_INDEX, header_bytes, num_weights_in, shards_of
from trainer_core.errors import ServiceUnavailable

FETCH_SECONDS = 20  # for all of it
_MAX_BYTES = 64 << 20  # of all that is read; the largest tokenizers have some 35 MB
_MEMORY_BYTES = 1 << 30
_ANSWER_SECONDS = 5  # for a sign of life of the Hub
_USUAL_HEADER_BYTES = 100_000  # 97 % are shorter, as the Hub's library found
_CHUNK_BYTES = 1 << 16
_NUM_CONNECTIONS = 8
_COMMIT = re.compile(r"[0-9a-f]{40}")  # it becomes the name of a folder
_NAME = re.compile(r"(?:(?:\d+_Pooling|additional_chat_templates)/)?\w[\w.-]*")
"""Of a file that transformers or sentence-transformers looks for."""


class _Source:
    """The files of one commit, of which no more is read than is allowed in all."""

    def __init__(self, repository: str, commit: str, *, headers: dict[str, str]) -> None:
        self._repository = repository
        self._commit = commit
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._num_left = _MAX_BYTES
        self._lock = threading.Lock()

    def expect(self, num_bytes: int) -> None:
        """Raise ServiceUnavailable if so many bytes are more than may be read."""
        if num_bytes > self._num_left:
            raise ServiceUnavailable(
                f"hub:{self._repository} has more than {_MAX_BYTES >> 20} MiB beside its weights, "
                "which only workers fetch."
            )

    def read(self, name: str, *, start: int = 0, end: int | None = None) -> tuple[bytes, int]:
        """Return the bytes of a file, or a part of them, and how many it has in all."""
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status

        url = hf_hub_url(self._repository, name, revision=self._commit)
        ranged = {} if end is None else {"Range": f"bytes={start}-{end - 1}"}
        found = bytearray()
        with get_session().stream(
            "GET", url, headers=self._headers | ranged, timeout=_ANSWER_SECONDS
        ) as response:
            hf_raise_for_status(response)
            first = start if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
            last = None if end is None else end - first
            for chunk in response.iter_raw(_CHUNK_BYTES):
                self._count(len(chunk))
                found += chunk
                if last is not None and len(found) >= last:
                    break  # a server that knows no ranges would go on
        return bytes(found[start - first : last]), _size_told(response.headers)

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self.expect(num_bytes)
            self._num_left -= num_bytes


def _size_told(headers: Mapping[str, str]) -> int:
    """Return how large a file is by the headers of an answer with all or a part of it."""
    if "Content-Range" in headers:
        return int(headers["Content-Range"].rpartition("/")[2])
    return int(headers["Content-Length"])


def _outline(
    repository: str, revision: str, *, cache: Path, draft: Path, token: str
) -> dict[str, Any]:
    from huggingface_hub import HfApi
    from huggingface_hub.utils._headers import build_hf_headers

    with understanding(repository, revision, token=token):
        asking = token or False  # never the operator's own, which would open it to tenants
        described = HfApi(token=asking).model_info(
            repository, revision=revision or None, files_metadata=True, timeout=_ANSWER_SECONDS
        )
        commit = described.sha or ""
        if not _COMMIT.fullmatch(commit):
            raise ServiceUnavailable(f"the Hub names no commit of hub:{repository}.")
        folder = cache / commit
        if not folder.is_dir():
            folder = draft
            sizes = {file.rfilename: file.size or 0 for file in described.siblings or ()}
            headers = build_hf_headers(token=asking)
            _fill(draft, sizes, _Source(repository, commit, headers=headers))
    return {"commit": commit, "num_weights": num_weights_in(folder)}


def _fill(draft: Path, sizes: Mapping[str, int], source: _Source) -> None:
    draft.mkdir(mode=0o700)
    small = [name for name in sizes if _NAME.fullmatch(name) and _is_small(name)]
    source.expect(sum(sizes[name] for name in small))
    for name in small:
        (draft / name).parent.mkdir(exist_ok=True)
        (draft / name).write_bytes(source.read(name)[0])
    index = draft / WEIGHTS_INDEX
    shards = shards_of(index) if WEIGHTS not in sizes and index.exists() else {WEIGHTS}
    with ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
        list(pool.map(lambda name: _keep_header(source, draft / name), shards & sizes.keys()))


def _is_small(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in SMALL_FILES)


def _keep_header(source: _Source, target: Path) -> None:
    start, num_bytes = source.read(target.name, end=_USUAL_HEADER_BYTES)
    end = min(header_bytes(start), num_bytes)
    if end > len(start):
        start += source.read(target.name, start=len(start), end=end)[0]
    with target.open("wb") as file:
        file.write(start[:end])
        file.truncate(num_bytes)


def main(repository: str, revision: str, cache: str, draft: str) -> None:
    """Fetch an outline and print the answer."""
    signal.alarm(FETCH_SECONDS)  # should whoever asked have died
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))  # JSON is inflated
    answer(
        lambda token: _outline(
            repository, revision, cache=Path(cache), draft=Path(draft), token=token
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
