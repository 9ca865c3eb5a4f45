"""Who belongs to a process, wherever it went, and that all of them are gone after the kill."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from worker.group import is_group_gone, kill, left_of, members_of, resident_bytes
from worker.process import TrainingProcess
from worker.receipts import Asked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FAMILY = """
import subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
in_the_group = subprocess.Popen(sleep)
in_the_session = subprocess.Popen(sleep, process_group=0)
on_its_own = subprocess.Popen(sleep, start_new_session=True)
print(in_the_group.pid, in_the_session.pid, on_its_own.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def family():
    """A process with three children, two of which have left its group."""
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as leader:
        children = [int(pid) for pid in leader.stdout.readline().split()]
        yield leader, children
        kill(members_of(leader.pid))


def test_those_who_left_the_group_are_found_and_killed(family):
    leader, children = family
    members = members_of(leader.pid)
    assert {one.pid for one in members} == {leader.pid, *children}
    assert resident_bytes(members) > 4 * 1_000_000
    assert not is_group_gone(leader.pid)
    kill(members)
    leader.wait()
    deadline = time.monotonic() + 10
    while left_of(members):
        assert time.monotonic() < deadline
    assert is_group_gone(leader.pid)
    assert members_of(leader.pid) == []


def test_this_process_belongs_to_no_child(family):
    leader, _ = family
    assert os.getpid() not in {one.pid for one in members_of(leader.pid)}


def test_a_number_that_another_process_has_by_now_is_left_alone(family):
    leader, _ = family
    (member,) = [one for one in members_of(leader.pid) if one.pid == leader.pid]
    stranger = replace(member, started=member.started - 1)
    assert left_of([stranger]) == []
    kill([stranger])
    time.sleep(0.2)
    assert leader.poll() is None


def test_the_receipt_of_a_process_that_is_killed(tmp_path):
    process = TrainingProcess(log=tmp_path / "log.txt", num_threads=1)
    time.sleep(0.5)
    asked = Asked(process)
    receipt = asked.receipt(process.kill())
    assert receipt.process_gone
    assert (receipt.exit_code, receipt.signal) == (None, "SIGKILL")
    assert receipt.memory_before_bytes > 1_000_000
    assert receipt.memory_after_bytes == 0
    assert 0 < receipt.seconds_to_stop < 10
