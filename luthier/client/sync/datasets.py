# Made of luthier/client/aio/datasets.py by `python -m tests.client.twins`: change that one.
"""`client.datasets`: upload, list, look into, delete."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from luthier.client.calls import SLOW_SECONDS, Call, path_of
from luthier.client.inputs import Dataset, Preview, Validation
from luthier.client.sync.downloading import Progress
from luthier.client.sync.paging import pages
from luthier.client.sync.parting import PART_BYTES, send_in_parts, size_of
from luthier.client.sync.sending import send
from luthier.client.sync.transport import Transport
from luthier.client.sync.waiting import off_loop
from luthier.client.values import from_json


class Datasets:
    """The uploads of a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self,
        path: str | Path,
        *,
        has_header: bool = True,
        progress: Progress | None = None,
        part_bytes: int = PART_BYTES,
    ) -> Dataset:
        """Send a file of rows, and return what the service found in it.

        A file that is larger than a part is sent in parts: what broke goes on at the part that
        broke, for five minutes of outage, and in a later run of the same call within a day. A
        smaller one is sent again, unless it turns out to have arrived.

        Args:
            path: JSONL, JSON, CSV, TSV, CoNLL, Parquet or text; .gz and .zst as well.
            has_header: whether the first line of a CSV or TSV file names its columns.
            progress: called with the bytes sent and the bytes in all.
            part_bytes: size of a part, at most 64 MiB.

        Raises:
            BadUpload: what arrived has another SHA-256 than what was sent.
        """
        file = Path(path)
        if off_loop(size_of, file) > part_bytes:
            return send_in_parts(
                self._transport,
                file,
                has_header=has_header,
                progress=progress,
                part_bytes=part_bytes,
            )
        return send(self._transport, file, has_header=has_header, progress=progress)

    def list(self, *, limit: int | None = None) -> Iterator[Dataset]:
        """Yield data sets, newest first; at most `limit`."""
        return pages(self._transport, "/datasets", Dataset, limit=limit)

    def get(self, dataset_id: str) -> Dataset:
        """Return a data set."""
        return from_json(Dataset, self._transport.get(path_of("datasets", dataset_id)))

    def preview(self, dataset_id: str) -> Preview:
        """Return the first rows of a data set."""
        path = path_of("datasets", dataset_id, "preview")
        return from_json(Preview, self._transport.get(path))

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
