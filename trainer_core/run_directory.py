"""A run is a directory: the one way in which a worker and its training process speak.

    spec.json        in: the job spec, as given
    inputs.json      in: where the model and the rows are on this machine
    stop.json        in, at any time, followed by SIGTERM: why to stop and what to do before
    events.jsonl     out: one event a line
    resolved.json    out: the spec without an `auto`, and the choices made
    run.json         out: what a repetition needs: versions, seeds, threads, hashes
    log.txt          out: everything the process printed
    checkpoints/     out: checkpoint-N/, each whole or absent
    storing/         the worker's own: checkpoints that it copies to the storage
    tracking/        out: files of experiment trackers; they go out with the model
    evaluations/     out: what evaluations found beside their figures, and predictions
    model/           out: the finished model, and manifest.json, written last
    outcome.json     out, last of all: how it ended

JSON files appear whole or not at all.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from trainer_core.errors import InvalidSetting, TypedError
from trainer_core.rows.files import InputFile

_HASH_BLOCK_BYTES = 1 << 20
_CHECKPOINT = re.compile(r"checkpoint-\d+")  # as transformers calls them

LINEAGE = "lineage.json"  # of a checkpoint: what a resumed run compares itself with
_TO_GO_ON = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state", "training_args")
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".distcp", ".py"}


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """A folder of this machine in which runs keep what they made of rows, for each other."""

    path: Path
    max_bytes: Annotated[int, Field(ge=0)]  # more than that is removed when a run ends


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where the model and the rows of a run are on this machine."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    model: Path
    train: InputFile
    eval: InputFile | None = None
    test: InputFile | None = None
    model_revision: str | None = None  # commit of the base model, where it has one
    num_threads: Annotated[int, Field(ge=1)] | None = None  # of torch on the CPU; None: its choice
    num_processes: Annotated[int, Field(ge=1, le=64)] = 1  # one a GPU; on the CPU any number
    device: str | None = None  # "cpu", "cuda:0"; None for the best there is
    cache: CacheFolder | None = None  # None: nothing is kept
    memory_bytes: Annotated[int, Field(ge=1)] | None = None  # of the host; None: all there is
    # In place of the spec's, after memory ran out; it changes speed and memory only.
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    run_id: str | None = None  # the same in each attempt; None: trackers go by the directory's path

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return json.loads(json.dumps(asdict(self), default=str))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, text: str, *, root: Path) -> "Inputs":
        """Return the inputs that a JSON text says; relative paths start at `root`.

        Raises:
            InvalidSetting: a key or value is not as it should be, or a file of rows not there.
        """
        try:
            inputs = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}"
                for item in error.errors(include_url=False)
            ]
            raise InvalidSetting(
                f"inputs.json can't be used: {'; '.join(problems)}.",
                hint=f"Its keys are {', '.join(one.name for one in fields(cls))}.",
            ) from error
        return replace(
            inputs,
            model=root / inputs.model,
            cache=inputs.cache and replace(inputs.cache, path=root / inputs.cache.path),
            train=_found(inputs.train, "train", root=root),
            eval=inputs.eval and _found(inputs.eval, "eval", root=root),
            test=inputs.test and _found(inputs.test, "test", root=root),
        )


def _found(file: InputFile, split: str, *, root: Path) -> InputFile:
    path = root / file.path
    if not path.is_file():
        raise InvalidSetting(
            f"the rows of '{split}' ({file.name}) are not where inputs.json says: there is no "
            f"file '{path.name}' in '{path.parent}'.",
            hint="Put it there, or mend the path.",
            param=split,
        )
    return replace(file, path=path)


class Result(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    STOPPED = "stopped"  # because it was asked to
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, and with what."""

    result: Result
    step: int = 0  # optimizer steps taken
    best_step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the model handed out
    error: TypedError | None = None
    checkpoint: str | None = None  # saved on the way out, below the run directory

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Outcome":
        """Return the outcome that `to_dict` wrote."""
        error = values.get("error")
        return cls(
            **{
                **values,
                "result": Result(values["result"]),
                "error": TypedError.from_dict(error) if error else None,
            }
        )


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Why to stop after the step in hand, and what to do before."""

    reason: str
    is_saving: bool  # save a checkpoint, to go on from
    is_finishing: bool = False  # measure and save the model instead, as if training were over


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a finished directory."""

    path: str  # below the directory, with forward slashes
    size_bytes: int
    sha256: str


MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The paths of a run, and the reading and writing of its JSON files."""

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def inputs(self) -> Path:
        return self.path / "inputs.json"

    @property
    def stop(self) -> Path:
        return self.path / "stop.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def resolved(self) -> Path:
        return self.path / "resolved.json"

    @property
    def lineage(self) -> Path:
        return self.path / "run.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def storing(self) -> Path:
        return self.path / "storing"

    @property
    def has_checkpoints(self) -> bool:
        return bool(checkpoints_in(self.checkpoints))

    @property
    def tracking(self) -> Path:
        return self.path / "tracking"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def outcome(self) -> Path:
        return self.path / "outcome.json"

    def read_spec(self) -> Any:
        """Return the values of the spec as given, not yet looked at."""
        text = self._given(self.spec)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidSetting(f"{self.spec.name} is not JSON: {error}.") from error

    def read_inputs(self) -> Inputs:
        """Return the inputs."""
        return Inputs.from_json(self._given(self.inputs), root=self.path)

    def _given(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise InvalidSetting(
                f"there is no {path.name} in '{self.path}'.",
                hint="Give a run directory with spec.json and inputs.json.",
            ) from error
        except UnicodeDecodeError as error:
            raise InvalidSetting(f"{path.name} is not UTF-8: {error}.") from error

    def read_outcome(self) -> Outcome | None:
        """Return how the run ended, or None if it did not say."""
        return Outcome.from_dict(read_json(self.outcome)) if self.outcome.exists() else None

    def read_stop(self) -> StopRequest | None:
        """Return the request to stop, if there is one."""
        return StopRequest(**read_json(self.stop)) if self.stop.exists() else None

    def request_stop(self, request: StopRequest) -> None:
        """Ask the run to stop; send SIGTERM afterwards."""
        write_json(self.stop, asdict(request))


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints below a folder, by rising step; whether they are whole is not seen."""
    found = [path for path in folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step of a checkpoint, by its name."""
    return int(checkpoint.name.rpartition("-")[2])


def is_of_model(path: str) -> bool:
    """Return whether a file of a checkpoint is of the model; the others are there to go on from."""
    is_ours = path in (MANIFEST, LINEAGE)
    return not (is_ours or path.startswith(_TO_GO_ON) or Path(path).suffix in _PICKLES)


def read_json(path: Path) -> Any:
    """Return the values of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, values: object) -> None:
    """Write a JSON file so that it appears whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(values, file, ensure_ascii=False, indent=2, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def seal(directory: Path) -> tuple[ManifestFile, ...]:
    """Flush every file of a directory to disk and write its manifest, last."""
    files = []
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST):
        assert not path.is_symlink(), f"a link in an output directory: {path}"
        with path.open("rb") as file:
            os.fsync(file.fileno())
        name = path.relative_to(directory).as_posix()
        files.append(ManifestFile(name, path.stat().st_size, file_sha256(path)))
    for folder in (path for path in directory.rglob("*") if path.is_dir()):
        fsync_directory(folder)
    write_json(directory / MANIFEST, {"files": [asdict(file) for file in files]})
    return tuple(files)


def verified_manifest(directory: Path) -> tuple[ManifestFile, ...] | None:
    """Return the files of a sealed directory, or None if one is missing, cut or changed."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        files = tuple(ManifestFile(**file) for file in read_json(directory / MANIFEST)["files"])
        if files and all(_is_whole(directory / file.path, file) for file in files):
            return files
    return None


def _is_whole(path: Path, file: ManifestFile) -> bool:
    return (
        path.is_file()
        and not path.is_symlink()
        and path.stat().st_size == file.size_bytes
        and file_sha256(path) == file.sha256
    )
