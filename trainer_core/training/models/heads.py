"""The head of a base model, what comes after its body: the classes it knows, or a new beginning."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoModelForSequenceClassification, PreTrainedConfig, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from trainer_core.events import Reporter, Warned
from trainer_core.spec import JobSpec
from trainer_core.training.data.tokens import padding_id
from trainer_core.training.models.base_model import (
    BaseModel,
    LoadedModel,
    check_architecture,
    load_model,
)

_PROBLEM_TYPES = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}


def known_classes(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return a model's classes in the order of its outputs; empty where that can't be told."""
    names: Any = config.id2label or {}  # typed as of strings; the loader makes them numbers
    return tuple(str(names[number]) for number in range(len(names)) if number in names)


def load_scorer(
    base: BaseModel, spec: JobSpec, *, problem: str, classes: tuple[str, ...], reporter: Reporter
) -> LoadedModel:
    """Return the model with a head that scores a whole text.

    Args:
        base: the model.
        spec: of the job.
        problem: `single-label`, `multi-label` or `regression`, whose head has one output.
        classes: names in the order of the model's outputs.
        reporter: is told of a head that begins anew.
    """
    check_architecture(base, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, task=spec.task)
    known = known_classes(base.config)
    return load_with_classes(
        base,
        AutoModelForSequenceClassification,
        classes=classes,
        is_known=len(known) == 1 if problem == "regression" else known == classes,
        changes={
            "problem_type": _PROBLEM_TYPES[problem],
            # Decoders pool the last token that is no padding.
            "pad_token_id": padding_id(base.tokenizer),
        },
        seed=spec.training.seed,
        reporter=reporter,
    )


def load_with_classes(
    base: BaseModel,
    auto_class: Any,
    *,
    classes: Sequence[str],
    is_known: bool,
    changes: Mapping[str, Any],
    seed: int,
    reporter: Reporter,
) -> LoadedModel:
    """Return the model with a head for the classes.

    Args:
        base: the model.
        auto_class: transformers' Auto class for the task.
        classes: names in the order of the model's outputs.
        is_known: the model's own head, if it has one, is for these; else it begins anew.
        changes: what else to set in the configuration.
        seed: of weights that are new.
        reporter: is told of a head that begins anew.
    """
    known = known_classes(base.config)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = {"id2label": dict(enumerate(classes)), "label2id": numbers}
    loaded = load_model(
        base, auto_class, changes={**labels, **changes}, seed=seed, is_head_new=True
    )
    if is_known or not loaded_heads(loaded):
        return loaded
    message = f"the model's head is for other classes ({', '.join(known)[:200]}); it begins anew."
    reporter.report(Warned("head_renewed", message))
    return renew_heads(loaded, seed=seed)


def loaded_heads(loaded: LoadedModel) -> tuple[str, ...]:
    """Return the modules after the body whose weights are all from the model's files."""
    return tuple(
        name
        for name, module in loaded.model.named_children()
        if name != loaded.model.base_model_prefix
        and name not in loaded.new_modules
        and any(True for _ in module.parameters())
    )


def renew_heads(loaded: LoadedModel, *, seed: int) -> LoadedModel:
    """Return the model with new weights in the heads that were loaded."""
    model: Any = loaded.model
    heads = loaded_heads(loaded)
    set_seed(seed)
    for name in heads:
        for module in model.get_submodule(name).modules():
            for weight in module.parameters(recurse=False):
                # transformers' own initialization passes over what was loaded.
                weight._is_hf_initialized = False  # noqa: SLF001
            model._init_weights(module)  # noqa: SLF001
    return LoadedModel(model, tuple(sorted({*loaded.new_modules, *heads})))
