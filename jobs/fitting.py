"""Which workers a job fits, as far as estimates can tell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from jobs.records import Worker, WorkerDevice
from trainer_core.errors import NothingFits, TypedError
from trainer_core.inspection import Estimate, Target
from trainer_core.memory import limit_bytes, shown
from trainer_core.spec import JobSpec
from trainer_core.spec.estimating import least_bytes

_MAX_TARGETS = 4  # kinds of devices for which a job is looked at


class Verdict(StrEnum):
    """Whether a job fits a worker."""

    FITS = "fits"
    MAY_FIT = "may_fit"  # less memory than is expected to be needed, more than the low estimate
    TOO_SMALL = "too_small"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a job fits a worker, by the best of its devices."""

    worker: str
    device: str | None
    verdict: Verdict


def targets_of(spec: JobSpec, present: Sequence[Worker]) -> tuple[Target, ...]:
    """Return the kinds of devices that are there; without a worker, a CPU as this machine's."""
    there = {
        _target(device): None
        for worker in present
        for device in worker.devices
        if memory_of(device, spec)
    }
    return tuple(there)[:_MAX_TARGETS] or (Target("cpu", "this machine", limit_bytes()),)


def fit(worker: Worker, spec: JobSpec, estimates: Sequence[Estimate]) -> Fit:
    """Return the best that a device of a worker can do for a job."""
    by_target = {estimate.target: estimate for estimate in estimates}
    best = Fit(worker.name, None, Verdict.TOO_SMALL)
    for device in worker.devices:
        if not (has := memory_of(device, spec)):
            continue
        verdict = _verdict(by_target.get(_target(device)), spec, has=has)
        if best.device is None or _RANKS.index(verdict) < _RANKS.index(best.verdict):
            best = Fit(worker.name, device.name, verdict)
    return best


def refusal(fits: Sequence[Fit], estimates: Sequence[Estimate]) -> TypedError | None:
    """Return why no worker that is there can take a job, or None."""
    if not fits or any(one.verdict is not Verdict.TOO_SMALL for one in fits):
        return None
    least = min((one.memory.low for one in estimates if one.memory is not None), default=None)
    errors = [one.error for one in estimates if one.error is not None]
    if least is None and errors:
        return errors[0]
    what = "another device" if least is None else f"about {shown(least)} of memory at the least"
    return NothingFits(
        f"the job needs {what}, and none of the workers that are there ({len(fits)}) has that.",
        hint="Lower max_length or training.micro_batch_size, train an adapter, choose a smaller "
        "model, or start a larger worker.",
        detail={"least_bytes": least},
    ).to_typed()


def check_capacity(spec: JobSpec, *, num_weights: int | None, workers: Sequence[Worker]) -> None:
    """Raise NothingFits where no worker that is there has a GPU that the job asks for.

    The same where each of them is smaller than the weights' own state.
    """
    devices = [device for worker in workers for device in worker.devices]
    if devices and spec.resources.num_gpus and all(device.kind == "cpu" for device in devices):
        raise NothingFits(
            f"the job asks for GPUs, and none of the {len(workers)} workers there has one.",
            hint="Set resources.gpus to 'auto' or 0, or start a worker that has GPUs.",
            param="/resources/gpus",
            detail={"num_workers": len(workers)},
        )
    if num_weights is None or not devices or spec.resources.parallel.strategy != "ddp":
        return
    largest = max(memory_of(device, spec) for device in devices)
    least = least_bytes(spec, num_weights=num_weights)
    if least > largest:
        raise NothingFits(
            f"the job needs {shown(least)} of memory at the least, for {num_weights:,} weights and "
            f"what is kept of each; the largest device of {len(workers)} workers has "
            f"{shown(round(largest)) if largest else 'none for it'}.",
            hint="Train an adapter, choose a smaller model, or start a larger worker.",
            param="/model",
            detail={"least_bytes": least, "largest_bytes": largest, "num_workers": len(workers)},
        )


def memory_of(device: WorkerDevice, spec: JobSpec) -> float:
    """Return the memory that a device has for a job: 0 if it is of the wrong kind."""
    gpus = spec.resources.gpus
    is_wanted = gpus == "auto" or (gpus == 0) == (device.kind == "cpu")
    if not is_wanted:
        return 0
    return math.inf if device.memory_bytes is None else device.memory_bytes


_RANKS = list(Verdict)


def _target(device: WorkerDevice) -> Target:
    return Target(
        device.kind,
        device.model,
        device.memory_bytes,
        has_fast_bf16=device.has_fast_bf16,
        num_threads=device.num_threads,
    )


def _verdict(estimate: Estimate | None, spec: JobSpec, *, has: float) -> Verdict:
    if estimate is None:
        return Verdict.UNKNOWN
    if estimate.memory is None:
        return Verdict.TOO_SMALL
    if estimate.memory.expected <= has:
        return Verdict.FITS
    # What several devices share out, each needs a part of only.
    is_shared_out = spec.resources.parallel.strategy != "ddp"
    return Verdict.MAY_FIT if is_shared_out or estimate.memory.low <= has else Verdict.TOO_SMALL
