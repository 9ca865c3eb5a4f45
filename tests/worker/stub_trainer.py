"""A training process without torch: the real protocol, and a run that misbehaves as it is told.

python -m tests.worker.stub_trainer MODE
"""

import os
import signal
import sys
import threading
import time
from multiprocessing import Process

from trainer_core.events import JsonlReporter, Phase, PhaseEntered, Progressed
from trainer_core.run_directory import Outcome, Result, RunDirectory, write_json
from trainer_core.training.process.supervision import begin, tell_stacks, wait_for_order

FLOOD_BYTES = 400 << 20


def main(mode: str) -> int:
    tell_stacks()
    order = wait_for_order()
    if order is None:
        return 0
    run = RunDirectory(order.run_dir)
    begin(run.path)
    with JsonlReporter(run.events) as events:
        events.report(PhaseEntered(Phase.TRAINING))
        for step in range(1, 4):
            events.report(Progressed(step, 100, 0.1, 10, 1.0, None))
        MODES[mode](events)
    write_json(run.outcome, Outcome(Result.STOPPED).to_dict())
    return 75


def go_slowly(events: JsonlReporter) -> None:
    for _ in range(12):
        time.sleep(0.5)
        events.report(PhaseEntered(Phase.EVALUATING, 0.1))


def chatter(_: JsonlReporter) -> None:
    while True:
        os.write(1, b"waiting for a peer that is gone\n")
        time.sleep(0.1)


def crash(_: JsonlReporter) -> None:
    os.write(2, b"the last words\n")
    os.kill(os.getpid(), signal.SIGSEGV)


def hang_in_a_step(_: JsonlReporter) -> None:
    threading.Thread(target=sleep_in_a_thread, daemon=True).start()
    sleep_for_ever()


def sleep_in_a_thread() -> None:
    sleep_for_ever()


def sleep_for_ever() -> None:
    while True:
        time.sleep(1)


def wait_for_a_loader(_: JsonlReporter) -> None:
    worker = Process(target=load_rows)  # forked, as torch's data loaders are
    worker.start()
    worker.join()


def load_rows() -> None:
    sleep_for_ever()


def flood_bytes(_: JsonlReporter) -> None:
    flood(bytes(range(256)).replace(b"\n", b"") * 4096)


def flood_lines(_: JsonlReporter) -> None:
    flood(b"\x1b[31mthe same again and again\x1b[0m \x07\n" * 30_000)


def flood(block: bytes) -> None:
    for _ in range(FLOOD_BYTES // len(block)):
        os.write(1, block)
    time.sleep(0.5)  # what is written in the moment of a cut is lost
    os.write(1, b"\nthe last line\n")


MODES = {
    "hang": hang_in_a_step,
    "loader": wait_for_a_loader,
    "slow": go_slowly,
    "chatter": chatter,
    "crash": crash,
    "bytes": flood_bytes,
    "lines": flood_lines,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
