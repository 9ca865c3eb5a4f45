# Made of luthier/client/aio/job.py by `python -m tests.client.twins`: change that one.
"""A job that can be waited for, followed and fetched."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.client.sync.downloading import Progress
from luthier.client.sync.patience import OUTAGE_SECONDS
from luthier.client.values import UNSET, Checkpoint, Event, JobFields, Measurements, Push, Unset

if TYPE_CHECKING:
    from luthier.client.sync.jobs import Jobs


@dataclass(frozen=True, slots=True)
class Job(JobFields):
    """A fine-tuning job as it was when it was asked for. Methods that change it return it anew."""

    owner: "Jobs | None" = field(default=None, repr=False, compare=False, kw_only=True)

    @property
    def _jobs(self) -> "Jobs":
        assert self.owner is not None, "a job that can do something comes from a client"
        return self.owner

    def refresh(self) -> "Job":
        """Return the job as it is now."""
        return self._jobs.get(self.id)

    def wait(
        self,
        *,
        timeout: float | None = None,
        outage_seconds: float = OUTAGE_SECONDS,
    ) -> "Job":
        """Return the job once it has ended, however it ended: see `jobs.wait`."""
        return self._jobs.wait(self.id, timeout=timeout, outage_seconds=outage_seconds)

    def events(self, *, after: int = 0, outage_seconds: float = OUTAGE_SECONDS) -> Iterator[Event]:
        """Yield each event as it happens, once, to the job's end: see `jobs.events`."""
        return self._jobs.events(self.id, after=after, outage_seconds=outage_seconds)

    def history(self, *, after: int = 0) -> Iterator[Event]:
        """Yield the events that there are by now, oldest first."""
        return self._jobs.history(self.id, after=after)

    def metrics(self, *, split: str | None = None, max_points: int | None = None) -> Measurements:
        """Return the measurements, oldest first, `.to_pandas()` as a table: see `jobs.metrics`."""
        return self._jobs.metrics(self.id, split=split, max_points=max_points)

    def logs(self, *, tail: int | None = None) -> str:
        """Return the log, or its last `tail` lines."""
        return self._jobs.logs(self.id, tail=tail)

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield the checkpoints in the storage, the latest step first."""
        return self._jobs.checkpoints(self.id)

    def download(
        self,
        folder: str | Path,
        *,
        checkpoint: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Path, ...]:
        """Fetch the model into a folder, verified: see `jobs.download`."""
        return self._jobs.download(self.id, folder, checkpoint=checkpoint, progress=progress)

    def cancel(self, *, keep: bool = False) -> "Job":
        """Ask for the job's end: see `jobs.cancel`."""
        return self._jobs.cancel(self.id, keep=keep)

    def pause(self) -> "Job":
        """Ask it to save and leave its device: see `jobs.pause`."""
        return self._jobs.pause(self.id)

    def resume(self) -> "Job":
        """Queue it again after a pause: see `jobs.resume`."""
        return self._jobs.resume(self.id)

    def clone(self, changes: Mapping[str, Any] | None = None) -> "Job":
        """Submit a job like this one, with changes, and return the new one: see `jobs.clone`."""
        return self._jobs.clone(self.id, changes)

    def retry(self) -> "Job":
        """Submit the job again after it has failed, and return the new one: see `jobs.retry`."""
        return self._jobs.retry(self.id)

    def push(
        self,
        *,
        checkpoint: int | None = None,
        repo: str | None = None,
        private: bool | None = None,
        branch: str | None = None,
        tag: str | None = None,
        secret: str | None = None,
    ) -> Push:
        """Have a model pushed to the Hub, and return the push: see `jobs.push`."""
        return self._jobs.push(
            self.id,
            checkpoint=checkpoint,
            repo=repo,
            private=private,
            branch=branch,
            tag=tag,
            secret=secret,
        )

    def edit(
        self,
        *,
        name: str | Unset | None = UNSET,
        notes: str | Unset | None = UNSET,
        labels: Mapping[str, str | None] | Unset | None = UNSET,
        priority: int | Unset = UNSET,
    ) -> "Job":
        """Change what is given, unless somebody has edited the job since: see `jobs.edit`."""
        return self._jobs.edit(
            self.id, name=name, notes=notes, labels=labels, priority=priority, etag=self.etag
        )

    def delete(self) -> None:
        """Delete the job, which has to have ended, with its files."""
        self._jobs.delete(self.id)
