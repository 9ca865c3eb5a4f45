import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer_core.run_directory import RunDirectory, StopRequest
from trainer_core.training.process.stopping import StopAsked, Stopping


@pytest.fixture
def stopping(tmp_path: Path) -> Iterator[Stopping]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield Stopping(RunDirectory(tmp_path))
    for number, handler in before.items():
        signal.signal(number, handler)


def test_work_that_may_be_dropped_is_dropped_at_once(stopping: Stopping) -> None:
    stopping.listen([signal.SIGTERM], is_patient=True)
    with pytest.raises(StopAsked), stopping.droppable():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the work went on")


def test_other_work_is_finished_first(stopping: Stopping) -> None:
    stopping.listen([signal.SIGTERM], is_patient=True)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stopping.is_asked
    with pytest.raises(StopAsked):
        stopping.check()


def test_when_the_time_is_over_the_work_is_dropped_and_a_checkpoint_asked_for(
    stopping: Stopping,
) -> None:
    with (
        pytest.raises(StopAsked),
        stopping.limited(0.05),
        stopping.droppable(),
    ):
        time.sleep(30)
    assert stopping.is_over
    assert stopping.request.is_saving
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_limit_that_is_not_reached_leaves_nothing_behind(stopping: Stopping) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with stopping.limited(60):
        pass
    assert not stopping.is_asked
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_request_before_droppable_work_keeps_it_from_beginning(stopping: Stopping) -> None:
    stopping.ask()
    with pytest.raises(StopAsked), stopping.droppable():
        pytest.fail("the work began")


def test_a_signal_without_a_request_saves(stopping: Stopping) -> None:
    assert stopping.request.is_saving


def test_the_request_in_the_run_directory_is_obeyed(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.request_stop(StopRequest("cancelled by its owner", is_saving=False))
    assert Stopping(directory).request == StopRequest("cancelled by its owner", is_saving=False)


def test_a_second_ctrl_c_is_not_held_back(stopping: Stopping) -> None:
    stopping.listen([signal.SIGUSR1], is_patient=False)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
