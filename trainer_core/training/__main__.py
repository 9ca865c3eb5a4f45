"""The command `python -m trainer_core.training RUN_DIR`, or `--supervised` for a worker.

Exit codes: 0 succeeded, 75 stopped as asked, 1 failed; `outcome.json` says more.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer_core.run_directory import Outcome, Result, RunDirectory
from trainer_core.training.stopping import Stopping
from trainer_core.training.supervision import begin, wait_for_order

EXIT_CODES = {Result.SUCCEEDED: 0, Result.STOPPED: 75, Result.FAILED: 1}


def main(arguments: Sequence[str]) -> int:
    """Carry out a run and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer_core.training", description=__doc__)
    parser.add_argument("run_dir", nargs="?", type=Path, help="holds spec.json and inputs.json")
    parser.add_argument(
        "--supervised", action="store_true", help="take the run directory from standard input"
    )
    options = parser.parse_args(arguments)
    if options.supervised:
        return _run_supervised()
    if options.run_dir is None:
        parser.error("give a run directory, or --supervised")
    return _run_alone(options.run_dir)


def _run_alone(path: Path) -> int:
    if not path.is_dir():
        sys.stderr.write(f"invalid_setting: there is no directory '{path}'\n")
        return 1
    directory = RunDirectory(path.resolve())
    stopping = Stopping(directory)
    stopping.listen([signal.SIGINT, signal.SIGTERM], is_patient=False)
    from trainer_core.training.narrating import LineReporter
    from trainer_core.training.run import run

    return _told(run(directory, stopping=stopping, watchers=[LineReporter(sys.stdout)]))


def _run_supervised() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the supervisor's to take
    from trainer_core.training.warm import import_everything

    import_everything()
    order = wait_for_order()
    if order is None:
        return 0
    os.environ.update(order.environment)
    directory = RunDirectory(order.run_dir.resolve())
    stopping = Stopping(directory)
    stopping.listen([signal.SIGTERM], is_patient=True)
    begin(directory.path)
    from trainer_core.training.run import run

    return _told(run(directory, stopping=stopping))


def _told(outcome: Outcome) -> int:
    if outcome.error:
        error = outcome.error
        sys.stderr.write(f"{error.code}: {error.message} {error.hint}".rstrip() + "\n")
    return EXIT_CODES[outcome.result]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
