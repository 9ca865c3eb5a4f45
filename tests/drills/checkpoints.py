"""Group C and K2: checkpoints that are cut, damaged or of other rows, on runs without a worker."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

from tests.drills.alone import Alone, alone, end, obstacle_to_tracing, write_inputs
from tests.drills.plan import ALL, Drill, Exhausted
from tests.drills.site import Site
from tests.drills.work import NUM_STEPS, Work
from trainer_core.run_directory import verified_manifest

_SAVE_CALLS = (
    "write", "pwrite64", "fsync", "rename", "unlink", "unlinkat", "rmdir", "mkdir", "ftruncate",
)  # fmt: skip
"""What a save and a rotation ask of the system."""
_STOP = 15  # the newest checkpoint, saved on the way out


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill(
            "K2", "killed at each system call of one save", "resumes, same weights", trials.k2,
            ALL, unit="calls", obstacle=obstacle_to_tracing(),
        ),
        Drill(
            "C1", "stopped at step N of three epochs and resumed", "same weights", trials.c1,
            NUM_STEPS - 1, unit="steps",
        ),
        Drill("C2", "newest checkpoint: a file cut, flipped, gone", "passed over", trials.c2, 40),
        Drill("C3", "state of the random numbers damaged", "passed over", trials.c3, 20),
        Drill("C4", "every checkpoint bad", "an explicit failure", trials.c4, 10),
        Drill("C9", "rows changed between attempts", "refused", trials.c9, 20),
        Drill("C11", "resumed with two threads instead of one", "warned of", trials.c11, 10),
        Drill("C15", "loss becomes infinite", "diverged, last good kept", trials.c15, 10),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._places: list[tuple[str, int]] | None = None  # at which K2 still has to kill
        self._steps: list[int] | None = None  # at which C1 still has to stop

    def k2(self, site: Site, chance: random.Random) -> None:
        with alone(site, self._work) as own:
            if self._places is None:
                self._places = _places_of_one_save(own)
                chance.shuffle(self._places)
            if not self._places:
                raise Exhausted
            name, number = self._places.pop()
            process = own.start(strace=f"inject={name}:signal=SIGKILL:when={number}")
            assert end(process) == -signal.SIGKILL, f"it outlived {name} number {number}"
            own.assert_resumes()

    def c1(self, site: Site, chance: random.Random) -> None:
        if self._steps is None:
            self._steps = chance.sample(range(1, NUM_STEPS), NUM_STEPS - 1)
        step = self._steps.pop()
        with alone(site, self._work) as own:
            own.stop_at(step)
            own.assert_resumes()

    def c2(self, site: Site, chance: random.Random) -> None:
        with alone(site, self._work) as own:
            own.stop_at(_STOP)
            _damage(chance, chance.choice(_files_of(_newest(own))))
            own.assert_resumes()
            _assert_passed_over(own)

    def c3(self, site: Site, chance: random.Random) -> None:
        with alone(site, self._work) as own:
            own.stop_at(_STOP)
            (state,) = _newest(own).glob("rng_state*")
            _damage(chance, state)
            own.assert_resumes()
            _assert_passed_over(own)

    def c4(self, site: Site, chance: random.Random) -> None:
        with alone(site, self._work) as own:
            own.stop_at(_STOP)
            for checkpoint in own.run.checkpoints.glob("checkpoint-*"):
                _damage(chance, chance.choice(_files_of(checkpoint)))
            _assert_refused(own, "no_usable_checkpoint")

    def c9(self, site: Site, chance: random.Random) -> None:
        with alone(site, self._work) as own:
            own.stop_at(_STOP)
            rows = own.run.path / "rows.csv"
            header, *lines = rows.read_text().splitlines()
            change: Callable[[list[str]], list[str]] = chance.choice(
                [
                    lambda old: [*old, old[0]],
                    lambda old: old[1:],
                    lambda old: old[::-1],
                    lambda old: [old[0].replace("it", "that"), *old[1:]],
                ]
            )
            rows.write_text("\n".join([header, *change(lines)]) + "\n")
            _assert_refused(own, "data_changed")

    def c11(self, site: Site, chance: random.Random) -> None:
        with alone(site, self._work) as own:
            own.stop_at(chance.randrange(1, NUM_STEPS))
            write_inputs(site, own.run, num_threads=2)
            outcome = own.carry_out()
            assert outcome.error is None, outcome.error
            (told,) = [w for w in own.warnings() if w["code"] == "not_bit_exact"]
            assert "threads" in told["message"], told

    def c15(self, site: Site, chance: random.Random) -> None:
        training = {
            "learning_rate": 10,
            "optimizer": "sgd",
            "max_grad_norm": None,
            "warmup_ratio": 0.9,  # good steps come first: the rate rises from nothing
            "seed": chance.randrange(1000),
        }
        changes = {
            "problem": "regression",
            "training": training,
            "checkpoints": {"strategy": "steps", "steps": 1, "keep": 2},
        }
        with alone(site, self._work, **changes) as own:
            rows = "".join(f"it is {n},{1e6 * n}\n" for n in range(120))
            (own.run.path / "rows.csv").write_text(f"text,colour\n{rows}")
            outcome = own.carry_out()
            assert outcome.error is not None, outcome
            assert outcome.error.code == "diverged", outcome.error
            newest = _newest(own)
            assert outcome.error.detail["checkpoint"] == f"checkpoints/{newest.name}", outcome
            assert verified_manifest(newest) is not None


def _places_of_one_save(own: Alone) -> list[tuple[str, int]]:
    """Return the calls from the beginning of a save to the end of the removal of an older one.

    Each as strace counts it: its name, and which of that name in the whole run.
    """
    lines = own.calls(",".join(_SAVE_CALLS))
    names = [line.partition("(")[0] for line in lines]
    begin = next(n for n, line in enumerate(lines) if ".partial-checkpoint-18" in line)
    last = max(n for n, line in enumerate(lines) if ".discarded-checkpoint-6" in line)
    return [(names[n], names[: n + 1].count(names[n])) for n in range(begin, last + 1)]


def _newest(own: Alone) -> Path:
    return max(
        own.run.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
    )


def _files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def _assert_passed_over(own: Alone) -> None:
    passed_over = [w for w in own.warnings() if w["code"] == "checkpoint_damaged"]
    assert f"checkpoint-{_STOP}" in passed_over[0]["message"], passed_over


def _assert_refused(own: Alone, code: str) -> None:
    outcome = own.carry_out()
    assert outcome.error is not None, outcome
    assert outcome.error.code == code, outcome.error


def _damage(chance: random.Random, file: Path) -> None:
    chance.choice([_empty, _halve, _flip, Path.unlink])(file)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
