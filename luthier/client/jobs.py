"""`client.jobs`: create, list, watch, wait for, cancel, pause, resume and download."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from luthier.client.downloading import Progress, download
from luthier.client.errors import Conflict, LuthierAPIError, WaitTimedOut
from luthier.client.following import follow, history
from luthier.client.paging import pages
from luthier.client.patience import OUTAGE_SECONDS, Patience
from luthier.client.transport import SLOW_SECONDS, Call, Transport, path_of
from luthier.client.values import Event, Job, Measurement, Validation, from_json

_FIRST_POLL_SECONDS = 0.2
_LONGEST_POLL_SECONDS = 3.0
_PAGE_MEASUREMENTS = 10_000


class Jobs:
    """The fine-tuning jobs of a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, spec: Mapping[str, Any]) -> Job:
        """Submit a job and return it, queued. Never repeated by itself: twice would be two jobs.

        Raises:
            InvalidRequest: the spec or its data breaks a rule; `errors` has every field, and
                `detail["rows"]` the first bad rows.
        """
        call = Call("POST", "/jobs", json=dict(spec), read_seconds=SLOW_SECONDS)
        return from_json(Job, self._transport.json(call))

    def validate(self, spec: Mapping[str, Any]) -> Validation:
        """Return everything that is wrong with a job, and what it would do; nothing is queued."""
        call = Call(
            "POST",
            "/jobs/validate",
            json=dict(spec),
            read_seconds=SLOW_SECONDS,
            is_repeatable=True,
        )
        return from_json(Validation, self._transport.json(call))

    def get(self, job_id: str) -> Job:
        """Return a job with its attempts and artifacts."""
        return from_json(Job, self._transport.get(path_of("jobs", job_id)))

    def list(
        self,
        *,
        state: str | None = None,
        task: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Yield jobs, newest first, fetching pages as they are needed.

        Args:
            state: only jobs in this state.
            task: only jobs of this task.
            labels: only jobs that have all of these labels.
            limit: at most so many; None for every one.
        """
        wanted = [f"{key}={value}" for key, value in (labels or {}).items()]
        return pages(
            self._transport,
            "/jobs",
            Job,
            cursor="id",
            limit=limit,
            state=state,
            task=task,
            label=wanted or None,
        )

    def cancel(self, job_id: str, *, keep: bool = False) -> Job:
        """Ask for a job's end and return it; cancelling one that is cancelled is no error.

        Args:
            job_id: the job.
            keep: let it measure and store what it has learnt first; `download` fetches that then.
                Cancelled again without, it ends at once.

        Raises:
            Conflict: it has ended another way, or waits with steps of which nobody makes a model.
        """
        body = {"keep": True} if keep else None
        call = Call("POST", path_of("jobs", job_id, "cancel"), json=body, is_repeatable=True)
        return from_json(Job, self._transport.json(call))

    def pause(self, job_id: str) -> Job:
        """Ask for a job to save and leave its device, and return it; again is no error.

        Raises:
            Conflict: it has ended or is about to.
        """
        call = Call("POST", path_of("jobs", job_id, "pause"), is_repeatable=True)
        return from_json(Job, self._transport.json(call))

    def resume(self, job_id: str) -> Job:
        """Queue a paused job again and return it; one that waits or runs is left as it is.

        Raises:
            Conflict: it has ended or is about to, or is still pausing.
        """
        call = Call("POST", path_of("jobs", job_id, "resume"), is_repeatable=True)
        return from_json(Job, self._transport.json(call))

    def events(
        self, job_id: str, *, after: int = 0, outage_seconds: float = OUTAGE_SECONDS
    ) -> Iterator[Event]:
        """Yield each event as it happens, once, and end after the job's final state.

        A connection that breaks is made anew and goes on where it broke.

        Args:
            job_id: the job.
            after: only events with a number above this.
            outage_seconds: how long the service may be out of reach, once it has answered.
        """
        return follow(self._transport, job_id, after=after, outage_seconds=outage_seconds)

    def history(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Yield the events with a number above `after` that there are by now, oldest first."""
        return history(self._transport, job_id, after=after)

    def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        outage_seconds: float = OUTAGE_SECONDS,
    ) -> Job:
        """Return the job once it has ended, however it ended; a paused one has not.

        Args:
            job_id: the job.
            timeout: seconds after which to raise; None for never.
            outage_seconds: how long the service may be out of reach, once it has answered.

        Raises:
            WaitTimedOut: the job has not ended within `timeout`; it goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        patience = Patience(outage_seconds)
        pause = _FIRST_POLL_SECONDS
        while True:
            try:
                job = self.get(job_id)
                patience.progressed()
                if job.is_final:
                    return job
            except LuthierAPIError as error:
                patience.failed(error)
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise WaitTimedOut(
                    f"job {job_id} has not ended within {timeout:g} s.",
                    code="wait_timed_out",
                    hint="It goes on; wait for it again, with a longer time-out.",
                )
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)

    def metrics(self, job_id: str) -> tuple[Measurement, ...]:
        """Return every measurement of a job, oldest first."""
        path = path_of("jobs", job_id, "metrics")
        found = pages(
            self._transport, path, Measurement, cursor="id", after=0, page_size=_PAGE_MEASUREMENTS
        )
        return tuple(found)

    def logs(self, job_id: str, *, tail: int | None = None) -> str:
        """Return a job's log, or its last `tail` lines."""
        params = {} if tail is None else {"tail": tail}
        call = Call("GET", path_of("jobs", job_id, "logs"), params=params)
        return self._transport.request(call).text

    def download(
        self, job_id: str, folder: str | Path, *, progress: Progress | None = None
    ) -> tuple[Path, ...]:
        """Fetch a job's model into a folder, verified, and return the paths of its files.

        What is there already and right is not fetched again; what is there by half goes on.

        Args:
            job_id: the job.
            folder: where to; made if it is not there.
            progress: called with the bytes done and the bytes in all.

        Raises:
            Conflict: the job has no model, or not yet.
            BadDownload: a file is not what the service says, or its path leaves the folder.
        """
        job = self.get(job_id)
        if not job.artifacts:
            raise Conflict(
                f"job {job_id} is {job.state} and has no model.",
                code="model_not_ready",
                hint="Choose a job that has succeeded." if job.is_final else "Wait for its end.",
                detail={"state": job.state},
            )
        return download(
            self._transport, job_id, job.artifacts, folder=Path(folder), progress=progress
        )
