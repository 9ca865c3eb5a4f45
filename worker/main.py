"""`luthier worker`: a Celery worker whose one task takes jobs for as long as there are any.

The parent only receives messages; each child of its pool has one slot, one device and one spare.
"""

import logging
import os
import signal
import socket
import time
from functools import partial
from types import FrameType
from typing import Any

from billiard import current_process, set_start_method
from celery.signals import (
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from sqlalchemy.exc import DBAPIError

from jobs.backends import Backends, connect
from jobs.queue import TASK, make_celery
from jobs.settings import Settings
from jobs.store import attempts
from trainer_core.failpoints import failpoint
from trainer_core.redaction import guard_process
from worker.attempt import Attempt
from worker.board import Board
from worker.devices import Machine
from worker.group import kill, members_of
from worker.listening import ALIVE_FILE, Listening
from worker.outputs import tidy_finished
from worker.predictor import beside
from worker.presence import Presence
from worker.pusher import Pusher
from worker.screening import HEARD, Screened
from worker.spare import Spare

_CONSUMER_SECONDS = 10
_MARGIN_SECONDS = 15  # beyond the grace of training processes, to hand back
_PARTING_SECONDS = 2  # to end by itself
_LOOK_SECONDS = 0.2

_log = logging.getLogger(__name__)


class Slot:
    """What one child of the pool works with."""

    def __init__(self, settings: Settings, board: Board) -> None:
        self._settings = settings
        self._board = board
        self._backends: Backends | None = None
        self._machine = Machine()
        self._spare = Spare(settings)
        self._name = _name()  # of the worker: the children of its pool have other numbers
        self._presence: Presence | None = None
        self._pusher: Pusher | None = None
        self._num_gpus = 0

    def is_draining(self) -> bool:
        """Return whether the worker was asked to end."""
        return self._board.is_draining

    def open(self) -> None:
        """Connect and warm up, in the child: connections do not survive a fork."""
        self._board.mark(_slot_number(), is_busy=False)
        self._backends = connect(self._settings)
        if _slot_number() == 0:  # one child speaks for all
            self._presence = Presence(
                self._backends.database,
                self._name,
                num_slots=self._settings.num_slots,
                devices=self._machine.chosen(self._settings),
            )
            self._presence.open()
            self._pusher = Pusher(self._backends)
            self._pusher.open()
        self._num_gpus = self._machine.num_gpus(_device(self._settings))
        self._spare.refill()
        self._tidy(self._backends)

    def close(self) -> None:
        """End the spare, and say that the worker is gone."""
        self._spare.close()
        if self._pusher is not None:
            self._pusher.close()
        if self._presence is not None:
            self._presence.close()

    def run_next(self) -> int:
        """Carry out the jobs whose turn it is, until none is left; return how many that were."""

        def note(_number: int, _: FrameType | None) -> None:
            self._board.drain()

        # Who stops a service may send SIGTERM to all of its processes: this one saves and hands
        # back first. The pool sets its own handler after `open`, which is right while it is idle.
        before = signal.signal(signal.SIGTERM, note)
        self._board.mark(_slot_number(), is_busy=True)
        try:
            return self._run_all()
        finally:
            self._board.mark(_slot_number(), is_busy=False)
            signal.signal(signal.SIGTERM, before)

    def _run_all(self) -> int:
        assert self._backends is not None, "the slot was not opened"
        count = 0
        while not self.is_draining():
            with self._backends.database.transaction() as tx:
                job = attempts.claim(
                    tx,
                    worker=_name(),
                    lease_seconds=self._settings.lease_seconds,
                    num_gpus=self._num_gpus,
                )
            if job is None:
                break
            failpoint("worker.claimed")
            device = _device(self._settings)
            attempt = Attempt(self._backends, job, self._spare, device, self.is_draining)
            count += 1
            if not attempt.carry_out():
                break  # something here is broken: leave the next job to others, or to later
        if not self.is_draining():
            self._spare.refill()
            self._tidy(self._backends)
        return count

    def _tidy(self, backends: Backends) -> None:
        try:
            tidy_finished(backends)
        except DBAPIError as error:  # another time
            _log.warning("could not tidy: %s", error)


def run(settings: Settings) -> int:
    """Work until SIGTERM; then save, hand back and end. Returns the exit code."""
    guard_process()
    connect(settings).engine.dispose()  # what can't be connected to is said now
    # The pool's children inherit the slot and the task: macOS would start them anew without.
    set_start_method("fork", force=True)
    app = make_celery(str(settings.redis_url), socket_timeout_seconds=_CONSUMER_SECONDS)
    app.conf.broker_transport = f"{Screened.__module__}:{Screened.__name__}"  # as it is logged
    board = Board(settings.num_slots)
    slot = Slot(settings, board)
    listening = Listening(
        str(settings.redis_url),
        alive=settings.home / ALIVE_FILE,
        has_free_slot=lambda: board.has_free_slot and not board.is_draining,
        num_heard=lambda: HEARD.num_messages,
        on_silence=partial(_end_self, board, seconds=settings.drain_grace_seconds),
    )

    def run_next(_job_id: str) -> int:
        return slot.run_next()

    app.task(name=TASK, ignore_result=True)(run_next)

    def open_slot(**_: Any) -> None:
        slot.open()

    def close_slot(**_: Any) -> None:
        slot.close()

    def begin_draining(**_: Any) -> None:
        board.drain()

    def begin_listening(**_: Any) -> None:
        listening.start()

    codes = [0]

    def note_exit(sender: Any, **_: Any) -> None:
        codes.append(sender.exitcode or 0)

    worker_process_init.connect(open_slot, weak=False)
    worker_process_shutdown.connect(close_slot, weak=False)
    worker_shutting_down.connect(begin_draining, weak=False)
    worker_ready.connect(begin_listening, weak=False)
    worker_shutdown.connect(note_exit, weak=False)
    with beside(settings):
        app.worker_main(
            [
                "worker",
                "--pool=prefork",
                f"--concurrency={settings.num_slots}",
                f"--hostname={_name()}",
                "--loglevel=INFO",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
            ]
        )
    listening.stop()
    return max(codes)


def _end_self(board: Board, *, seconds: float) -> None:
    """End this worker: first what its slots run, in order, then the parent, whatever it waits for.

    Celery's own shutdown speaks to the broker first, over a connection that nobody answers.
    """
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + seconds + _MARGIN_SECONDS
    while not board.is_idle and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    time.sleep(_PARTING_SECONDS)
    kill(one for one in members_of(os.getpid()) if one.pid != os.getpid())
    os._exit(1)


def _name() -> str:
    return f"worker-{os.getpid()}@{socket.gethostname()}"


def _device(settings: Settings) -> str | None:
    if not settings.devices:
        return None
    return settings.devices[_slot_number() % len(settings.devices)]


def _slot_number() -> int:
    """Return which child of the pool this is, from 0."""
    return int(getattr(current_process(), "index", 0))
