"""Answers questions to finished models, beside the worker's slots: `python -m worker.predictor`.

A process of its own, which imports no torch. It starts a training process that answers instead, on
demand, with one model at a time, and ends it when nobody has asked for a while. It computes on the
CPU unless LUTHIER_PREDICT names a device, so that no job in training loses its own.
"""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from jobs.backends import Backends, connect
from jobs.predictions import Asked, Desk
from jobs.settings import Settings
from jobs.store import artifacts, jobs
from trainer_core.errors import InternalError, LuthierError, UnusableModel
from trainer_core.predictions import Question
from worker.answering import AnsweringProcess

IDLE_SECONDS = 300
_ALIVE_EVERY_SECONDS = 3
_PAUSE_SECONDS = 2  # where Redis or the database can't be reached
_STOP_SECONDS = 10
_LOOK_SECONDS = 0.5
_REST_SECONDS = 1.0  # before one that has ended is started again; then twice as long, and so on
_MAX_REST_SECONDS = 60.0
_NOT_NEEDED = ("tracking/",)  # of what came with the model

_log = logging.getLogger(__name__)


class Predictor:
    """Takes questions one by one."""

    def __init__(self, backends: Backends, stop: threading.Event) -> None:
        self._backends = backends
        self._stop = stop
        self._folder = backends.settings.home / "predict" / str(os.getpid())
        self._desk = Desk(backends.redis_url)
        self._process: AnsweringProcess | None = None
        self._job_id: str | None = None  # whose model is in the folder
        self._used_at = time.monotonic()

    def run(self) -> None:
        """Answer until asked to stop."""
        _clear_abandoned(self._folder.parent)
        threading.Thread(target=self._stay_alive, name="predictor-alive", daemon=True).start()
        try:
            while not self._stop.is_set():
                try:
                    asked = self._desk.next()
                    if asked is not None:
                        self._answer(asked)
                        self._used_at = time.monotonic()
                    elif time.monotonic() - self._used_at > IDLE_SECONDS:
                        self._rest()
                except (RedisError, DBAPIError) as error:
                    _log.warning("could not answer: %s", error, extra={"action": "ask_failed"})
                    self._stop.wait(_PAUSE_SECONDS)
        finally:
            self._rest()

    def _stay_alive(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(RedisError):  # who asks is told that Redis is gone
                self._desk.say_alive()
            self._stop.wait(_ALIVE_EVERY_SECONDS)

    def _answer(self, asked: Asked) -> None:
        try:
            question = self._question(asked)
            if self._process is None:
                self._process = AnsweringProcess(self._backends.settings, self._folder)
            for message in self._process.ask(question):
                self._desk.answer(asked, message)
        except LuthierError as error:
            self._desk.answer(asked, {"error": error.to_typed().to_dict()})
            self._drop_dead()
        except OSError as error:
            _log.exception("could not answer with %s", asked.job_id)
            fault = InternalError(f"the worker failed: {type(error).__name__}: {error}")
            self._desk.answer(asked, {"error": fault.to_typed().to_dict()})
            self._rest()

    def _question(self, asked: Asked) -> Question:
        with self._backends.database.transaction() as tx:
            job = jobs.get(tx, asked.job_id, project=asked.project)
            files = artifacts.of_job(tx, asked.job_id)
        if not files:
            raise UnusableModel(f"job {asked.job_id} has no model.", param="model")
        folder = self._folder / "model" / asked.job_id
        if self._job_id != asked.job_id:
            self._job_id = None
            shutil.rmtree(folder.parent, ignore_errors=True)
            for file in files:
                if not file.path.startswith(_NOT_NEEDED):
                    self._backends.storage.fetch(file.key, folder / file.path)
            self._job_id = asked.job_id
        return Question(
            folder=str(folder),
            spec=(job.resolved or {"spec": job.spec})["spec"],
            device=self._backends.settings.predict,
            inputs=asked.inputs,
            settings=asked.settings,
            is_streamed=asked.is_streamed,
        )

    def _drop_dead(self) -> None:
        if self._process is not None and not self._process.is_alive:
            self._process = None

    def _rest(self) -> None:
        """Give back the memory and the disk that a model takes."""
        if self._process is not None:
            self._process.close()
            self._process = None
        self._job_id = None
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def beside(settings: Settings) -> Iterator[None]:
    """Have a predictor run for a while, unless the settings say that none is wanted."""
    if settings.predict == "off":
        yield
        return
    # The first one is started here: the pool's children are not forked while a thread does that.
    first, ended = _started(settings), threading.Event()
    keeper = threading.Thread(target=_keep, args=(settings, first, ended), name="predictor-keeper")
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()


def _keep(settings: Settings, child: "subprocess.Popen[bytes]", ended: threading.Event) -> None:
    """Start a predictor anew whenever it ends, until told to end; then end it."""
    rest_seconds, began_at = _REST_SECONDS, time.monotonic()
    while not ended.wait(_LOOK_SECONDS):
        if child.poll() is None:
            continue
        if time.monotonic() - began_at > _MAX_REST_SECONDS:  # it was not its start that failed
            rest_seconds = _REST_SECONDS
        _log.error(
            "the predictor ended with %d; another starts in %g s",
            child.returncode,
            rest_seconds,
            extra={"action": "predictor_ended"},
        )
        if ended.wait(rest_seconds):
            break
        rest_seconds = min(2 * rest_seconds, _MAX_REST_SECONDS)
        _let_go(child)
        child, began_at = _started(settings), time.monotonic()
    _let_go(child)
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _started(settings: Settings) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "worker.predictor"]
    # The settings hold passwords, so they go where no process list shows them.
    child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert child.stdin is not None, "it has a pipe"
    with contextlib.suppress(BrokenPipeError):  # it has died already
        given = settings.model_dump_json(exclude={"secret_key"})  # which it has no use for
        child.stdin.write(given.encode() + b"\n")
        child.stdin.flush()
    return child


def _let_go(child: "subprocess.Popen[bytes]") -> None:
    """Loose the leash: a predictor ends with its input."""
    assert child.stdin is not None, "it has a pipe"
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()


def main(given: IO[str]) -> int:
    """Answer with the settings of the first line of an input, until the input ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    line = given.readline()
    if not line:
        return 0
    settings = Settings.model_validate_json(line)
    stop = threading.Event()

    def ask_to_stop(_number: int, _: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while given.readline():
            pass
        stop.set()

    threading.Thread(target=watch, name="worker-watch", daemon=True).start()
    backends = connect(settings)
    Predictor(backends, stop).run()
    backends.engine.dispose()
    return 0


def _clear_abandoned(folder: Path) -> None:
    """Remove what predictors left that were killed."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name.isdecimal() and not Path(f"/proc/{path.name}").exists():
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.stdin))
