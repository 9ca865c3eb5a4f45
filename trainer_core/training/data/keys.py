"""Keys of what is kept of rows: hashes of all on which it depends.

Left out of a key is only what can't change rows or tokens. One thing too many costs a second
tokenizing; one too few would train on the wrong tokens.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import trainer_core
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import file_sha256
from trainer_core.spec import JobSpec
from trainer_core.training.process.versions import versions_of

# Whom a run concerns, and what happens once there are tokens.
_NOT_OF_ROWS = {
    "name",
    "labels",
    "tracking",
    "output",
    "checkpoints",
    "evaluation",
    "resources",
    "adapter",
    "training",
}
_PACKAGES = ("luthier", "transformers", "tokenizers", "jinja2", "numpy", "pydantic", "pyarrow")
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ot"}
_NUM_SAMPLES = 64  # of a file of weights, the first and the last bytes among them
_SAMPLE_BYTES = 1 << 16


def rows_key(spec: JobSpec, files: Mapping[str, InputFile]) -> str:
    """Return the key of what is known of the rows of a job, whatever model learns from them."""
    return _key("rows", _of_rows(spec, files, without={"model"}))


def tokens_key(
    spec: JobSpec, files: Mapping[str, InputFile], *, model: Path, columns: Mapping[str, type]
) -> str:
    """Return the key of the tokens of a job.

    Args:
        spec: of the job, resolved.
        files: of rows, by split.
        model: folder with the tokenizer's files; that of labels can depend on config.json.
        columns: of the tokenized rows.
    """
    values = {
        **_of_rows(spec, files, without=set()),
        "model_files": _hashes_but_weights(model),
        "columns": {name: str(dtype) for name, dtype in columns.items()},
    }
    return _key("tokens", values)


def model_fingerprint(folder: Path) -> str:
    """Return a hash that tells a base model from one that has taken its place.

    Of weights only samples are read: another training changes all of them, and hashing many
    gigabytes would take longer than a small job.
    """
    weights = {
        path.relative_to(folder).as_posix(): _sampled_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in _WEIGHTS
    }
    return _key("model", {"weights": weights, "others": _hashes_but_weights(folder)})


def _sampled_sha256(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_NUM_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * number // (_NUM_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _of_rows(spec: JobSpec, files: Mapping[str, InputFile], *, without: set[str]) -> dict[str, Any]:
    values = spec.model_dump(mode="json", exclude=_NOT_OF_ROWS | without)
    # Their bytes count, not how they are called.
    values["data"] |= dict.fromkeys(spec.data.references(), "file")
    return {
        "spec": values,
        "seed": spec.training.seed,
        "files": {
            split: [file.sha256 or file_sha256(file.path), file.name, file.has_header]
            for split, file in files.items()
        },
        "code": _code_sha256(),
        "versions": {"python": platform.python_version(), **versions_of(*_PACKAGES)},
    }


def _key(kind: str, values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return f"{kind}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


@cache
def _code_sha256() -> str:
    """Return the hash of the source by which rows become tokens: a checkout changes at any time."""
    root = Path(trainer_core.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _hashes_but_weights(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in _WEIGHTS
    }
