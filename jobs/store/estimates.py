"""When queued jobs may start, as far as anyone can tell."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import (
    CompoundSelect,
    Float,
    Text,
    and_,
    bindparam,
    case,
    cast,
    extract,
    func,
    literal,
    null,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY

from jobs.records import Job
from jobs.states import LEASED, State
from jobs.store import turns
from jobs.tables import attempts, jobs
from jobs.transaction import Transaction

MAX_POSITION = 1000  # counting costs as much as there is ahead
NEAR_POSITION = 100  # as far as a submission looks, which is to be quick however long the queue
_NUM_RECENT = 50  # ended jobs by which the next ones are judged


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job is in the queue; of one that is not queued, nothing is known."""

    position: int | None = None  # from 1; None too for a place behind the first MAX_POSITION
    start_estimate_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Slots:
    """What the slots of all workers are busy with, and how long a job takes; seconds."""

    left: tuple[float | None, ...]  # of each running job; None for not known
    usual: float | None  # of a whole job; None where none has ended yet

    def wait(self, position: int) -> float | None:
        """Return after how long the job at a place in the queue starts; None for not known.

        A job waits, so each slot is taken for busy; where none is, no worker may be there.
        """
        known = [left for left in self.left if left is not None]
        if not known or len(known) < len(self.left) or (position > 1 and self.usual is None):
            return None
        heapq.heapify(known)
        for _ in range(position - 1):
            heapq.heapreplace(known, known[0] + (self.usual or 0.0))
        return known[0]


def places(tx: Transaction, found: Sequence[Job], *, most: int = MAX_POSITION) -> dict[str, Place]:
    """Return the place of each of these jobs, asked in one statement.

    Args:
        tx: the transaction.
        found: the jobs.
        most: the last place that is told.
    """
    known = {job.id: Place() for job in found}
    queued = [job.id for job in found if job.state is State.QUEUED]
    if not queued:
        return known
    rows = tx.connection.execute(_OUTLOOK, {"ids": queued, "most": most}).all()
    durations = [one for kind, _, one, _ in rows if kind == "ended" and one is not None]
    usual = median(durations) if durations else None
    slots = Slots(
        tuple(_left(eta, taken, usual) for kind, _, eta, taken in rows if kind == "running"), usual
    )
    pauses = {job_id: one for kind, job_id, one, _ in rows if kind == "pausing"}
    for kind, job_id, one, _ in rows:
        if kind == "place":
            wait = slots.wait(int(one))
            starts = None if wait is None else max(wait, pauses.get(job_id, 0.0))
            known[job_id] = Place(int(one), starts)
    return known


def _left(eta: float | None, taken: float, usual: float | None) -> float | None:
    """Return how long a running job still takes: as it says itself, else as others did."""
    if eta is not None:
        return eta
    return None if usual is None else max(0.0, usual - taken)


def _seconds(interval: Any) -> Any:
    return cast(extract("epoch", interval), Float)


def _make_outlook() -> CompoundSelect[Any]:
    """Return what `places` asks, in one statement: rows of a kind, an id and two figures."""
    now = func.now()
    eta = cast(jobs.c.progress["eta_seconds"].astext, Float)
    left = func.greatest(eta - _seconds(now - jobs.c.updated_at), 0.0)
    running = (
        select(
            literal("running"),
            jobs.c.id,
            case((jobs.c.phase == "training", left)),
            _seconds(now - attempts.c.started_at),
        )
        .join(
            attempts,
            and_(attempts.c.job_id == jobs.c.id, attempts.c.number == jobs.c.attempt),
        )
        .where(jobs.c.state.in_(LEASED))
    )
    none = cast(null(), Float)
    duration = _seconds(jobs.c.finished_at - jobs.c.started_at)
    ended = (
        select(literal("ended"), jobs.c.id, duration, none)
        .where(jobs.c.finished_at.is_not(None), jobs.c.started_at.is_not(None))
        .order_by(jobs.c.finished_at.desc())
        .limit(_NUM_RECENT)
        .subquery()
    )
    pausing = select(literal("pausing"), jobs.c.id, _seconds(jobs.c.queued_at - now), none).where(
        jobs.c.id == func.any(bindparam("ids", type_=ARRAY(Text))), jobs.c.queued_at > now
    )
    placed = turns.POSITIONS.subquery()
    place = select(literal("place"), placed.c.id, placed.c.place, none)
    return union_all(running, select(ended), pausing, place)


_OUTLOOK = _make_outlook()
