"""A job that can be waited for, followed and fetched."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.client.aio.downloading import Progress
from luthier.client.aio.patience import OUTAGE_SECONDS
from luthier.client.values import UNSET, Checkpoint, Event, JobFields, Measurements, Push, Unset

if TYPE_CHECKING:
    from luthier.client.aio.jobs import AsyncJobs


@dataclass(frozen=True, slots=True)
class AsyncJob(JobFields):
    """A fine-tuning job as it was when it was asked for. Methods that change it return it anew."""

    owner: "AsyncJobs | None" = field(default=None, repr=False, compare=False, kw_only=True)

    @property
    def _jobs(self) -> "AsyncJobs":
        assert self.owner is not None, "a job that can do something comes from a client"
        return self.owner

    async def refresh(self) -> "AsyncJob":
        """Return the job as it is now."""
        return await self._jobs.get(self.id)

    async def wait(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it raises an error of ours
        outage_seconds: float = OUTAGE_SECONDS,
    ) -> "AsyncJob":
        """Return the job once it has ended, however it ended: see `jobs.wait`."""
        return await self._jobs.wait(self.id, timeout=timeout, outage_seconds=outage_seconds)

    def events(
        self, *, after: int = 0, outage_seconds: float = OUTAGE_SECONDS
    ) -> AsyncIterator[Event]:
        """Yield each event as it happens, once, to the job's end: see `jobs.events`."""
        return self._jobs.events(self.id, after=after, outage_seconds=outage_seconds)

    def history(self, *, after: int = 0) -> AsyncIterator[Event]:
        """Yield the events that there are by now, oldest first."""
        return self._jobs.history(self.id, after=after)

    async def metrics(
        self, *, split: str | None = None, max_points: int | None = None
    ) -> Measurements:
        """Return the measurements, oldest first, `.to_pandas()` as a table: see `jobs.metrics`."""
        return await self._jobs.metrics(self.id, split=split, max_points=max_points)

    async def logs(self, *, tail: int | None = None) -> str:
        """Return the log, or its last `tail` lines."""
        return await self._jobs.logs(self.id, tail=tail)

    def checkpoints(self) -> AsyncIterator[Checkpoint]:
        """Yield the checkpoints in the storage, the latest step first."""
        return self._jobs.checkpoints(self.id)

    async def download(
        self,
        folder: str | Path,
        *,
        checkpoint: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Path, ...]:
        """Fetch the model into a folder, verified: see `jobs.download`."""
        return await self._jobs.download(self.id, folder, checkpoint=checkpoint, progress=progress)

    async def cancel(self, *, keep: bool = False) -> "AsyncJob":
        """Ask for the job's end: see `jobs.cancel`."""
        return await self._jobs.cancel(self.id, keep=keep)

    async def pause(self) -> "AsyncJob":
        """Ask it to save and leave its device: see `jobs.pause`."""
        return await self._jobs.pause(self.id)

    async def resume(self) -> "AsyncJob":
        """Queue it again after a pause: see `jobs.resume`."""
        return await self._jobs.resume(self.id)

    async def clone(self, changes: Mapping[str, Any] | None = None) -> "AsyncJob":
        """Submit a job like this one, with changes, and return the new one: see `jobs.clone`."""
        return await self._jobs.clone(self.id, changes)

    async def retry(self) -> "AsyncJob":
        """Submit the job again after it has failed, and return the new one: see `jobs.retry`."""
        return await self._jobs.retry(self.id)

    async def push(
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
        return await self._jobs.push(
            self.id,
            checkpoint=checkpoint,
            repo=repo,
            private=private,
            branch=branch,
            tag=tag,
            secret=secret,
        )

    async def edit(
        self,
        *,
        name: str | Unset | None = UNSET,
        notes: str | Unset | None = UNSET,
        labels: Mapping[str, str | None] | Unset | None = UNSET,
        priority: int | Unset = UNSET,
    ) -> "AsyncJob":
        """Change what is given, unless somebody has edited the job since: see `jobs.edit`."""
        return await self._jobs.edit(
            self.id, name=name, notes=notes, labels=labels, priority=priority, etag=self.etag
        )

    async def delete(self) -> None:
        """Delete the job, which has to have ended, with its files."""
        await self._jobs.delete(self.id)
