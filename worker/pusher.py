"""Pushes models of jobs to the Hub, in a thread of a worker, one at a time.

What is to be pushed are rows (`jobs/store/pushes.py`), so a worker that dies loses none: its lease
runs out, and another tries again. A push that fails costs the job nothing.
"""

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from jobs.backends import Backends
from jobs.records import Artifact, Push
from jobs.retrying import pause_seconds
from jobs.sealing import cipher_of
from jobs.store import artifacts, checkpoints, jobs, pushes, secrets
from jobs.store.events import LeaseLost
from jobs.transaction import Transaction
from trainer_core.errors import (
    DiskFull,
    LuthierError,
    ModelNotReady,
    PushFailed,
    ServiceUnavailable,
    TypedError,
    Whose,
)
from trainer_core.failpoints import failpoint
from trainer_core.redaction import REDACTOR
from trainer_core.run_directory import MANIFEST
from worker.uploading import Answer, Upload, upload

_LOOK_SECONDS = 1.0
_MARGIN = 0.8  # share of the lease after which a worker that can't renew gives up
_END_SECONDS = 5.0
_NOT_PUSHED = (MANIFEST, "predictions.jsonl", "tracking/")
"""Of a model's folder: what lists files that stay here, holds rows, or is a log."""

_log = logging.getLogger(__name__)


class _Leaving(Exception):
    """The worker ends."""


@dataclass(frozen=True, slots=True)
class _Needs:
    files: list[Artifact]
    token: str


class Pusher:
    """A thread that pushes what is due, until it is closed."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._folder = backends.settings.home / "push" / str(os.getpid())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="pusher", daemon=True)

    def open(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; what is being pushed is left to others."""
        self._ended.set()
        self._thread.join(_END_SECONDS)

    def push_next(self) -> bool:
        """Push what is due first; return whether anything was."""
        settings = self._backends.settings
        with self._backends.database.transaction() as tx:
            push = pushes.claim(tx, lease_seconds=settings.lease_seconds)
            if push is not None and push.num_tries > push.max_tries:
                error = _typed(push, Answer(message="each worker that tried was lost on the way."))
                pushes.fail(tx, push, error=error.to_dict())
                return True
        if push is None:
            return False
        hold = _Hold(self._backends, push, self._ended)
        try:
            failpoint("worker.pushing")
            answer = self._tried(push, hold)
            failpoint("worker.pushed")
            hold.persist(lambda tx: _settle(tx, push, answer, retry_seconds=settings.retry_seconds))
        except LeaseLost as error:
            _log.warning("a push was overtaken: %s", error, extra={"action": "push_overtaken"})
        except _Leaving:
            with self._backends.database.transaction() as tx:
                pushes.hand_back(tx, push)
        return True

    def _work(self) -> None:
        _clear_abandoned(self._folder.parent)
        while not self._ended.is_set():
            try:
                if self.push_next():
                    continue
            except (SQLAlchemyError, LeaseLost) as error:  # another time
                _log.warning("could not push: %s", error, extra={"action": "push_put_off"})
            except Exception:  # noqa: BLE001 - its lease runs out, and its tries are counted
                _log.exception("a push broke", extra={"action": "push_broke"})
            self._ended.wait(_LOOK_SECONDS)

    def _tried(self, push: Push, hold: "_Hold") -> Answer:
        try:
            needs = self._needs(push)
        except LuthierError as error:
            return _answer_of(error)
        REDACTOR.learn([needs.token])
        try:
            with self._brought(needs.files, hold.check) as files:
                asked = Upload(
                    repo=push.repo,
                    private=push.private,
                    branch=push.branch,
                    tag=push.tag,
                    message=f"Push {push.checkpoint or 'the model'} of {push.job_id}",
                    files=files,
                    seconds=self._backends.settings.push_seconds,
                )
                return upload(asked, token=needs.token, check=hold.check)
        except LuthierError as error:
            return _answer_of(error)
        except OSError as error:
            _log.exception("could not bring the model of %s", push.job_id)
            return Answer(message=f"the worker failed: {error.strerror}.", is_passing=True)

    def _needs(self, push: Push) -> _Needs:
        with self._backends.database.transaction() as tx:
            job = jobs.get_any(tx, push.job_id)
            found = (
                artifacts.of_job(tx, push.job_id)
                if push.step is None
                else checkpoints.get_any(tx, push.job_id, push.step).artifacts
            )
            cipher = cipher_of(self._backends.settings)
            token = secrets.reveal(tx, push.secret, project=job.project, cipher=cipher)
        files = [file for file in found if not file.path.startswith(_NOT_PUSHED)]
        if not files:
            raise ModelNotReady(f"the model of {push.job_id} was deleted.")
        return _Needs(files, token)

    @contextlib.contextmanager
    def _brought(
        self, files: list[Artifact], check: Callable[[], None]
    ) -> Iterator[Mapping[str, str]]:
        """Give the path of each file on this machine, for a while."""
        storage = self._backends.storage
        here: dict[str, str] = {}
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            for file in files:
                if storage.is_folder:
                    here[file.path] = str(stack.enter_context(storage.local(file.key)))
                    continue
                storage.fetch(file.key, self._folder / file.path, check=check)
                here[file.path] = str(self._folder / file.path)
            yield here


class _Hold:
    """The lease on a try."""

    def __init__(self, backends: Backends, push: Push, ended: threading.Event) -> None:
        self._backends = backends
        self._push = push
        self._ended = ended
        self._seconds = backends.settings.lease_seconds
        self._renewed_at = time.monotonic()
        self._tried_at = self._renewed_at

    def check(self) -> None:
        """Renew when it is time.

        Raises:
            LeaseLost: the try is held no longer, or may not be.
            _Leaving: the worker ends.
        """
        if self._ended.is_set():
            raise _Leaving
        now = time.monotonic()
        if now - self._renewed_at > self._seconds * _MARGIN:
            raise LeaseLost(f"the lease of a push of {self._push.job_id} could not be renewed")
        if now - self._tried_at < self._seconds / 3:
            return
        self._tried_at = now
        try:
            with self._backends.database.transaction() as tx:
                pushes.renew(tx, self._push, lease_seconds=self._seconds)
        except DBAPIError as error:
            _log.warning("could not renew the lease of a push: %s", error.orig)
        else:
            self._renewed_at = now

    def persist(self, write: Callable[[Transaction], None]) -> None:
        """Do something with the database, again and again while it can't be reached."""
        while True:
            try:
                with self._backends.database.transaction() as tx:
                    return write(tx)
            except OperationalError as error:
                _log.warning("the database is out of reach, trying again: %s", error.orig)
                self.check()
                time.sleep(1)


def _settle(tx: Transaction, push: Push, answer: Answer, *, retry_seconds: float) -> None:
    """Keep what came of a try."""
    if answer.commit is not None:
        assert answer.url is not None, "what was pushed can be seen"
        pushes.succeed(tx, push, commit=answer.commit, url=answer.url)
        return
    error = _typed(push, answer)
    _log.warning("%s", error.message, extra={"action": "push_failed", "job_id": push.job_id})
    if not answer.is_passing or push.num_tries >= push.max_tries:
        pushes.fail(tx, push, error=error.to_dict())
        return
    wait = pause_seconds(
        push.num_tries, first_seconds=retry_seconds, at_least=answer.retry_after_seconds or 0.0
    )
    pushes.put_off(tx, push, error=error.to_dict(), again_in_seconds=wait)


def _typed(push: Push, answer: Answer) -> TypedError:
    tries = "1 try" if push.num_tries == 1 else f"{push.num_tries} tries"
    return TypedError(
        code=PushFailed.code,
        message=REDACTOR.text(
            f"the model was not pushed to {push.repo}, in {tries}: {answer.message}"
        ),
        hint=answer.hint or f"POST {_path(push)} pushes it again.",
        whose=Whose.SYSTEM if answer.is_passing else Whose.USER,
        retryable=answer.is_passing,
        detail={"status": answer.status},
    )


def _path(push: Push) -> str:
    return f"/jobs/{push.job_id}{f'/checkpoints/{push.checkpoint}' if push.checkpoint else ''}/push"


def _answer_of(error: LuthierError) -> Answer:
    is_passing = isinstance(error, ServiceUnavailable | DiskFull)
    return Answer(message=error.message, hint=error.hint, is_passing=is_passing)


def _clear_abandoned(folder: Path) -> None:
    """Remove what workers left that were killed."""
    for path in folder.glob("[0-9]*"):
        if not Path(f"/proc/{path.name}").exists():
            shutil.rmtree(path, ignore_errors=True)
