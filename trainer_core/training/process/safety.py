"""Whether the files of a base model may be opened at all: they are a stranger's.

Weights are safetensors; a pickle is never opened. JSON files may not name code to import, files
outside their directory, or switches of the loader: `trust_remote_code=False` alone was bypassed by
such fields more than once (CVE-2026-4372, CVE-2026-5241, transformers#46279, peft#3085). No
link may lead out of the directory: what it leads to would be read, and handed out with the model.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainer_core.errors import UnsafeModel, UnusableModel

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".npz"}
_CHECKED_FILES = (
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_CODE_FIELDS = {
    "auto_map",
    "auto_mapping",
    "custom_generate",
    "custom_pipelines",
    "init_inputs",  # positional arguments of the tokenizer's class
    "megatron_config",
    "megatron_core",
    "parent_library",
    "tokenizer_kwargs",
    "trust_remote_code",
}
_HARMLESS = {"megatron_core": "megatron.core"}  # peft always writes it
_LOADER_FIELDS = {
    "configuration_files",  # other files to read in place of config.json
    "distributed_config",
    "fusion_config",
    "kernel_config",
    "transformers_weights",
}
_IMPLEMENTATIONS = {"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"}
# Strings that old versions wrote under private names; the loader overwrites or ignores them.
_PRIVATE_TEXT_FIELDS = {
    "_commit_hash",
    "_diffusers_version",
    "_model_name_or_path",  # a GGUF file's own title
    "_name_or_path",
    "_pre_quantization_dtype",
    "__float__",  # how transformers writes an infinite number
    "__type",
}
# Old versions wrote the author's own paths here; the loader overwrites or ignores them.
_IGNORED_PATH_FIELDS = {
    "_model_name_or_path",
    "_name_or_path",
    "name_or_path",
    "special_tokens_map_file",
}
_FILE_FIELD = re.compile(r"_(file|files|path|paths|dir|directory)$")
_CLASS_FIELD = re.compile(r"(_class|_type)$")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.-]*")
# Text that a person or a tokenizer wrote, never opened as a file.
_FREE_TEXT_FIELDS = {
    "added_tokens_decoder",
    "additional_special_tokens",
    "chat_template",
    "extra_special_tokens",
    "finetuning_task",
    "id2label",
    "label2id",
    "prefix",
    "task_specific_params",
}
_TEMPLATE_NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True, slots=True)
class _Field:
    """One value of a JSON file."""

    file: str
    pointer: str
    name: str  # the key above it, also for the items of a list
    value: Any

    def refuse(self, why: str) -> UnsafeModel:
        shown = repr(self.value)[:80]
        return UnsafeModel(
            f"{self.file} sets '{self.pointer}' to {shown}: {why}.",
            hint="Remove the field, or use a model that needs no code of its own.",
            param=self.pointer,
            detail={"file": self.file, "field": self.pointer},
        )


def check_model_files(folder: Path) -> None:
    """Raise UnsafeModel or UnusableModel unless a directory holds a model that may be opened."""
    if not folder.is_dir():
        raise UnusableModel(f"there is no model directory '{folder.name}'.")
    _check_links(folder)
    names = sorted(path.name for path in folder.iterdir())
    for name in _CHECKED_FILES:
        if (folder / name).exists():  # some file systems take no notice of case
            _check_fields(folder / name)
    if "adapter_config.json" in names:
        raise UnusableModel(
            "the model is an adapter (it has adapter_config.json), not a whole model.",
            hint="Merge the adapter into its base model first.",
        )
    if "config.json" not in names:
        raise UnusableModel(f"the model has no config.json; it has: {_listed(names)}.")
    _check_weights(folder, names)


def check_config(values: Mapping[str, Any]) -> None:
    """Raise UnsafeModel unless a configuration that was loaded holds nothing but settings."""
    for field in _walk("config.json", "", "", values):
        _check_field(field)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model whose files were checked."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    return [folder / name for name in sorted(set(_weight_map(folder / WEIGHTS_INDEX).values()))]


def _check_links(folder: Path) -> None:
    """Refuse what leads out of a folder; a repository in a Hub cache has its files beside it."""
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        allowed.append(root.parent.parent / "blobs")
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        try:
            target = path.resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise UnusableModel(f"{name} is a link that leads nowhere: {error}.") from error
        if not any(target.is_relative_to(place) for place in allowed):
            raise UnsafeModel(
                f"{name} is a link that leads outside the model's directory.",
                hint="Put the file itself in its place.",
                detail={"file": name},
            )
        if target.exists() and not target.is_file() and not target.is_dir():
            raise UnsafeModel(f"{name} is neither a file nor a directory.", detail={"file": name})


def _check_weights(folder: Path, names: list[str]) -> None:
    if ".metadata" in names:
        raise UnsafeModel("the model is a distributed checkpoint, whose index is a pickle.")
    if WEIGHTS in names:
        return
    if WEIGHTS_INDEX not in names:
        pickles = [name for name in names if Path(name).suffix in _PICKLE_SUFFIXES]
        if pickles:
            raise UnsafeModel(
                f"the model's weights are {_listed(pickles)}, which may run code when opened; "
                f"expected {WEIGHTS}.",
                hint="Convert the weights to safetensors.",
            )
        raise UnusableModel(f"the model has no {WEIGHTS}; it has: {_listed(names)}.")
    shards = sorted(set(_weight_map(folder / WEIGHTS_INDEX).values()))
    for shard in shards:
        if not _is_bare(shard) or not shard.endswith(".safetensors"):
            field = _Field(WEIGHTS_INDEX, "/weight_map", "weight_map", shard)
            raise field.refuse("expected the bare name of a safetensors file")
    if missing := [shard for shard in shards if shard not in names]:
        raise UnusableModel(f"the model is incomplete: {_listed(missing)} of it is missing.")


def _weight_map(index: Path) -> dict[str, str]:
    values = _read(index)
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UnusableModel(f"{index.name} has no 'weight_map' of tensors to files.")
    return {str(tensor): str(file) for tensor, file in weight_map.items()}


def _check_fields(path: Path) -> None:
    values = _read(path)
    if not isinstance(values, dict):
        raise UnusableModel(f"{path.name} is not a JSON object.")
    for field in _walk(path.name, "", "", values):
        _check_field(field)
    _check_template_names(path.name, values.get("chat_template"))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnusableModel(f"{path.name} is not JSON: {error}.") from error


def _walk(file: str, pointer: str, name: str, value: Any) -> Iterator[_Field]:
    if name:
        yield _Field(file, pointer, name, value)
    if name in _FREE_TEXT_FIELDS or name.endswith("_token"):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(file, f"{pointer}/{key}", str(key), inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _walk(file, f"{pointer}/{number}", name, inner)


def _check_field(field: _Field) -> None:
    name, value = field.name, field.value
    if name in _CODE_FIELDS and value and value != _HARMLESS.get(name):
        raise field.refuse("models may not bring code")
    if (name in _LOADER_FIELDS or name.endswith("_internal")) and value:
        raise field.refuse("a model may not steer its loader")
    if name.lstrip("_") in ("attn_implementation", "experts_implementation"):
        values = value.values() if isinstance(value, dict) else [value]
        if any(part is not None and part not in _IMPLEMENTATIONS for part in values):
            raise field.refuse(f"expected one of {', '.join(sorted(_IMPLEMENTATIONS))}")
    elif (
        name.startswith("_")
        and name not in _PRIVATE_TEXT_FIELDS
        and not isinstance(value, bool | int | float | None)
    ):
        raise field.refuse("private fields may hold numbers only")
    if isinstance(value, str):
        _check_text(field, value)


def _check_text(field: _Field, text: str) -> None:
    if field.name in _IGNORED_PATH_FIELDS or field.name in _FREE_TEXT_FIELDS:
        return
    if field.name.endswith("_token") or field.name == "content":
        return
    if _FILE_FIELD.search(field.name) and text and not _is_bare(text):
        raise field.refuse("expected the bare name of a file of the model")
    if _CLASS_FIELD.search(field.name) and text and not _IDENTIFIER.fullmatch(text):
        raise field.refuse("expected the name of a class")
    if _leads_elsewhere(text):
        raise field.refuse("it leads outside the model's directory")


def _check_template_names(file: str, templates: Any) -> None:
    """Refuse templates whose names would become file names elsewhere (CVE-2026-9856)."""
    if isinstance(templates, dict):
        names = list(templates)
    elif isinstance(templates, list):
        names = [part.get("name") if isinstance(part, dict) else None for part in templates]
    else:
        return
    for name in names:
        if not isinstance(name, str) or not _TEMPLATE_NAME.fullmatch(name):
            field = _Field(file, "/chat_template", "chat_template", name)
            raise field.refuse("expected a template name of letters, digits, '_' and '-'")


def _is_bare(name: str) -> bool:
    return "/" not in name and "\\" not in name and name not in ("", ".", "..") and "\0" not in name


def _leads_elsewhere(text: str) -> bool:
    parts = PurePosixPath(text.replace("\\", "/")).parts
    is_drive = len(text) > 2 and text[1] == ":" and text[2] in "\\/"
    return bool(parts) and (text[0] in "/\\~" or ".." in parts or "://" in text or is_drive)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:10]) or "nothing"
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
