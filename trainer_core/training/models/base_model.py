"""Opening a base model: its files checked first, its weights loaded in fp32, no code of its own."""

import copy
import json
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from trainer_core.errors import LuthierError, UnusableModel
from trainer_core.training.data.vocabulary import check_embeddings, check_words
from trainer_core.training.models.quantizing import Quantizing, keep_as_loaded, quantized_loading
from trainer_core.training.process.failures import is_capacity
from trainer_core.training.process.safety import check_config, check_model_files, weight_files

_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_MAX_SENSIBLE_LENGTH = 10_000_000  # tokenizers without a limit say 1e30
_POSITION_TABLES = ("position_embeddings.weight", "embed_positions.weight", "wpe.weight")
# These count positions from the padding token's id + 1, so that many of the table are not usable.
_PADDED_POSITIONS = {
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model that may be used; its weights are still on disk."""

    path: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    num_weights: int
    num_positions: int | None  # tokens that its architecture is made for; None for no limit
    has_position_table: bool  # more than num_positions can't be computed at all
    tokenizer_limit: int | None  # tokens that the tokenizer says are the most; None for no limit
    can_recompute: bool  # it supports gradient checkpointing
    is_new: bool = False  # its weights are not those on disk: they begin at random
    quantizing: Quantizing | None = None  # its layers are loaded in less than 16 bits
    is_hollow: bool = False  # it is made without memory for weights, to be measured only

    @property
    def usual_length(self) -> int | None:
        """The smaller of both limits in tokens; None for none."""
        known = [n for n in (self.num_positions, self.tokenizer_limit) if n is not None]
        return min(known, default=None)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory."""

    model: PreTrainedModel
    new_modules: tuple[str, ...]  # modules with weights that the files do not have


def open_model(path: Path) -> BaseModel:
    """Return a base model, without its weights.

    Raises:
        UnsafeModel: its files could run code or read other files.
        UnusableModel: something is missing or not understood.
    """
    check_model_files(path)
    shapes = _weight_shapes(path)
    with _understanding("config.json"):
        config = AutoConfig.from_pretrained(path, **_LOCAL)
        # Once more as it was understood: the loader may know other files than those checked.
        check_config(json.loads(config.to_json_string(use_diff=False)))
    if getattr(config, "quantization_config", None):
        raise UnusableModel(
            "the model's weights are quantized, which can't be trained.",
            hint="Use the model's unquantized original.",
        )
    with _understanding("the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, config=config, **_LOCAL)
        check_words(tokenizer)
    with _understanding("config.json"):
        return BaseModel(
            path=path,
            config=config,
            tokenizer=tokenizer,
            num_weights=sum(torch.Size(shape).numel() for shape in shapes.values()),
            num_positions=num_positions_of(config),
            has_position_table=any(name.endswith(_POSITION_TABLES) for name in shapes),
            tokenizer_limit=_sensible(tokenizer.model_max_length),
            can_recompute=_can_recompute(config),
        )


def check_architecture(
    base: BaseModel, known: Container[type[PreTrainedConfig]], *, task: str
) -> None:
    """Raise UnusableModel unless transformers has a class of this architecture for the task."""
    if type(base.config) not in known:
        raise UnusableModel(
            f"a model of type '{base.config.model_type}' can't be used for {task}: transformers "
            "has no class for it.",
            hint=f"Use a model whose architecture suits {task}.",
        )


def load_model(
    base: BaseModel,
    auto_class: Any,
    *,
    changes: Mapping[str, Any],
    seed: int,
    is_head_new: bool,
) -> LoadedModel:
    """Return the model with its weights.

    Args:
        base: the model.
        auto_class: transformers' Auto class for the task.
        changes: what to set in the configuration.
        seed: of weights that the files do not have.
        is_head_new: the layers after the body may be new; else all weights must be there.
    """
    for name, value in changes.items():
        setattr(base.config, name, value)
    if base.is_hollow:
        return _hollow_model(base, auto_class, is_head_new=is_head_new)
    set_seed(seed)
    if base.is_new:
        return _new_model(base, auto_class)
    with _understanding("the weights"):
        model, report = auto_class.from_pretrained(
            base.path,
            config=base.config,
            dtype=torch.float32,  # master weights; bf16 is autocast
            # transformers' own choice, not one that config.json makes, which may be to fetch code
            attn_implementation=None,
            experts_implementation=None,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # judged below
            **(quantized_loading(base.config, auto_class, base.quantizing)),
            **_LOCAL,
        )
        check_embeddings(model, base.tokenizer)
    keep_as_loaded(model)
    changed = {name for name, *_ in report["mismatched_keys"]}
    new = set(report["missing_keys"]) | changed
    body = f"{model.base_model_prefix}."
    absent = {n for n in new if not is_head_new or (n.startswith(body) and "pooler" not in n)}
    if absent:
        raise UnusableModel(
            f"{len(absent)} tensors of {type(model).__name__} are not in the model's files or have "
            f"another shape there, such as '{min(absent)}'.",
            hint="Use a model whose config.json belongs to its weights.",
        )
    return LoadedModel(model, _modules_of(new, body=body))


def _new_model(base: BaseModel, auto_class: Any) -> LoadedModel:
    with _understanding("config.json"):
        model = auto_class.from_config(
            base.config, dtype=torch.float32, attn_implementation=None, trust_remote_code=False
        )
        check_embeddings(model, base.tokenizer)
    heads = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    return LoadedModel(model, tuple(heads))


def _hollow_model(base: BaseModel, auto_class: Any, *, is_head_new: bool) -> LoadedModel:
    """Return the model on the meta device: all of it but the numbers."""
    with torch.device("meta"):
        made = _new_model(base, auto_class)
    if base.is_new:
        return made
    if not is_head_new:
        return LoadedModel(made.model, ())
    there = {name.partition(".")[0] for name in _weight_shapes(base.path)}
    new = (
        name
        for name in made.new_modules
        if name not in there and any(True for _ in made.model.get_submodule(name).parameters())
    )
    return LoadedModel(made.model, tuple(new))


def mend_generation(model: Any) -> str | None:
    """Make the generation settings savable; return a warning if they had to be replaced.

    Settings that contradict each other are common, and would fail the first checkpoint.
    """
    if not model.can_generate():
        return None
    for attempt in (model.generation_config, _sampling(model.generation_config)):
        try:
            attempt.validate(strict=True)
        except ValueError:
            continue
        model.generation_config = attempt
        return None
    model.generation_config = GenerationConfig.from_model_config(model.config)
    return "the model's generation settings contradict each other and were replaced by the default."


def _sampling(settings: GenerationConfig) -> GenerationConfig:
    """Return settings that mean it: most that fail set a temperature and forget to sample."""
    changed = copy.deepcopy(settings)
    changed.do_sample = True
    return changed


def _modules_of(tensors: set[str], *, body: str) -> tuple[str, ...]:
    """Return the modules of new tensors: a head's outermost one, of the body the innermost."""
    modules = {
        name.rpartition(".")[0] if name.startswith(body) else name.partition(".")[0]
        for name in tensors
    }
    return tuple(sorted(modules))


def _weight_shapes(path: Path) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for file in weight_files(path):
        try:
            with safe_open(file, framework="numpy") as tensors:
                shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UnusableModel(
                f"{file.name} is damaged or incomplete: {error}.", hint="Copy the model again."
            ) from error
    return shapes


def num_positions_of(config: PreTrainedConfig) -> int | None:
    """Return how many tokens an architecture is made for; None for no limit."""
    positions = _sensible(getattr(config.get_text_config(), "max_position_embeddings", None))
    if positions is None or config.model_type not in _PADDED_POSITIONS:
        return positions
    return positions - (config.pad_token_id or 0) - 1


def _sensible(limit: object) -> int | None:
    """Return a limit in tokens, or None for a number that means there is none."""
    if isinstance(limit, int) and 0 < limit < _MAX_SENSIBLE_LENGTH:
        return limit
    return None


def _can_recompute(config: PreTrainedConfig) -> bool:
    found: Any = MODEL_MAPPING.get(type(config), None)
    classes = found if isinstance(found, list | tuple) else (found,)
    return all(getattr(kind, "supports_gradient_checkpointing", True) for kind in classes)


@contextmanager
def _understanding(what: str) -> Iterator[None]:
    """Take what goes wrong in a block for a fault of the model's files.

    Their values are a stranger's, and wrong ones end in any exception of any library.
    """
    try:
        yield
    except LuthierError:
        raise
    except Exception as error:
        if is_capacity(error):
            raise
        raise _unusable(what, error) from error


def _unusable(what: str, error: Exception) -> UnusableModel:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UnusableModel(
        f"{what} can't be used: {lines[0][:300]}",
        hint="Use a model that this version of transformers knows.",
    )
