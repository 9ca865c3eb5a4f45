"""What is read of the kernel's files: this machine's, and both forms of control groups."""

import os
import subprocess
import sys
import time

import pytest

from trainer_core import memory
from worker.group import members_of

needs_proc = pytest.mark.skipif(not memory.PROC.is_dir(), reason="there is no /proc")
HOLDER = """
import os, time
held = bytearray(b"x") * 80_000_000
{more}
os.write(1, b"held\\n")
time.sleep(60)
"""
MIB = 1 << 20


@pytest.fixture
def start():
    processes = []

    def start(code):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
        )
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in processes:
        os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Stand in for /proc and /sys/fs/cgroup."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


@needs_proc
def test_what_a_process_holds_is_seen(start):
    process = start(HOLDER.format(more=""))
    assert [one.pid for one in members_of(process.pid)] == [process.pid]
    held = memory.held_bytes([process.pid])
    assert 80_000_000 < held < 80_000_000 + 60 * MIB


@needs_proc
def test_memory_shared_after_a_fork_is_counted_once(start):
    process = start(HOLDER.format(more="os.fork()"))
    deadline = time.monotonic() + 5
    while len(members := [one.pid for one in members_of(process.pid)]) < 2:
        assert time.monotonic() < deadline
    assert memory.held_bytes(members) > 160_000_000
    assert 80_000_000 < memory.held_together_bytes(members) < 150_000_000


def test_a_process_that_is_gone_holds_nothing():
    assert memory.held_bytes([2**30]) == 0
    assert memory.held_together_bytes([2**30]) == 0


def test_the_second_form_s_limits_and_kills_are_read(files):
    files("proc/self/cgroup", "0::/pod/container\n")
    files("cgroup/pod/container/memory.max", "max\n")
    files("cgroup/pod/container/memory.events", "low 0\noom 3\noom_kill 2\n")
    files("cgroup/pod/memory.max", f"{100 * MIB}\n")
    assert memory.limit_bytes() == 100 * MIB
    assert memory.num_oom_kills(memory.oom_counter()) == 2


def test_the_first_form_s_limits_and_kills_are_read(files):
    files("proc/7/cgroup", "9:cpu:/\n4:memory:/docker/abc\n0::/\n")
    # Within the container the host's path is not there: its own group is the root.
    files("cgroup/memory/memory.limit_in_bytes", f"{64 * MIB}\n")
    files("cgroup/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert memory.limit_bytes(7) == 64 * MIB
    assert memory.num_oom_kills(memory.oom_counter(7)) == 1
    files("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert memory.limit_bytes(7) == memory.total_bytes()


def test_without_control_groups_the_machine_counts(files):
    files("proc/vmstat", "nr_free_pages 1\noom_kill 5\n")
    assert memory.num_oom_kills(memory.oom_counter()) == 5
    files("proc/vmstat", "nr_free_pages 1\n")
    assert memory.oom_counter() is None
    assert memory.num_oom_kills(None) == 0
    assert memory.available_bytes() is None


@pytest.mark.parametrize(
    ("num_bytes", "words"), [(3 * MIB, "3 MiB"), (1536 * MIB, "1.5 GiB"), (80 << 30, "80.0 GiB")]
)
def test_bytes_are_shown_as_people_read_them(num_bytes, words):
    assert memory.shown(num_bytes) == words
