"""`client.datasets`: upload, list, look into, delete."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from luthier.client.downloading import Progress
from luthier.client.paging import pages
from luthier.client.transport import SLOW_SECONDS, Call, Transport, path_of
from luthier.client.values import Dataset, Preview, Validation, from_json


class Datasets:
    """The uploads of a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self, path: str | Path, *, has_header: bool = True, progress: Progress | None = None
    ) -> Dataset:
        """Send a file of rows, streamed, and return what the service found in it.

        Args:
            path: JSONL, JSON, CSV, TSV, CoNLL, Parquet or text; .gz and .zst as well.
            has_header: whether the first line of a CSV or TSV file names its columns.
            progress: called with the bytes sent and the bytes in all.
        """
        path = Path(path)
        with _Counted(path, progress) as file:
            call = Call(
                "POST",
                "/datasets",
                params={"has_header": "true" if has_header else "false"},
                files={"file": (path.name, file)},
                read_seconds=SLOW_SECONDS,
            )
            return from_json(Dataset, self._transport.json(call))

    def list(self, *, limit: int | None = None) -> Iterator[Dataset]:
        """Yield data sets, newest first; at most `limit`."""
        return pages(self._transport, "/datasets", Dataset, cursor="id", limit=limit)

    def get(self, dataset_id: str) -> Dataset:
        """Return a data set."""
        return from_json(Dataset, self._transport.get(path_of("datasets", dataset_id)))

    def preview(self, dataset_id: str) -> Preview:
        """Return the first rows of a data set."""
        return from_json(Preview, self._transport.get(path_of("datasets", dataset_id, "preview")))

    def validate(
        self,
        dataset_id: str,
        *,
        task: str,
        columns: Mapping[str, str] | None = None,
        model: str | None = None,
    ) -> Validation:
        """Return whether a data set suits a task.

        Args:
            dataset_id: the data set.
            task: for which.
            columns: role -> column, where they are not called as the roles are.
            model: reference of one with whose tokenizer to count; None for the rows alone.
        """
        body: dict[str, object] = {"task": task, "columns": dict(columns or {})}
        if model is not None:
            body["model"] = model
        call = Call(
            "POST",
            path_of("datasets", dataset_id, "validate"),
            json=body,
            read_seconds=SLOW_SECONDS,
            is_repeatable=True,
        )
        return from_json(Validation, self._transport.json(call))

    def delete(self, dataset_id: str) -> None:
        """Delete a data set.

        Raises:
            Conflict: a job that has not ended needs it.
        """
        self._transport.request(Call("DELETE", path_of("datasets", dataset_id)))


class _Counted(io.FileIO):
    """A file that tells how much of it has been read."""

    def __init__(self, path: Path, tell: Progress | None) -> None:
        super().__init__(path, "rb")
        self._tell = tell
        self._total = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(-1 if size is None else size)
        if self._tell is not None and chunk:
            self._tell(self.tell(), self._total)
        return chunk
