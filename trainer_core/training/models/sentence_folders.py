"""Folders of sentence-transformers: how the vectors of a text's tokens become one.

What is read is a stranger's: a few fields are looked at, and nothing is imported for them. What is
written, sentence-transformers itself writes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from transformers import PreTrainedConfig

from trainer_core.errors import UnusableModel

Pooling = Literal["mean", "cls", "last"]

_MODULES = "modules.json"
_NAMES: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_LIBRARY_NAMES = {ours: theirs for theirs, ours in _NAMES.items()}
_FOLDER = re.compile(r"\d+_Pooling")
_SWITCH = re.compile(r"^pooling_mode_|_tokens?$")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SentenceForm:
    """How a model turns a text into a vector."""

    pooling: Pooling
    is_normalized: bool
    is_given: bool = True  # by the model's own files
    max_length: int | None = None  # tokens that are read of a text; None where that is not said
    prompts: Mapping[str, str] = field(default_factory=dict)  # by name, such as `query`


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Module(_Part):
    type: str
    path: str = ""

    @property
    def name(self) -> str:
        return self.type.rpartition(".")[2]


class _PoolingFields(_Part):
    pooling_mode: str | tuple[str, ...] = ()
    pooling_mode_cls_token: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    include_prompt: bool = True

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes as they are named now; older folders have a switch for each."""
        if self.pooling_mode:
            one = self.pooling_mode
            return (one,) if isinstance(one, str) else one
        switches = self.model_dump(exclude={"pooling_mode", "include_prompt"})
        on = [_SWITCH.sub("", name) for name, is_on in switches.items() if is_on]
        return tuple(on) or ("mean",)


class _BodyFields(_Part):
    max_seq_length: int | None = Field(default=None, ge=1)


class _ModelFields(_Part):
    prompts: dict[str, str | None] = {}


def read_form(folder: Path, config: PreTrainedConfig) -> SentenceForm:
    """Return how a base model turns a text into a vector, or how one of its kind usually does.

    Raises:
        UnusableModel: it is made for sentences in a way that can't be trained here.
    """
    if not (folder / _MODULES).exists():
        return _usual(config)
    modules = _read(folder / _MODULES, tuple[_Module, ...])
    known = {"Transformer", "Pooling", "Normalize"}
    if unknown := [module.name for module in modules if module.name not in known]:
        raise _unusable(f"has the part '{unknown[0][:80]}'")
    poolings = [module for module in modules if module.name == "Pooling"]
    if len(poolings) != 1 or not _FOLDER.fullmatch(poolings[0].path):
        raise _unusable("does not say how to pool in one folder N_Pooling")
    body = folder / "sentence_bert_config.json"
    whole = folder / "config_sentence_transformers.json"
    prompts = _read(whole, _ModelFields).prompts if whole.exists() else {}
    return SentenceForm(
        pooling=_pooling(_read(folder / poolings[0].path / "config.json", _PoolingFields)),
        is_normalized=any(module.name == "Normalize" for module in modules),
        max_length=_read(body, _BodyFields).max_seq_length if body.exists() else None,
        prompts={name: text for name, text in prompts.items() if text},
    )


def _usual(config: PreTrainedConfig) -> SentenceForm:
    """Return what sentence-transformers takes for a model that is not made for sentences."""
    architecture = (config.architectures or [""])[0]
    reads_forward = architecture.endswith("ForCausalLM") and getattr(config, "is_causal", True)
    pooling: Pooling = "last" if reads_forward else "mean"
    return SentenceForm(pooling=pooling, is_normalized=True, is_given=False)


def _pooling(fields: _PoolingFields) -> Pooling:
    if len(fields.modes) != 1 or fields.modes[0] not in _NAMES:
        raise _unusable(f"pools by {' and '.join(fields.modes)[:80]}")
    if not fields.include_prompt:
        raise _unusable("leaves its prompt out when it pools")
    return _NAMES[fields.modes[0]]


def _read(path: Path, kind: type[T]) -> T:
    name = path.name if path.parent.name[:1].isalpha() else f"{path.parent.name}/{path.name}"
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        raise UnusableModel(f"the model has no {name}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UnusableModel(f"{name} can't be used: {place} {first['msg']}"[:300] + ".") from error


def _unusable(what: str) -> UnusableModel:
    return UnusableModel(
        f"the base model is one of sentence-transformers that {what}; expected a transformer, "
        "pooling by mean, first or last token, and maybe a normalization.",
        hint="Use another model, or remove modules.json to train the transformer alone.",
    )


def pooling_module(pooling: Pooling, *, num_dimensions: int) -> Any:
    """Return sentence-transformers' own module for a pooling."""
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule

    return PoolingModule(num_dimensions, _LIBRARY_NAMES[pooling])


def write_form(folder: Path, form: SentenceForm, *, base: Path, num_dimensions: int) -> None:
    """Make the folder of a model, or of an adapter, one that sentence-transformers loads.

    Args:
        folder: the model's, with all that transformers writes.
        form: how it turns a text into a vector.
        base: folder of the base model, for an adapter: it has no body of its own.
        num_dimensions: of a vector.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Transformer

    safe = {"local_files_only": True, "trust_remote_code": False}
    body = Transformer(
        str(folder if (folder / "config.json").exists() else base),
        # The weights are there and stay as they are; the rest is as for every base model.
        model_kwargs={**safe, "device_map": "meta", "attn_implementation": None},
        processor_kwargs=dict(safe),
        config_kwargs=dict(safe),
    )
    body.save = lambda path, **_: body.save_config(path)
    modules = [body, pooling_module(form.pooling, num_dimensions=num_dimensions)]
    if form.is_normalized:
        modules.append(Normalize())
    whole = SentenceTransformer(
        modules=modules, prompts=dict(form.prompts), device="meta", local_files_only=True
    )
    whole.save(str(folder), create_model_card=False)
