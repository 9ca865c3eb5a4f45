"""What a worker trains on, found out without torch, which a worker never imports."""

import logging
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from jobs.records import WorkerDevice
from jobs.settings import Settings
from trainer_core.memory import limit_bytes

_ASK_GPUS = (
    "nvidia-smi",
    "--query-gpu=index,name,memory.total,compute_cap",
    "--format=csv,noheader,nounits",
)
_ASK_SECONDS = 10
_MIB = 1 << 20
_FIRST_WITH_BF16 = 8  # Ampere

_log = logging.getLogger(__name__)


class Machine:
    """The devices of this machine. The driver is asked once, when this is made."""

    def __init__(self) -> None:
        self._gpus = {gpu.name: gpu for gpu in _gpus()}

    def chosen(self, settings: Settings) -> tuple[WorkerDevice, ...]:
        """Return the devices that the settings name, or the best that there are."""
        names = settings.devices or _best(self._gpus)
        return tuple(_device(name, self._gpus, settings) for name in names)

    def num_gpus(self, device: str | None) -> int:
        """Return how many GPUs a job may ask for of a slot with a device; None is all of them."""
        match device:
            case "cpu":
                return 0
            case "cuda":
                return max(1, len(self._gpus))
            case None:
                return len([name for name in _best(self._gpus) if name != "cpu"])
            case _:
                return 1


def _best(gpus: dict[str, WorkerDevice]) -> tuple[str, ...]:
    if gpus:
        return tuple(gpus)
    is_apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return ("mps",) if is_apple else ("cpu",)


def _device(name: str, gpus: dict[str, WorkerDevice], settings: Settings) -> WorkerDevice:
    threads = settings.num_training_threads
    match name.partition(":")[0]:
        case "cuda":
            named = name if ":" in name else "cuda:0"
            return gpus.get(named, WorkerDevice(name, "cuda", "unknown", None, False, threads))
        case "mps":
            return WorkerDevice(name, "mps", platform.machine(), limit_bytes(), False, threads)
        case _:
            most = min(limit_bytes(), settings.job_memory_bytes or sys.maxsize)
            return WorkerDevice(name, "cpu", platform.machine(), most, _has_amx(), threads)


def _has_amx() -> bool:
    """Return whether the processor multiplies matrices of bf16 itself, as torch would say."""
    told = Path("/proc/cpuinfo")
    return told.exists() and " amx_bf16" in told.read_text("utf-8")


def _gpus() -> Iterator[WorkerDevice]:
    """Yield what the driver's own tool tells; nothing where there is none."""
    try:
        told = subprocess.run(
            _ASK_GPUS, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True
        ).stdout
    except FileNotFoundError:
        return
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("the GPUs can't be asked for: %s", error, extra={"action": "gpus_unknown"})
        return
    for line in told.splitlines():
        index, name, mebibytes, capability = (field.strip() for field in line.split(","))
        yield WorkerDevice(
            name=f"cuda:{index}",
            kind="cuda",
            model=name,
            memory_bytes=int(mebibytes) * _MIB if mebibytes.isdecimal() else None,
            has_fast_bf16=int(capability.partition(".")[0]) >= _FIRST_WITH_BF16,
            num_threads=1,
        )
