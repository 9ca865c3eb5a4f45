"""What the embedded servers have in common: their start, their stop, and what is said of both."""

from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from luthier.embedded.child import Child
from luthier.embedded.home import Home
from trainer_core.errors import ServerFailed


class EmbeddedServer(ABC):
    """A server of our own, for one home.

    Start it from a thread that outlives it, in practice the main thread: see child.py.
    """

    name: ClassVar[str]
    key: ClassVar[str]  # names its record and its log
    setting: ClassVar[str]  # names a server to use in its place
    stop_timeout_seconds: ClassVar[float]

    def __init__(self, home: Path) -> None:
        self._home = Home(home)
        self._child: Child | None = None
        self._held = ExitStack()  # locks on the data

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> Path:
        return self._home.logs / f"{self.key}.log"

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL that `start` returned."""

    def start(self) -> str:
        """Start on the home's data, made at the first start; return the server's URL.

        Raises:
            HomeInUse: another supervisor's server runs on this data.
            ServerFailed: it can't run here, or its data is of another version.
        """
        assert self._child is None, f"{self.name} was started already"
        self._home.create()
        try:
            self._launch()
        except OSError as error:
            self.stop()
            raise ServerFailed(
                f"{self.name} can't be started: {error}.",
                hint=f"Mend that, or set {self.setting} to a server that runs already.",
            ) from error
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Stop the server and let go of its data; does nothing when it does not run."""
        if self._child is not None:
            self._child.stop(timeout_seconds=self.stop_timeout_seconds)
            self._child = None
        self._held.close()

    def poll(self) -> int | None:
        """Return None while the server runs, else the exit status that it ended with by itself."""
        return self._running().poll()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @abstractmethod
    def _launch(self) -> None:
        """Start `_child` and return once it answers; keep its port and hold its locks."""

    def _running(self) -> Child:
        assert self._child is not None, f"{self.name} was not started"
        return self._child
