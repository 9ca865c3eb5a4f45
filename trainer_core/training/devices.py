"""What the run computes on, as the worker or the spec chose."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer_core.errors import UnusableModel
from trainer_core.run_directory import Inputs
from trainer_core.spec import JobSpec
from trainer_core.spec.resolving import DeviceKind

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Device:
    """The device of a run."""

    kind: DeviceKind
    name: str
    memory_bytes: int | None
    has_fast_bf16: bool


def choose_device(inputs: Inputs, spec: JobSpec) -> Device:
    """Return the device to train on, after making it the only one that torch sees."""
    wanted = "cpu" if spec.resources.gpus == 0 else inputs.device
    if wanted and wanted.startswith("cuda:"):
        _show_only(wanted.removeprefix("cuda:"))
    if wanted != "cpu" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Device(
            kind="cuda",
            name=properties.name,
            memory_bytes=properties.total_memory,
            has_fast_bf16=torch.cuda.is_bf16_supported(including_emulation=False),
        )
    if wanted in ("mps", None) and torch.backends.mps.is_available():
        return Device(kind="mps", name="mps", memory_bytes=None, has_fast_bf16=False)
    if wanted not in ("cpu", None):
        raise UnusableModel(
            f"the device '{wanted}' is not there.", hint="Set resources.gpus to 0 for the CPU."
        )
    return Device(kind="cpu", name="cpu", memory_bytes=_host_memory_bytes(), has_fast_bf16=False)


def _show_only(number: str) -> None:
    """Hide all other GPUs: the Trainer would spread over every one that it sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else []
    os.environ["CUDA_VISIBLE_DEVICES"] = names[int(number)] if names else number


def _host_memory_bytes() -> int:
    """Return the memory of the machine or the container, whichever is less.

    What is free at the moment would make the same job choose differently each time.
    """
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _CGROUP_LIMITS:
        if path.exists() and (text := path.read_text().strip()).isdecimal():
            total = min(total, int(text))
    return total
