"""How a job ends whose training process dies, or is refused memory. A small script trains."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from subprocess import PIPE

import pytest

from jobs.states import State
from jobs.store import attempts, events, jobs
from tests.worker.groups import limited_group, wait_for
from trainer_core.run_directory import read_json
from trainer_core.spec import parse_spec
from worker.attempt import Attempt
from worker.deaths import is_out_of_memory
from worker.group import members_of
from worker.inputs import directory_of, runs_of
from worker.memory import MemoryUse
from worker.spare import Spare

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is told by Linux alone"),
]

NUM_KILLS = int(os.environ.get("NUM_KILLS", "5"))  # of the kernel, one after the other
MB = 1_000_000
STUB = """
import json, os, signal, sys, time
print("ready", flush=True)
run = json.loads(sys.stdin.readline())["run_dir"]
sys.stdout = sys.stderr = open(run + "/log.txt", "a", buffering=1)
micro_batch = json.load(open(run + "/inputs.json"))["micro_batch_size"] or 8

def say(kind, **data):
    line = {"type": kind, "at": "2026-01-01T00:00:00+00:00", "data": data}
    with open(run + "/events.jsonl", "a") as file:
        file.write(json.dumps(line) + "\\n")

def put(name, values):
    with open(f"{run}/.{name}", "w") as file:
        json.dump(values, file)
    os.replace(f"{run}/.{name}", f"{run}/{name}")

def begin():
    spec = json.load(open(run + "/spec.json"))
    spec["training"]["micro_batch_size"] = micro_batch
    resolved = {"spec": spec, "choices": []}
    put("resolved.json", resolved)
    say("phase", phase="training", fraction=0.0)

def end(**outcome):
    put("outcome.json", {"result": "failed", **outcome})

"""
GROW = "held = [bytearray(b'x') * 10_000_000 for _ in range(micro_batch * 4)]\n"  # 320 MB for 8


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"warm_spare": True, "retry_seconds": 0.1})


@pytest.fixture
def attempt(backends, submit, tmp_path, monkeypatch):
    """Carry out the next attempt at a job, with a training process that runs a few lines."""

    def attempt(lines, *, group=None, job=None, settings=None, **resources):
        script = tmp_path / "train.py"
        script.write_text(STUB + textwrap.dedent(lines))
        command = (sys.executable, str(script))
        if group is not None:
            enter = f'echo $$ > {group}/cgroup.procs; exec "$0" "$@"'
            command = ("sh", "-c", enter, *command)
        monkeypatch.setattr("worker.process.COMMAND", command)
        if job is None:
            submit(training={"batch_size": 8}, resources=resources)
        with backends.database.transaction() as tx:
            claimed = wait_for(lambda: attempts.claim(tx, worker="w", lease_seconds=30))
        spare = Spare(backends.settings)
        spare.refill()
        if group is not None:
            member = Path(f"/proc/{spare._waiting.pid}/cgroup")
            wait_for(lambda: group.name in member.read_text())
        service = backends
        if settings is not None:
            changed = backends.settings.model_copy(update=settings)
            service = type(backends)(
                changed, backends.engine, backends.database, backends.storage, backends.redis_url
            )
        assert Attempt(service, claimed, spare, "cpu", lambda: False).carry_out()
        spare.close()
        with backends.database.transaction() as tx:
            return jobs.get(tx, claimed.id, project="default")

    return attempt


def events_of(backends, job):
    with backends.database.transaction() as tx:
        return events.read(tx, job.id, after=0, limit=1000)


def reasons_of(backends, job):
    with backends.database.transaction() as tx:
        return [one.reason for one in attempts.of_job(tx, job.id)]


@pytest.fixture
def small_worker():
    """Skip where this process is larger than a worker is: a child's peak counts as no less."""
    if "torch" in sys.modules:
        pytest.skip("this process has torch, which no worker has; run this file alone")


def test_a_process_that_the_kernel_kills_for_memory_is_named_and_the_worker_goes_on(
    attempt,
):
    """E1: by the counter of the control group, each time; the limit is told as it was."""
    with limited_group(200 * MB) as group:
        for _ in range(NUM_KILLS):
            ended = attempt("begin()\n" + GROW, group=group)
            assert (ended.state, ended.error["code"]) == (State.FAILED, "out_of_memory")
            detail = ended.error["detail"]
            assert detail["device"] == "host"
            assert 199 * MB < detail["limit_bytes"] <= 200 * MB
            # The process's libraries are in the group of whoever read them first.
            # In a process larger than a worker it is only what was seen, ten times a second.
            least = 5 if "torch" in sys.modules else 150
            assert least * MB < detail["peak_bytes"] < 220 * MB
            assert detail["available_bytes"] > 0
            assert "the host's memory ran out" in ended.error["message"]
            assert ended.error["whose"] == "capacity"
            smaller = parse_spec(detail["suggested_spec"])
            assert smaller.training.micro_batch_size == 4
            assert smaller == parse_spec(
                ended.spec | {"training": ended.spec["training"] | {"micro_batch_size": 4}}
            )


def test_a_child_of_the_process_that_the_kernel_kills_is_named_too(attempt):
    """As a data loader's worker: the process itself lives to say that one of its own ended."""
    lines = f"""
    begin()
    if not (child := os.fork()):
        held = [bytearray(b"x") * {10 * MB} for _ in range(100)]
        os._exit(0)
    os.waitpid(child, 0)
    end(error={{"code": "process_died", "message": "a loader was killed", "retryable": True}}
        | {{"whose": "system"}})
    sys.exit(1)
    """
    with limited_group(200 * MB) as group:
        ended = attempt(lines, group=group)
    assert (ended.state, ended.error["code"]) == (State.FAILED, "out_of_memory")


def test_a_kill_by_anybody_else_is_not_taken_for_memory(attempt, backends):
    ended = attempt("begin(); time.sleep(0.3); os.kill(os.getpid(), signal.SIGKILL)")
    assert (ended.state, reasons_of(backends, ended)) == (State.QUEUED, ["process_died"])
    (error,) = [e.data for e in events_of(backends, ended) if e.type == "error"]
    assert "SIGKILL, in attempt 1 of 3" in error["message"]
    assert "nothing says that memory ran out" in error["hint"]
    assert error["detail"]["peak_bytes"] > 5 * MB
    assert error["detail"]["exit_code"] == -9


def test_a_smaller_training_process_is_killed_before_others_and_may_be_tried_again(
    attempt, backends, small_worker
):
    """Such as the worker itself, or a database in the same container."""
    hold = f"held = bytearray(b'x') * {300 * MB}; print('held', flush=True); input()"
    with limited_group(500 * MB) as group:
        enter = f'echo $$ > {group}/cgroup.procs; exec "$0" -c "$1"'
        with subprocess.Popen(
            ["sh", "-c", enter, sys.executable, hold], stdin=PIPE, stdout=PIPE
        ) as other:
            assert other.stdout.readline() == b"held\n"
            ended = attempt("begin()\n" + f"micro_batch = 100\n{GROW}", group=group)
            assert other.poll() is None
            other.communicate(b"\n")
    (error,) = [e.data for e in events_of(backends, ended) if e.type == "error"]
    assert error["code"] == "out_of_memory"
    assert error["detail"]["peak_bytes"] < 250 * MB
    assert ended.state is State.QUEUED


@pytest.mark.parametrize("is_child", [False, True])
def test_a_job_that_holds_more_than_it_may_is_ended(attempt, is_child):
    fork = "child = os.fork()\nif child: os.waitpid(child, 0)\n" if is_child else ""
    began = time.monotonic()
    lines = f"begin()\n{fork}{GROW}time.sleep(60)"
    ended = attempt(lines, settings={"job_memory_bytes": 100 * MB})
    assert time.monotonic() - began < 10
    assert (ended.state, ended.error["code"]) == (State.FAILED, "out_of_memory")
    assert "the job held" in ended.error["message"]
    assert ended.error["detail"]["limit_bytes"] == 100 * MB
    assert ended.error["detail"]["peak_bytes"] > 100 * MB


def test_a_job_of_more_processes_than_it_may_have_is_ended_with_all_of_them(attempt):
    lines = """
    begin()
    for _ in range(20):
        if os.fork() == 0:
            os.setsid()  # where no group's signal finds it
            time.sleep(600)
            os._exit(0)
    print("children", os.getpid())
    time.sleep(600)
    """
    ended = attempt(lines, settings={"job_processes": 8})
    assert (ended.state, ended.error["code"]) == (State.FAILED, "too_many_processes")
    assert ended.error["whose"] == "capacity"
    assert 8 < ended.error["detail"]["num_processes"] <= 21
    (line,) = ended.error["detail"]["last_lines"]
    assert not members_of(int(line.split()[1]))


def test_what_children_share_with_their_parent_is_no_excess(attempt):
    lines = f"""
    begin()
    held = bytearray(b"x") * {60 * MB}
    for _ in range(3):
        if not os.fork():
            time.sleep(60)
    time.sleep(1.5)
    end(error={{"code": "diverged", "message": "as meant"}} | {{"whose": "user"}})
    """
    ended = attempt(lines, settings={"job_memory_bytes": 120 * MB})
    assert ended.error["code"] == "diverged"


def test_a_shrinking_job_goes_on_with_half_the_micro_batch_once(attempt, backends):
    with limited_group(200 * MB) as group:
        waiting = attempt("begin()\n" + GROW, group=group, on_oom="shrink")
        assert (waiting.state, waiting.micro_batch_size) == (State.QUEUED, 4)
        assert waiting.max_attempts == 4  # it counts as none
        assert waiting.spec["training"]["micro_batch_size"] == "auto"
        lines = """
        begin()
        held = bytearray(10_000_000 * micro_batch)
        end(error={"code": "diverged", "message": "as meant"} | {"whose": "user"})
        """
        checkpoint = directory_of(backends, waiting) / "checkpoints" / "checkpoint-5"
        checkpoint.mkdir(parents=True)
        ended = attempt(lines, group=group, job=waiting)
    assert (ended.id, ended.attempt, ended.error["code"]) == (waiting.id, 2, "diverged")
    run = runs_of(backends) / ended.id / "attempt-2"
    assert read_json(run / "inputs.json")["micro_batch_size"] == 4
    assert read_json(run / "spec.json") == waiting.spec
    assert ended.resolved["spec"]["training"]["micro_batch_size"] == 4  # not the first one's
    shrunk = "out_of_memory: goes on with a micro-batch of 4"
    assert reasons_of(backends, ended) == [shrunk, "diverged"]
    told = [e.data.get("reason") for e in events_of(backends, ended) if e.type == "state"]
    assert shrunk in told


def test_a_job_that_shrank_and_still_does_not_fit_fails_with_the_next_smaller_spec(
    attempt, backends
):
    with limited_group(60 * MB) as group:
        waiting = attempt("begin()\n" + GROW, group=group, on_oom="shrink")
        ended = attempt("begin()\n" + GROW, group=group, job=waiting)
    assert (ended.state, ended.attempt) == (State.FAILED, 2)
    suggested = ended.error["detail"]["suggested_spec"]
    assert suggested["training"]["micro_batch_size"] == 2


def test_memory_that_runs_out_before_training_is_not_mended_by_a_smaller_batch(attempt):
    with limited_group(100 * MB) as group:
        ended = attempt(GROW, group=group, on_oom="shrink")
    assert (ended.state, ended.error["code"]) == (State.FAILED, "out_of_memory")
    assert ended.error["detail"]["suggested_spec"] is None


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGTERM"])
def test_any_other_signal_is_named_with_what_to_look_at(attempt, backends, name):
    ended = attempt(
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        f"os.kill(os.getpid(), signal.{name}); time.sleep(5)"
    )
    assert ended.state is State.QUEUED
    (error,) = [e.data for e in events_of(backends, ended) if e.type == "error"]
    assert (error["code"], error["detail"]["exit_code"]) == ("process_died", -signal.Signals[name])
    assert name in error["message"]
    assert error["hint"]


def test_a_signal_without_a_name_is_told_by_its_number(attempt, backends):
    ended = attempt("os.kill(os.getpid(), signal.SIGRTMIN + 3); time.sleep(5)")
    (error,) = [e.data for e in events_of(backends, ended) if e.type == "error"]
    assert f"signal {signal.SIGRTMIN + 3}" in error["message"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("sys.exit(0)", "exit code 0 without saying how it went"),
        (
            "put('outcome.json', {'result': 'succeeded'})",
            "its model is incomplete",
        ),
    ],
)
def test_an_exit_code_of_zero_alone_is_no_success(attempt, backends, lines, words):
    """E3."""
    ended = attempt(lines)
    assert ended.state is State.QUEUED
    (error,) = [e.data for e in events_of(backends, ended) if e.type == "error"]
    assert error["code"] == "process_died"
    assert words in error["message"]


def test_a_training_process_leaves_no_core_and_is_the_kernel_s_first_choice(attempt, backends):
    lines = """
    import resource
    child = [open("/proc/self/oom_score_adj").read().strip(), *resource.getrlimit(4)]
    print(json.dumps(child))
    """
    ended = attempt(lines)
    log = (runs_of(backends) / ended.id / "attempt-1" / "log.txt").read_text()
    assert json.loads(log.splitlines()[0]) == ["1000", 0, 0]
    assert Path("/proc/self/oom_score_adj").read_text().strip() != "1000"


@pytest.mark.parametrize(
    ("code", "line", "num_oom_kills", "is_memory"),
    [
        (-signal.SIGKILL, "", 1, True),
        (-signal.SIGKILL, "", 0, False),
        (-signal.SIGSEGV, "", 1, False),  # the kernel killed somebody else
        (-signal.SIGABRT, "terminate called ... what():  std::bad_alloc", 0, True),
        (-signal.SIGABRT, "free(): invalid pointer", 0, False),
        (1, "DataLoader worker is killed by signal: Killed.", 1, True),
        (0, "", 1, False),
    ],
)
def test_memory_is_named_by_evidence_alone(code, line, num_oom_kills, is_memory):
    use = MemoryUse(10 * MB, 10 * MB, 100 * MB, None, num_oom_kills, is_over_limit=False)
    assert is_out_of_memory(code=code, last_lines=[line], use=use) is is_memory
