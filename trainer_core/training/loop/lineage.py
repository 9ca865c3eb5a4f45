"""What a repetition of a run needs to know: `run.json`, and a copy of its core in checkpoints."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from trainer_core.errors import DataChanged
from trainer_core.rows.checking import Survey
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import Inputs, file_sha256
from trainer_core.spec import JobSpec, Resolution
from trainer_core.training.data.keys import model_fingerprint
from trainer_core.training.process.devices import Device, processor
from trainer_core.training.process.processes import num_processes
from trainer_core.training.process.versions import versions_of

_PACKAGES = (
    "luthier", "torch", "transformers", "accelerate", "tokenizers", "safetensors", "peft", "numpy",
    "sentence-transformers", "bitsandbytes", "deepspeed", "schedulefree", "torch-optimi",
)  # fmt: skip

_WITHOUT_EFFECT: Any = {  # on the result
    "name": True,
    "labels": True,
    "secrets": True,
    "tracking": True,
    "output": True,
    "resources": {"max_runtime_seconds", "max_stall_seconds", "on_oom", "priority"},
}


def data_hashes(files: Mapping[str, InputFile]) -> dict[str, str]:
    """Return the SHA-256 of each split's file.

    Raises:
        DataChanged: a file is not the one that the job was given.
    """
    hashes = {}
    for split, file in files.items():
        hashes[split] = file_sha256(file.path)
        if file.sha256 is not None and file.sha256 != hashes[split]:
            raise DataChanged(
                f"{file.name} has SHA-256 {hashes[split][:12]}..., expected {file.sha256[:12]}...: "
                "its bytes are not those of the upload.",
                hint="Upload the file again.",
                param=f"data.{split}",
            )
    return hashes


def spec_hash(spec: JobSpec) -> str:
    """Return the SHA-256 of what of a spec decides the result."""
    values = spec.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def describe_origin(given: JobSpec, *, inputs: Inputs, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return what a run starts from; a checkpoint of another origin is of no use to it."""
    return {
        "spec_sha256": spec_hash(given),
        "data_sha256": dict(hashes),
        "base_model": given.model,
        "base_model_revision": inputs.model_revision,
        "base_model_fingerprint": model_fingerprint(inputs.model),
    }


def describe_run(
    origin: Mapping[str, Any], *, resolution: Resolution, found: Survey, device: Device
) -> dict[str, Any]:
    """Return the lineage of a run as JSON-ready values."""
    return {
        **origin,
        "resolved_spec_sha256": spec_hash(resolution.spec),
        "choices": [asdict(choice) for choice in resolution.choices],
        "seed": resolution.spec.training.seed,
        "num_rows": dict(found.num_rows),
        "num_rows_skipped": found.num_skipped,
        "device": device.name,
        "processor": processor() if device.kind == "cpu" else None,
        "num_processes": num_processes(),
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": dict(versions_of(*_PACKAGES)),
        "cuda": torch.version.cuda,
    }


def with_rows(lineage: Mapping[str, Any], *, num_rows: Mapping[str, int]) -> dict[str, Any]:
    """Return the lineage with the rows that are really used: a task may leave some out."""
    left_out = {
        split: number
        for split, found in lineage["num_rows"].items()
        if (number := found - num_rows.get(split, 0))
    }
    return {**lineage, "num_rows": dict(num_rows), "num_rows_left_out": left_out}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what keeps a resumed run from equalling an uninterrupted one bit for bit."""
    names = (
        "num_processes",
        "num_threads",
        "device",
        "processor",
        "machine",
        "versions",
        "resolved_spec_sha256",
    )
    told = [name for name in names if name in before]  # an older version told less
    return [name for name in told if before[name] != now.get(name)]
