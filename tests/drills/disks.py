"""Group C, disks: full, failing, without power; and kills while files are removed."""

import random
import re
import signal
from pathlib import Path

from tests.drills.alone import Alone, alone, end, obstacle_to_tracing
from tests.drills.plan import ALL, Counted, Drill, Exhausted
from tests.drills.site import Site
from tests.drills.work import Work
from trainer_core.run_directory import checkpoints_in, verified_manifest

_KEEP_ONE = {"checkpoints": {"strategy": "steps", "steps": 6, "keep": 1}}
_WRITING = "write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink"
_REMOVING = ("rename", "unlink", "unlinkat", "rmdir")
_PATH = re.compile(r"<(/[^>]*)>")
_QUOTED = re.compile(r'"([^"]*)"')


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    obstacle = obstacle_to_tracing()
    return [
        Drill(
            "C5", "disk full at each write of one save", "disk_full, the old one whole", trials.c5,
            ALL, unit="writes", obstacle=obstacle,
        ),
        Drill(
            "C6", "sync fails", "save failed, the old one whole", trials.c6, 20, obstacle=obstacle
        ),
        Drill(
            "C7", "power lost, by the order of calls", "synced before renamed", trials.c7,
            50, unit="files", per_trial=50, obstacle=obstacle,
        ),
        Drill(
            "C8", "killed at each removal, keep=1", "one is always whole", trials.c8,
            ALL, unit="calls", obstacle=obstacle,
        ),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._writes: list[int] | None = None  # at which C5 still has to fail
        self._num_syncs = 0
        self._removals: list[tuple[str, int]] | None = None  # at which C8 still has to kill

    def c5(self, site: Site, chance: random.Random) -> None:
        with alone(site, self._work) as own:
            if self._writes is None:
                lines = own.calls("write,mkdir")
                begin = next(n for n, line in enumerate(lines) if ".partial-checkpoint-18" in line)
                last = max(n for n, line in enumerate(lines) if ".partial-checkpoint-18/" in line)
                before = sum(line.startswith("write(") for line in lines[:begin])
                within = sum(line.startswith("write(") for line in lines[begin : last + 1])
                self._writes = list(range(before + 1, before + within + 1))
            if not self._writes:
                raise Exhausted
            number = self._writes.pop(chance.randrange(len(self._writes)))
            outcome = own.carry_out(strace=f"inject=write:error=ENOSPC:when={number}")
            assert outcome.error is not None, f"it did not mind that write {number} failed"
            assert outcome.error.code == "disk_full", outcome.error
            _assert_old_ones_are_whole(own)
            own.assert_resumes()

    def c6(self, site: Site, chance: random.Random) -> None:
        with alone(site, self._work) as own:
            if not self._num_syncs:
                self._num_syncs = len(own.calls("fsync"))
            number = chance.randint(1, self._num_syncs)
            code = end(own.start(strace=f"inject=fsync:error=EIO:when={number}"))
            outcome = own.run.read_outcome()
            if outcome is None:  # it could not even say so
                assert code != 0, "it ended as if all were well"
            else:
                assert outcome.error is not None, f"it did not mind that sync {number} failed"
                assert outcome.error.code == "service_unavailable", outcome.error
            _assert_old_ones_are_whole(own)
            own.assert_resumes()

    def c7(self, site: Site, _: random.Random) -> Counted:
        with alone(site, self._work) as own:
            process = own.start(strace=f"trace={_WRITING}")
            assert end(process) == 0
            lines = own.told.read_text("utf-8", errors="replace").splitlines()
        return Counted(_assert_synced_before_renamed(lines))

    def c8(self, site: Site, chance: random.Random) -> None:
        with alone(site, self._work, **_KEEP_ONE) as own:
            if self._removals is None:
                self._removals = _removals_of_one_rotation(own)
                chance.shuffle(self._removals)
            if not self._removals:
                raise Exhausted
            name, number = self._removals.pop()
            process = own.start(strace=f"inject={name}:signal=SIGKILL:when={number}")
            assert end(process) == -signal.SIGKILL, f"it outlived {name} number {number}"
            whole = [one for one in checkpoints_in(own.run.checkpoints) if verified_manifest(one)]
            assert whole, "no checkpoint is whole"
            own.assert_resumes()


def _assert_old_ones_are_whole(own: Alone) -> None:
    """Check that what is there under its name is whole, and that nothing half-made is left."""
    for one in checkpoints_in(own.run.checkpoints):
        assert verified_manifest(one) is not None, f"{one.name} is not whole"
    left = [path.name for path in own.run.checkpoints.glob(".*")]
    assert not left, f"left behind: {left}"


def _removals_of_one_rotation(own: Alone) -> list[tuple[str, int]]:
    """Return the calls that put a checkpoint in its place and remove the one before.

    Each as strace counts it: its name, and which of that name in the whole run.
    """
    lines = own.calls(",".join(_REMOVING))
    names = [line.partition("(")[0] for line in lines]
    begin = next(n for n, line in enumerate(lines) if ".partial-checkpoint-18" in line)
    last = max(n for n, line in enumerate(lines) if ".discarded-checkpoint-12" in line)
    return [(names[n], names[: n + 1].count(names[n])) for n in range(begin, last + 1)]


def _assert_synced_before_renamed(lines: list[str]) -> int:
    """Check that no directory got its name before all in it was synced; return how many files.

    Args:
        lines: of strace, with the paths of descriptors.
    """
    is_synced: dict[str, bool] = {}  # of everything that was written or synced
    num_files = 0
    for line in lines:
        if "(" not in line or "resumed>" in line:
            continue
        name = line.split(None, 1)[1].partition("(")[0]
        quoted = _QUOTED.findall(line)
        if name.startswith("rename"):
            source, target = quoted[:2]
            if Path(source).name.startswith(".partial-") and "/cache/" not in source:
                num_files += _num_synced(is_synced, source)  # of the cache only time is lost
            is_synced = {_moved(path, source, target): done for path, done in is_synced.items()}
        elif name == "unlink":
            is_synced.pop(quoted[0], None)
        elif found := _PATH.search(line):
            is_synced[found[1]] = name in ("fsync", "fdatasync")
    assert num_files, "nothing was renamed"
    return num_files


def _num_synced(is_synced: dict[str, bool], folder: str) -> int:
    inside = {path: done for path, done in is_synced.items() if path.startswith(f"{folder}/")}
    unsynced = sorted(path for path, done in inside.items() if not done)
    assert not unsynced, f"{folder} was renamed before {unsynced} were synced"
    assert inside, f"nothing in {folder} was synced"
    assert is_synced.get(folder), f"{folder} was renamed before the names in it were synced"
    return len(inside)


def _moved(path: str, source: str, target: str) -> str:
    is_inside = path == source or path.startswith(f"{source}/")
    return target + path.removeprefix(source) if is_inside else path
