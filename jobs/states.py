"""The states of a job and the legal moves between them.

This is the one table; the updates in `jobs/store/` take their WHERE clauses from it.

    queued ──> running ──> succeeded
      ^ |        | | └───> failed
      | |        | └─────> cancelling ──> cancelled
      | |        └───────> pausing ──> paused ──> queued | cancelled
      | └──> paused | cancelled
      └── running    (lease lost, or the worker drained)

A job that is pausing never goes back to the queue by itself: whatever ends its attempt, and is no
end of the job, leaves it paused.
"""

from enum import StrEnum


class State(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    """Accepted, waiting for a worker."""
    RUNNING = "running"
    """A worker holds its lease."""
    PAUSING = "pausing"
    """Running, asked to save and let go."""
    PAUSED = "paused"
    """Saved and off the device, until resumed."""
    CANCELLING = "cancelling"
    """Running, asked to end."""
    SUCCEEDED = "succeeded"
    """Its model is stored and verified. Final."""
    FAILED = "failed"
    """Ended by an error, which it keeps. Final."""
    CANCELLED = "cancelled"
    """Ended by request. Final."""


class SweepState(StrEnum):
    """Where a sweep is."""

    RUNNING = "running"
    """Trials are being run, or are still to be."""
    SUCCEEDED = "succeeded"
    """All trials have ended, at least one of them well. Final."""
    FAILED = "failed"
    """All trials have ended, none of them well. Final."""
    CANCELLED = "cancelled"
    """Ended by request. Final."""


class TrialState(StrEnum):
    """What has become of a trial of a sweep."""

    RUNNING = "running"
    """Its job has not ended."""
    SUCCEEDED = "succeeded"
    """Its job has, with a value."""
    FAILED = "failed"
    """Its job failed, or has no value."""
    PRUNED = "pruned"
    """The sweep has cancelled its job, which was worse than the others."""
    CANCELLED = "cancelled"
    """Somebody has cancelled its job."""


TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.PAUSED, State.CANCELLED}),
    State.RUNNING: frozenset(
        {State.SUCCEEDED, State.FAILED, State.QUEUED, State.PAUSING, State.CANCELLING}
    ),
    State.PAUSING: frozenset(
        # It may end by itself before it gets to pause.
        {State.PAUSED, State.SUCCEEDED, State.FAILED, State.CANCELLING}
    ),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.CANCELLING: frozenset({State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}

FINAL = frozenset(state for state, targets in TRANSITIONS.items() if not targets)
LEASED = frozenset({State.RUNNING, State.PAUSING, State.CANCELLING})
"""The states in which a worker holds the job."""


def sources_of(target: State) -> frozenset[State]:
    """Return the states from which a job may move to `target`."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)
