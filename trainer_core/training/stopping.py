"""Being asked to stop: SIGTERM or Ctrl-C, with the reason in the run directory's `stop.json`.

Steps are finished first; anything else (reading, tokenizing, loading) is dropped where it is.
"""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from trainer_core.run_directory import RunDirectory, StopRequest


class StopAsked(BaseException):
    """The run is to end, and no step is in hand; like KeyboardInterrupt no `except Exception`."""


class Stopping:
    """Whether someone asked this run to stop, and how."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._is_finishing_steps = False
        self.is_asked = False

    @property
    def request(self) -> StopRequest:
        """What was asked for; a signal without a `stop.json` asks for a checkpoint."""
        return self._run.read_stop() or StopRequest("the process was asked to end", is_saving=True)

    def ask(self) -> None:
        """Stop as soon as no step is in hand."""
        self.is_asked = True
        if not self._is_finishing_steps:
            raise StopAsked

    def check(self) -> None:
        """Raise StopAsked if someone asked."""
        if self.is_asked:
            raise StopAsked

    @contextmanager
    def finishing_steps(self) -> Iterator[None]:
        """While in the block only note that someone asks: the block looks for itself."""
        self._is_finishing_steps = True
        try:
            yield
        finally:
            self._is_finishing_steps = False

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
