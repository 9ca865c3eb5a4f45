# Made of luthier/client/aio/jobs.py by `python -m tests.client.twins`: change that one.
"""`client.jobs`: create, list, watch, wait for, stop, change and download."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from luthier.client.calls import SLOW_SECONDS, Call, decoded, given, once, path_of, path_of_model
from luthier.client.errors import Conflict
from luthier.client.inputs import Validation
from luthier.client.sync.downloading import Progress, download, find_model, get_checkpoint
from luthier.client.sync.ending import ended
from luthier.client.sync.following import follow, history
from luthier.client.sync.job import Job
from luthier.client.sync.paging import pages
from luthier.client.sync.patience import OUTAGE_SECONDS
from luthier.client.sync.transport import Transport
from luthier.client.values import (
    UNSET,
    Checkpoint,
    Event,
    Measurement,
    Measurements,
    Push,
    Unset,
    from_json,
)

_PAGE_MEASUREMENTS = 10_000


class Jobs:
    """The fine-tuning jobs of a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Submit a job and return it, queued. It is made once, however often it has to be sent.

        Args:
            spec: as `POST /jobs` takes it.
            idempotency_key: the same for the same job, where your program may call this twice for
                it; by default a new one a call.

        Raises:
            InvalidRequest: the spec or its data breaks a rule; `errors` has every field, and
                `detail["rows"]` the first bad rows.
        """
        return self._made("/jobs", json=dict(spec), key=idempotency_key)

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
        return self._whole(Call("GET", path_of("jobs", job_id)))

    def list(
        self,
        *,
        state: str | Sequence[str] | None = None,
        task: str | None = None,
        model: str | None = None,
        name: str | None = None,
        parent: str | None = None,
        labels: Mapping[str, str] | None = None,
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        oldest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Yield jobs, newest first, fetching pages as they are needed.

        Args:
            state: only jobs in this state, or in one of these.
            task: only jobs of this task.
            model: only jobs of this base model, as their spec writes it.
            name: only jobs of exactly this name.
            parent: only jobs cloned from this one, or trying it again.
            labels: only jobs that have all of these labels.
            created_from: only jobs made at this time or later; it needs a time zone.
            created_before: only jobs made before this time.
            oldest_first: in the order in which they were made.
            limit: at most so many; None for every one.
        """
        wanted = [f"{key}={value}" for key, value in (labels or {}).items()]
        return pages(
            self._transport,
            "/jobs",
            Job,
            limit=limit,
            owner=self,
            state=state,
            task=task,
            model=model,
            name=name,
            parent=parent,
            label=wanted or None,
            created_from=created_from,
            created_before=created_before,
            oldest_first="true" if oldest_first else None,
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
        return self._told(job_id, "cancel", json={"keep": True} if keep else None)

    def pause(self, job_id: str) -> Job:
        """Ask for a job to save and leave its device, and return it; again is no error.

        Raises:
            Conflict: it has ended or is about to.
        """
        return self._told(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Queue a paused job again and return it; one that waits or runs is left as it is.

        Raises:
            Conflict: it has ended or is about to, or is still pausing.
        """
        return self._told(job_id, "resume")

    def clone(
        self,
        job_id: str,
        changes: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job like another one and return it; it has that one as `parent_id`.

        Args:
            job_id: the job to clone.
            changes: a merge patch of its spec: what is not named stays, None takes a field away.
            idempotency_key: as for `create`.

        Raises:
            InvalidRequest: the changed spec or its data breaks a rule.
        """
        path = path_of("jobs", job_id, "clone")
        return self._made(path, json=dict(changes or {}), key=idempotency_key)

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """Submit a failed or cancelled job again and return the new one.

        Raises:
            Conflict: the job has not failed, and was not cancelled.
        """
        return self._made(path_of("jobs", job_id, "retry"), json=None, key=idempotency_key)

    def push(
        self,
        job_id: str,
        *,
        checkpoint: int | None = None,
        repo: str | None = None,
        private: bool | None = None,
        branch: str | None = None,
        tag: str | None = None,
        secret: str | None = None,
        idempotency_key: str | None = None,
    ) -> Push:
        """Have a model pushed to the Hub, and return the push, which is pending.

        What is not given is as the job's spec has it. `wait_for_push` waits for its end.

        Args:
            job_id: the job.
            checkpoint: as for `download`.
            repo: `owner/name`.
            private: push to a private repository only; False for a public one.
            branch: made if it is not there.
            tag: for what is pushed.
            secret: name of the stored secret with the token.
            idempotency_key: as for `create`.

        Raises:
            Conflict: the job has no model, or an earlier push of it is pending.
            NotFound: the checkpoint is not stored, or no longer.
            InvalidRequest: no repository or no token is named, or one is not right.
        """
        call = Call(
            "POST",
            f"{path_of_model(job_id, checkpoint)}/push",
            json=given(repo=repo, private=private, branch=branch, tag=tag, secret=secret),
            headers=once(key=idempotency_key),
        )
        return from_json(Push, self._transport.json(call))

    def wait_for_push(
        self,
        job_id: str,
        *,
        number: int | None = None,
        timeout: float | None = None,
        outage_seconds: float = OUTAGE_SECONDS,
    ) -> Push:
        """Return a push of a job once it is over, whether it went well or not.

        Args:
            job_id: the job.
            number: of the push; None for the latest.
            timeout: seconds after which to raise; None for never.
            outage_seconds: how long the service may be out of reach, once it has answered.

        Raises:
            Conflict: nothing was to be pushed.
            WaitTimedOut: it is not over within `timeout`; it goes on.
        """
        return ended(
            partial(self._push, number=number),
            job_id,
            kind="the push of job",
            timeout=timeout,
            outage_seconds=outage_seconds,
        )

    def _push(self, job_id: str, *, number: int | None) -> Push:
        job = self.get(job_id)
        found = [push for push in job.pushes if number in (None, push.number)]
        if not found:
            why = f"job {job_id} is {job.state}, and nothing of it was to be pushed."
            raise Conflict(why, code="no_push", hint="Ask for it with `push`.")
        return found[-1]

    def edit(
        self,
        job_id: str,
        *,
        name: str | Unset | None = UNSET,
        notes: str | Unset | None = UNSET,
        labels: Mapping[str, str | None] | Unset | None = UNSET,
        priority: int | Unset = UNSET,
        etag: str | None = None,
    ) -> Job:
        """Change a job's name, notes, labels or priority, and return it; the rest stays.

        Args:
            job_id: the job.
            name: for people; None for none.
            notes: whatever is worth remembering; None for nothing.
            labels: those to set; None takes one away, and None for all of them takes all.
            priority: higher starts earlier.
            etag: of the job that you have seen, so that nobody's change is overwritten.

        Raises:
            Conflict: somebody has edited it since you saw `etag`.
        """
        changes = {"name": name, "notes": notes, "labels": labels, "priority": priority}
        call = Call(
            "PATCH",
            path_of("jobs", job_id),
            json={field: value for field, value in changes.items() if value is not UNSET},
            headers={} if etag is None else {"If-Match": etag},
            is_repeatable=etag is None,
        )
        return self._whole(call)

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its events, its log and the files of its model.

        Raises:
            Conflict: it has not ended, or something that has not needs it.
        """
        self._transport.request(Call("DELETE", path_of("jobs", job_id)))

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
        return ended(self.get, job_id, kind="job", timeout=timeout, outage_seconds=outage_seconds)

    def metrics(
        self, job_id: str, *, split: str | None = None, max_points: int | None = None
    ) -> Measurements:
        """Return the measurements of a job, oldest first; `.to_pandas()` makes a table of them.

        Args:
            job_id: the job.
            split: only of this split, such as `train`.
            max_points: up to so many a split, those that a curve needs; None for every one.
        """
        found = pages(
            self._transport,
            path_of("jobs", job_id, "metrics"),
            Measurement,
            page_size=_PAGE_MEASUREMENTS,
            split=split,
            max_points=max_points,
        )
        return Measurements([one for one in found])

    def logs(self, job_id: str, *, tail: int | None = None) -> str:
        """Return a job's log, or its last `tail` lines."""
        call = Call("GET", path_of("jobs", job_id, "logs"), params=given(tail=tail))
        return (self._transport.request(call)).text

    def checkpoints(self, job_id: str) -> Iterator[Checkpoint]:
        """Yield the checkpoints of a job that are in the storage, the latest step first."""
        return pages(self._transport, path_of("jobs", job_id, "checkpoints"), Checkpoint)

    def checkpoint(self, job_id: str, step: int) -> Checkpoint:
        """Return the checkpoint of a step, with the files of its model, or raise NotFound."""
        return get_checkpoint(self._transport, job_id, step)

    def download(
        self,
        job_id: str,
        folder: str | Path,
        *,
        checkpoint: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Path, ...]:
        """Fetch a job's model into a folder, verified, and return the paths of its files.

        What is there already and right is not fetched again; what is there by half goes on.

        Args:
            job_id: the job.
            folder: where to; made if it is not there.
            checkpoint: the step of a stored checkpoint, whose model is wanted in place of the
                finished one; of a job that trains an adapter it is the adapter.
            progress: called with the bytes done and the bytes in all.

        Raises:
            Conflict: the job has no model, or not yet.
            NotFound: the checkpoint is not stored, or no longer.
            BadDownload: a file is not what the service says, or its path leaves the folder.
        """
        root, files = find_model(self._transport, job_id, checkpoint=checkpoint)
        return download(self._transport, root, files, folder=Path(folder), progress=progress)

    def _made(self, path: str, *, json: Any, key: str | None) -> Job:
        call = Call("POST", path, json=json, headers=once(key=key), read_seconds=SLOW_SECONDS)
        return from_json(Job, self._transport.json(call), owner=self)

    def _told(self, job_id: str, verb: str, *, json: Any = None) -> Job:
        call = Call("POST", path_of("jobs", job_id, verb), json=json, is_repeatable=True)
        return from_json(Job, self._transport.json(call), owner=self)

    def _whole(self, call: Call) -> Job:
        response = self._transport.request(call)
        etag = response.headers.get("ETag")
        return from_json(Job, decoded(response), owner=self, etag=etag)
