"""What the run computes on, as the worker or the spec chose."""

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer_core.errors import CapacityError, InvalidSetting
from trainer_core.memory import limit_bytes
from trainer_core.run_directory import Inputs
from trainer_core.spec import JobSpec
from trainer_core.spec.estimating import DeviceKind
from trainer_core.training.process.processes import num_processes

_DEVICE = re.compile(r"cpu|mps|cuda(:(?P<number>\d{1,3}))?")


@dataclass(frozen=True, slots=True)
class Device:
    """The device of a run."""

    kind: DeviceKind
    name: str
    memory_bytes: int | None
    has_fast_bf16: bool

    @property
    def has_tf32(self) -> bool:
        """Whether it rounds the factors of fp32 products if asked to."""
        return self.kind == "cuda" and self.has_fast_bf16  # both came with Ampere

    def computes(self, precision: str) -> bool:
        """Return whether the device can train in a precision of the spec."""
        match precision:
            case "fp16":
                return self.kind == "cuda"
            case "bf16":
                return self.kind != "cuda" or self.has_fast_bf16
            case _:
                return True


def choose_device(inputs: Inputs, spec: JobSpec) -> Device:
    """Return the device to train on, after making it the only one that torch sees."""
    named = _DEVICE.fullmatch("cpu" if inputs.device is None else inputs.device)
    if named is None:
        raise InvalidSetting(
            f"'{inputs.device}' is no device; expected 'cpu', 'mps', 'cuda' or 'cuda:NUMBER'.",
            hint="See LUTHIER_DEVICES of this worker.",
            param="device",
        )
    wanted = "cpu" if spec.resources.gpus == 0 else inputs.device
    _check_count(inputs, spec, wanted)
    if wanted and (number := named["number"]):
        _show_only(int(number))
    if wanted not in ("cpu", "mps") and torch.cuda.is_available():
        own = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(own)
        properties = torch.cuda.get_device_properties(own)
        return Device(
            kind="cuda",
            name=properties.name,
            memory_bytes=properties.total_memory,
            has_fast_bf16=torch.cuda.is_bf16_supported(including_emulation=False),
        )
    if wanted in ("mps", None) and torch.backends.mps.is_available():
        return Device(kind="mps", name="mps", memory_bytes=None, has_fast_bf16=False)
    if wanted not in ("cpu", None):
        raise _missing(wanted)
    # All that there is: what is free now would make the same job choose differently each time.
    memory_bytes = min(limit_bytes(), inputs.memory_bytes or sys.maxsize)
    return Device(kind="cpu", name="cpu", memory_bytes=memory_bytes, has_fast_bf16=_has_amx())


def processor() -> str:
    """Return the processor and its widest instructions: with others, sums round otherwise."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text("utf-8").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}{' and AMX' if _has_amx() else ''}"


def _has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def num_devices(device: str | None) -> int:
    """Return how many devices other than the CPU a run may use.

    Args:
        device: the one of the inputs.
    """
    if device == "cpu":
        return 0
    if device not in (None, "cuda"):
        return 1
    num_gpus = torch.cuda.device_count()
    return num_gpus or int(device is None and torch.backends.mps.is_available())


def _check_count(inputs: Inputs, spec: JobSpec, wanted: str | None) -> None:
    """Refuse a run of more processes than there are devices, or of other than were asked for."""
    gpus, count, num_there = spec.resources.gpus, num_processes(), num_devices(wanted)
    there = {0: "no GPU", 1: "1 GPU"}.get(num_there, f"{num_there} GPUs")
    if isinstance(gpus, int) and gpus > num_there:
        raise CapacityError(
            f"resources.gpus is {gpus}, and this worker has {there} to use.",
            hint="Lower it, or set it to 'auto' or 0, or run a worker where there are as many.",
            param="resources.gpus",
        )
    if gpus not in ("auto", 0, count):
        raise CapacityError(
            f"resources.gpus is {gpus}, and this run has {count} processes, one a GPU.",
            hint="Set num_processes in inputs.json to the same number.",
            param="resources.gpus",
        )
    num_asked = max(count, inputs.num_processes)
    if num_asked > 1 and num_asked > (count if wanted == "cpu" else num_there):
        raise CapacityError(
            f"{num_asked} processes are to share the run, one a GPU; this worker has {there}.",
            hint="Lower num_processes in inputs.json, or set its device to 'cpu'.",
            param="resources.gpus",
        )


def _show_only(number: int) -> None:
    """Hide all other GPUs: the Trainer would spread over every one that it sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else []
    if names and number >= len(names):
        raise _missing(f"cuda:{number}")
    os.environ["CUDA_VISIBLE_DEVICES"] = names[number] if names else str(number)


def _missing(device: str) -> CapacityError:
    return CapacityError(
        f"the device '{device}' is not there.",
        hint="See LUTHIER_DEVICES of this worker, or set resources.gpus to 0 for the CPU.",
        param="resources.gpus",
    )
