"""Being asked to stop: by SIGTERM or Ctrl-C, with the reason in `stop.json`, or by the clock.

Reading, tokenizing and loading are dropped where they are; steps and saves are finished first. A
request to finish ends the training alone, once there are steps to make a model of.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from trainer_core.run_directory import RunDirectory, StopRequest


class StopAsked(BaseException):
    """The run is to end here; like KeyboardInterrupt no `except Exception`."""


class Stopping:
    """Whether someone asked this run to stop, and how."""

    def __init__(
        self, run: RunDirectory, *, agree: Callable[[bool], bool] = lambda is_asked: is_asked
    ) -> None:
        """Begin with nobody asking.

        Args:
            run: may say why to stop.
            agree: returns what all processes of the run make of it; all of them call it.
        """
        self._run = run
        self._agree = agree
        self._is_droppable = False
        self.is_asked = False
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the time is over, and nobody asked for anything else."""
        return self._is_over and self._run.read_stop() is None

    @property
    def request(self) -> StopRequest:
        """What was asked for; a signal without a `stop.json` asks for a checkpoint."""
        return self._run.read_stop() or StopRequest("it has to end here", is_saving=True)

    @property
    def is_finishing(self) -> bool:
        """Whether a model is to be made of the steps taken, in any process; all of them ask."""
        return self._agree(self.request.is_finishing)

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Ask to stop, with a checkpoint, if the block is not over after so many seconds."""

        def note(_number: int, _: FrameType | None) -> None:
            self._is_over = True
            self.ask()

        before = signal.signal(signal.SIGALRM, note)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def ask(self) -> None:
        """Take note, and drop the work in hand if it may be dropped."""
        self.is_asked = True
        if self._is_droppable and not self._is_to_finish():
            raise StopAsked

    def look(self) -> bool:
        """Return whether someone asked, in any process; all of them look at the same places."""
        self.is_asked = self._agree(self.is_asked)
        return self.is_asked

    def check(self, *, can_finish: bool = False) -> None:
        """Raise StopAsked if someone asked, in any process, as `look` does.

        Args:
            can_finish: steps were taken, so that a request to finish is no reason to drop anything.
        """
        if self.look() and not (can_finish and self.is_finishing):
            raise StopAsked

    def _is_to_finish(self) -> bool:
        """Whether what is begun leads to the model of an earlier attempt's steps."""
        return self.request.is_finishing and self._run.has_checkpoints

    @contextmanager
    def droppable(self) -> Iterator[None]:
        """Let a request to stop raise StopAsked wherever the block is: nothing in it is kept."""
        self._is_droppable = True
        try:
            if self.is_asked and not self._is_to_finish():
                raise StopAsked
            yield
        finally:
            self._is_droppable = False

    def listen(self, signals: Sequence[signal.Signals], *, is_patient: bool) -> None:
        """Obey these signals from now on.

        Args:
            signals: which.
            is_patient: take a second signal for the first one; else it ends the process at once,
                which is what people expect of a second Ctrl-C.
        """

        def note(number: int, _: FrameType | None) -> None:
            if not is_patient:
                signal.signal(number, signal.SIG_DFL)
            self.ask()

        for name in signals:
            signal.signal(name, note)
