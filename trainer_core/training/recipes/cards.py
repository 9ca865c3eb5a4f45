"""The model card: what was trained on what, how, with which result."""

from collections.abc import Mapping
from typing import Any

from trainer_core.spec import JobSpec
from trainer_core.spec.references import Scheme, parse_model_reference
from trainer_core.training.recipes.recipe import Recipe

_SETTINGS = (
    "learning_rate",
    "batch_size",
    "epochs",
    "max_steps",
    "optimizer",
    "scheduler",
    "warmup_ratio",
    "weight_decay",
    "precision",
    "seed",
)


def hub_name(spec: JobSpec) -> str | None:
    """Return the base model's name on the Hub, or None if it is not from there."""
    reference = parse_model_reference(spec.model)
    return reference.name if reference.scheme is Scheme.HUB else None


def model_card(
    spec: JobSpec, *, recipe: Recipe, lineage: Mapping[str, Any], metrics: Mapping[str, float]
) -> str:
    """Return the README.md of a trained model, with the Hub's metadata on top."""
    title = spec.name or f"{recipe.pipeline} model"
    rows = lineage["num_rows"]
    parts = [
        _front_matter(spec, recipe=recipe),
        f"# {title}\n",
        f"{type(recipe.model).__name__}, {_beginning(spec)} for {spec.task} on "
        f"{rows['train']} rows{_held_out(rows)}.\n",
        "## Use\n",
        f"```python\n{recipe.usage.replace('{folder}', 'path/to/this/folder')}```\n",
    ]
    if metrics:
        parts += ["## Results\n", _table(("metric", "value"), _rounded(metrics))]
    parts += [
        "## Training\n",
        _table(("setting", "value"), _settings(spec)),
        "Trained with " + ", ".join(f"{n} {v}" for n, v in lineage["versions"].items()) + ".\n",
    ]
    return "\n".join(parts)


def _beginning(spec: JobSpec) -> str:
    if spec.scratch is not None:
        return f"trained from random weights in the architecture of `{spec.model}`"
    return f"fine-tuned from `{spec.model}`"


def _front_matter(spec: JobSpec, *, recipe: Recipe) -> str:
    is_adapter = spec.adapter is not None and spec.adapter.output == "adapter"
    lines = [
        "---",
        f"library_name: {'peft' if is_adapter else 'transformers'}",
        f"pipeline_tag: {recipe.pipeline}",
        *([f"base_model: {name}"] if spec.scratch is None and (name := hub_name(spec)) else []),
        "tags:",
        "- luthier",
        f"- {spec.task}",
        *(["- lora"] if spec.adapter else []),
        "---",
        "",
    ]
    return "\n".join(lines)


def _held_out(rows: Mapping[str, int]) -> str:
    held_out = [f"{rows[split]} for {split}" for split in ("eval", "test") if rows.get(split)]
    return f" ({', '.join(held_out)} held out)" if held_out else ""


def _settings(spec: JobSpec) -> list[tuple[str, object]]:
    training = spec.training.model_dump()
    found: list[tuple[str, object]] = [("max_length", spec.max_length)]
    unused = "epochs" if training["max_steps"] is not None else "max_steps"
    found += [(name, training[name]) for name in _SETTINGS if name != unused]
    if spec.adapter:
        found.append(("adapter", f"{spec.adapter.type}, r {spec.adapter.r}"))
    return found


def _rounded(metrics: Mapping[str, float]) -> list[tuple[str, object]]:
    return [(name, f"{value:.4g}") for name, value in sorted(metrics.items())]


def _table(head: tuple[str, str], rows: list[tuple[str, object]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
    return "\n".join(lines) + "\n"
