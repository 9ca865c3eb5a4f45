"""The command `python -m trainer_core.training RUN_DIR`, or `--supervised` for a worker.

`--fork-server SOCKET` waits for workers instead and forks a training process for each job.

Exit codes: 0 succeeded, 75 stopped as asked, 1 failed; `outcome.json` says more. Where one of
several processes was killed by a signal, so is the command.
"""

import argparse
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer_core.errors import LuthierError
from trainer_core.redaction import guard_process
from trainer_core.run_directory import Outcome, Result, RunDirectory
from trainer_core.training.process.launching import Launch, end_by
from trainer_core.training.process.stopping import Stopping
from trainer_core.training.process.supervision import (
    begin,
    tell_stacks,
    wait_for_order,
    watch_supervisor,
)

_INSPECTION_BYTES = 4 << 30
EXIT_CODES = {Result.SUCCEEDED: 0, Result.STOPPED: 75, Result.FAILED: 1}


def main(arguments: Sequence[str]) -> int:
    """Carry out a run and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer_core.training", description=__doc__)
    parser.add_argument("run_dir", nargs="?", type=Path, help="holds spec.json and inputs.json")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--leashed", action="store_true", help="die when standard input is closed")
    parser.add_argument(
        "--supervised", action="store_true", help="take the run directory from standard input"
    )
    parser.add_argument(
        "--fork-server", type=Path, metavar="SOCKET", help="fork a process for each job; CPU only"
    )
    options = parser.parse_args(arguments)
    if options.supervised or options.fork_server:
        from trainer_core.training.fork_server import serve
        from trainer_core.training.warm import import_everything

        import_everything()
        if options.fork_server:
            return serve(options.fork_server, work=_run_supervised)
        return _run_supervised()
    if options.run_dir is None:
        parser.error("give a run directory, or --supervised")
    if options.leashed:
        watch_supervisor()
    return _run_alone(options.run_dir, is_quiet=options.quiet)


def _run_alone(path: Path, *, is_quiet: bool) -> int:
    if not path.is_dir():
        sys.stderr.write(f"invalid_setting: there is no directory '{path}'\n")
        return 1
    directory = RunDirectory(path.resolve())
    if "WORLD_SIZE" in os.environ:
        return _run_together(directory, is_quiet=is_quiet)
    if (count := _num_processes(directory)) > 1:
        signals = [signal.SIGINT, signal.SIGTERM]
        return Launch(directory, count=count, arguments=[], signals=signals).wait()
    stopping = Stopping(directory)
    stopping.listen([signal.SIGINT, signal.SIGTERM], is_patient=False)
    return _carried_out(directory, stopping, is_quiet=is_quiet)


def _run_together(directory: RunDirectory, *, is_quiet: bool) -> int:
    """Take part in a run as one of several processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started them all passes it on
    stopping = Stopping(directory, agree=_agree)
    stopping.listen([signal.SIGTERM], is_patient=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # see Launch
    from trainer_core.training.process import processes

    processes.join()
    try:
        return _carried_out(directory, stopping, is_quiet=is_quiet or not processes.is_first())
    finally:
        processes.leave()


def _agree(is_asked: bool) -> bool:
    from trainer_core.training.process import processes

    return processes.is_any(here=is_asked)


def _carried_out(directory: RunDirectory, stopping: Stopping, *, is_quiet: bool) -> int:
    from trainer_core.training.process.narrating import LineReporter
    from trainer_core.training.run import run

    watchers = [] if is_quiet else [LineReporter(sys.stdout)]
    return _told(run(directory, stopping=stopping, watchers=watchers))


def _num_processes(directory: RunDirectory) -> int:
    """Return how many processes the inputs ask for; 1 where the run will say what is wrong."""
    try:
        inputs = directory.read_inputs()
    except LuthierError:
        return 1
    if inputs.num_processes == 1 or inputs.device == "cpu":
        return inputs.num_processes
    from trainer_core.training.process.devices import num_devices

    return inputs.num_processes if inputs.num_processes <= num_devices(inputs.device) else 1


def _run_supervised() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the supervisor's to take
    order = wait_for_order()
    if order is None:
        return 0
    os.environ.update(order.environment)
    guard_process()
    directory = RunDirectory(order.run_dir.resolve())
    if order.socket is not None:
        begin(directory.path)
        from trainer_core.training.predicting.serving import serve as answer

        return answer(order.socket)
    if order.is_inspection:
        return _inspect(directory)
    if (count := _num_processes(directory)) > 1:
        begin(directory.path)
        signals = [signal.SIGTERM]
        return Launch(directory, count=count, arguments=["--quiet"], signals=signals).wait()
    stopping = Stopping(directory)
    stopping.listen([signal.SIGTERM], is_patient=True)
    begin(directory.path)
    from trainer_core.training.run import run

    return _told(run(directory, stopping=stopping))


def _inspect(directory: RunDirectory) -> int:
    """Look at a job, with little memory: its model and its rows are a stranger's."""
    begin(directory.path)
    resource.setrlimit(resource.RLIMIT_DATA, (_INSPECTION_BYTES, _INSPECTION_BYTES))
    from trainer_core.training.inspecting import inspect

    return EXIT_CODES[Result.FAILED if inspect(directory).error else Result.SUCCEEDED]


def _told(outcome: Outcome) -> int:
    if outcome.error:
        error = outcome.error
        sys.stderr.write(f"{error.code}: {error.message} {error.hint}".rstrip() + "\n")
    return EXIT_CODES[outcome.result]


if __name__ == "__main__":
    tell_stacks()
    end_by(main(sys.argv[1:]))
