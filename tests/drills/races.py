"""Groups B and K: everything that may be done to a job, at once, on connections of their own."""

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as some
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import NullPool, create_engine, make_url, text

from api.sweeping import sweep
from jobs.backends import Backends, connect
from jobs.database import migrate
from jobs.states import State
from jobs.store import artifacts, attempts, events, jobs
from jobs.store.events import LeaseLost, NewEvent
from jobs.transaction import Database
from tests.drills import invariants
from tests.drills.plan import Counted, Drill
from tests.drills.site import Site
from tests.drills.work import Work, spec_of
from tests.stored import DATASET, keep_dataset
from trainer_core.errors import IllegalTransition
from trainer_core.events import EventType
from trainer_core.spec import JobSpec, parse_spec

_NUM_CONNECTIONS = 8
_NUM_JOBS = 3
_NUM_STEPS = 500  # of a trial, at the least
_NUM_STALLED = 50  # jobs of K11, a trial
_NUM_SWEEPERS = 5
_PROJECT = "default"
_EXPIRE = text("UPDATE jobs SET lease_until = now() - interval '1 s' WHERE lease_until IS NOT NULL")


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill(
            "K11", "no sweeper, then five at once", "each job requeued once", trials.k11,
            1000, unit="jobs", per_trial=_NUM_STALLED,
        ),
        Drill(
            "B11", "8 connections claim, cancel, finish, expire ...", "legal moves only",
            trials.b11, 10_000, unit="steps", per_trial=_NUM_STEPS,
        ),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def k11(self, site: Site, _: random.Random) -> Counted:
        site.kill_workers()
        site.apis.pop().kill_group()  # the sweeper with it
        database = site.backends.database
        spec = parse_spec(spec_of(self._work.dataset))
        with database.transaction() as tx:
            found = [_create(tx, spec) for _ in range(_NUM_STALLED)]
        for _job in found:
            with database.transaction() as tx:
                attempts.claim(tx, worker="drill", lease_seconds=60)
        with site.backends.engine.begin() as connection:
            connection.execute(_EXPIRE)
        with ThreadPoolExecutor(_NUM_SWEEPERS) as pool:
            list(pool.map(lambda _: sweep(site.backends), range(_NUM_SWEEPERS)))
        site.start_api()
        for job_id in found:
            with database.transaction() as tx:
                told = events.read(tx, job_id, after=0, limit=100)
                jobs.cancel(tx, job_id, project=_PROJECT)
            moves = [event.data["state"] for event in told if event.type == "state"]
            assert moves == ["queued", "running", "queued"], moves
        return Counted(_NUM_STALLED)

    def b11(self, site: Site, chance: random.Random) -> Counted:
        backends = _own_database(site)
        spec = parse_spec(spec_of(DATASET))
        num_steps = 0
        try:
            with ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
                while num_steps < _NUM_STEPS:
                    Race.arena = _Arena(backends, spec, pool)
                    seeded = seed(chance.randrange(2**32))(Race)
                    run_state_machine_as_test(seeded, settings=_SETTINGS)
                    assert not Race.arena.broken, Race.arena.broken
                    num_steps += Race.arena.num_steps
        finally:
            backends.engine.dispose()
        return Counted(num_steps)


_SETTINGS = settings(
    max_examples=10,
    stateful_step_count=12,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass(slots=True)
class _Arena:
    """Where the machine races."""

    backends: Backends
    spec: JobSpec
    pool: ThreadPoolExecutor
    num_steps: int = 0
    broken: list[str] = field(default_factory=list)
    """What was found; not raised at once, since Hypothesis would race again and see nothing."""


_Action = tuple[str, int, int]  # what, to which job, by which of its claims


class Race(RuleBasedStateMachine):
    """Jobs in one database, and up to eight things done to them at the same time."""

    arena: ClassVar[_Arena]

    @initialize()
    def submit(self) -> None:
        self.claims: dict[str, list[int]] = {}  # every attempt that there ever was
        self.ends: Counter[tuple[str, int]] = Counter()
        with self._database.transaction() as tx:
            tx.connection.exec_driver_sql("TRUNCATE jobs CASCADE")
            self.jobs = [_create(tx, self.arena.spec) for _ in range(_NUM_JOBS)]

    @rule(
        actions=some.lists(
            some.tuples(
                some.sampled_from(
                    ["claim", "claim", "cancel", "keep", "pause", "resume", "renew", "say",
                     "succeed", "fail", "release", "expire"]
                ),
                some.integers(0, _NUM_JOBS - 1),
                some.integers(0, 3),
            ),
            min_size=_NUM_CONNECTIONS // 2,
            max_size=_NUM_CONNECTIONS,
        )
    )  # fmt: skip
    def race(self, actions: list[_Action]) -> None:
        list(self.arena.pool.map(self._do, actions))
        self.arena.num_steps += len(actions)

    @invariant()
    def nothing_is_broken(self) -> None:
        self.arena.broken += invariants.in_database(self.arena.backends.engine)
        doubled = [attempt for attempt, count in self.ends.items() if count > 1]
        self.arena.broken += [f"attempt {number} of {job} ended twice" for job, number in doubled]

    @property
    def _database(self) -> Database:
        return self.arena.backends.database

    def _do(self, action: _Action) -> None:
        what, job, claim = action
        job_id = self.jobs[job]
        known = self.claims.get(job_id) or [1]
        attempt = known[claim % len(known)]  # it may have been overtaken long ago
        if what == "expire":
            with self._database.transaction() as tx:
                tx.connection.execute(_EXPIRE)
            sweep(self.arena.backends)
            return
        try:
            with self._database.transaction() as tx:
                _ACTIONS[what](self, tx, job_id, attempt)
        except (LeaseLost, IllegalTransition):
            return
        if what in _TARGETS:
            self.ends[job_id, attempt] += 1

    def claim(self, tx: Any, _job: str, _attempt: int) -> None:
        if (claimed := attempts.claim(tx, worker="racer", lease_seconds=60)) is not None:
            self.claims.setdefault(claimed.id, []).append(claimed.attempt)


def _end(target: State) -> Callable[[Race, Any, str, int], None]:
    def end(_: Race, tx: Any, job_id: str, attempt: int) -> None:
        # As a worker does: what it has to say first, then the move, or neither.
        events.append(tx, job_id, [_said()], attempt=attempt)
        if target is State.SUCCEEDED:
            key = f"{job_id}/{attempt}"
            file = {"path": "manifest.json", "key": key, "size_bytes": 1, "sha256": "0" * 64}
            artifacts.add(tx, job_id, [file])
        attempts.end(tx, job_id, target, attempt=attempt, reason="raced")

    return end


def _said() -> NewEvent:
    return NewEvent(EventType.LOG, {"message": "raced", "fields": {}})


_TARGETS = {"fail": State.FAILED, "release": State.QUEUED, "succeed": State.SUCCEEDED}
_ACTIONS: dict[str, Callable[[Race, Any, str, int], Any]] = {
    "claim": Race.claim,
    "cancel": lambda _, tx, job, __: jobs.cancel(tx, job, project=_PROJECT),
    "keep": lambda _, tx, job, __: jobs.cancel(tx, job, project=_PROJECT, keep=True),
    "pause": lambda _, tx, job, __: jobs.pause(tx, job, project=_PROJECT),
    "resume": lambda _, tx, job, __: jobs.resume(tx, job, project=_PROJECT),
    "renew": lambda _, tx, job, a: attempts.renew(tx, job, attempt=a, lease_seconds=60),
    "say": lambda _, tx, job, a: events.append(tx, job, [_said()], attempt=a),
    **{name: _end(target) for name, target in _TARGETS.items()},
}


def _create(tx: Any, spec: JobSpec) -> str:
    return jobs.create(tx, spec, max_attempts=4, project=_PROJECT).id


def _own_database(site: Site) -> Backends:
    """Return the backends of a service of its own, of which only the database is used."""
    name = "races"
    url = make_url(str(site.settings.database_url)).set(database=name)
    shown = url.render_as_string(hide_password=False)
    is_new = _create_database(site, name)
    if is_new:
        migrate(shown)
    backends = connect(site.settings.model_copy(update={"database_url": shown}))
    silent = Database(backends.engine, publish=lambda _: None, ring=lambda _: None)
    if is_new:
        with silent.transaction() as tx:
            keep_dataset(tx)
    return replace(backends, database=silent)


def _create_database(site: Site, name: str) -> bool:
    """Create a database unless it is there; return whether it was not."""
    engine = create_engine(
        str(site.settings.database_url), isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    with engine.connect() as connection:
        query = text("SELECT 1 FROM pg_database WHERE datname = :name")
        if connection.execute(query, {"name": name}).one_or_none() is not None:
            return False
        connection.execute(text(f"CREATE DATABASE {name}"))
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
        return True
