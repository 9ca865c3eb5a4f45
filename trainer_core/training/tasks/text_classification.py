"""Text classification: one class a text or pair of texts, several, or a number.

    {"text": "My card was swallowed", "label": "card_lost"}             single-label
    {"text": "Where is it? And cancel!", "label": ["order", "cancel"]}  multi-label
    {"text": "A man sings", "text_pair": "Someone sings", "label": 4.2} regression

Shapes: B rows of a batch, T tokens, C classes (1 for regression).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from trainer_core.errors import DataError
from trainer_core.events import Phase, Warned
from trainer_core.spec.tasks.text_classification import TextClassification
from trainer_core.training.data.batching import attention_mask, pad_rows
from trainer_core.training.data.encoding import encode
from trainer_core.training.data.tokens import Array, TokenRow, padding_id
from trainer_core.training.losses.class_weights import (
    class_weights,
    multi_label_weight,
    single_label_weight,
)
from trainer_core.training.models.heads import known_classes, load_scorer
from trainer_core.training.recipes.judges import MultiLabelJudge, RegressionJudge, SingleLabelJudge
from trainer_core.training.recipes.recipe import (
    Batch,
    Collator,
    LabelLoss,
    LossOfLabels,
    Measured,
    Recipe,
    Setup,
    count_labels,
    count_rows,
    logits_of,
)
from trainer_core.training.recipes.tokenizing import Tokenized, tokenize_splits

_Judge = SingleLabelJudge | MultiLabelJudge | RegressionJudge


def tokenize_rows(
    setup: Setup, spec: TextClassification, *, classes: Sequence[str]
) -> dict[str, Tokenized]:
    """Return the tokens and labels of every split."""
    max_length = spec.max_length
    assert max_length != "auto", "the spec is resolved before"
    encode_label = _label_encoder(spec, classes)
    has_types = "token_type_ids" in setup.base.tokenizer.model_input_names

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        encoded = encode(setup.base.tokenizer, list(map(_texts, rows)), max_length=max_length)
        for row, tokens in zip(rows, encoded, strict=True):
            counts["truncated"] += tokens.is_truncated
            encoded_row = {"input_ids": tokens.ids, "labels": encode_label(row)}
            yield encoded_row | ({"token_type_ids": tokens.type_ids} if has_types else {})

    dtype = np.float32 if spec.problem != "single-label" else np.int64
    columns: dict[str, type] = {"input_ids": np.int32, "labels": dtype}
    if has_types:
        columns["token_type_ids"] = np.int8
    return tokenize_splits(setup, columns=columns, encode=encode_rows)


def _texts(row: Any) -> str | tuple[str, str]:
    return row.text if row.text_pair is None else (row.text, row.text_pair)


def _label_encoder(spec: TextClassification, classes: Sequence[str]) -> Callable[[Any], Array]:
    """Return what turns a row's label into one class id, C zeros and ones, or one number."""
    if spec.problem == "regression":
        return lambda row: np.array([row.label])
    number = {name: position for position, name in enumerate(classes)}
    if spec.problem == "single-label":
        return lambda row: np.array([number[row.label]])

    def mark(row: Any) -> Array:
        marks_C = np.zeros(len(classes))
        marks_C[[number[name] for name in row.label]] = 1
        return marks_C

    return mark


def _class_names(setup: Setup, spec: TextClassification) -> tuple[str, ...]:
    """Return the classes in the order of the model's outputs."""
    if spec.problem == "regression":
        return (spec.columns.label,)
    found = setup.found.classes
    if not found:
        raise DataError(
            "no row names a class.",
            hint=f"Fill the column '{spec.columns.label}'.",
            param=spec.columns.label,
        )
    known = known_classes(setup.base.config)
    # A head that knows the very same classes keeps its order: its weights belong to it.
    return known if sorted(known) == sorted(found) else found


@dataclass(frozen=True, slots=True)
class ClassificationCollator:
    """Pads the rows of a batch to its longest."""

    pad_token_id: int
    has_token_types: bool
    is_multi_label: bool

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
        ids = [row["input_ids"] for row in rows]
        labels = np.stack([row["labels"] for row in rows])  # (B, C) or (B, 1)
        batch = {
            "input_ids": pad_rows(ids, value=self.pad_token_id),
            "attention_mask": attention_mask(ids),
            "labels": torch.from_numpy(labels if self.is_multi_label else labels[:, 0]),
        }
        if self.has_token_types:
            batch["token_type_ids"] = pad_rows([row["token_type_ids"] for row in rows], value=0)
        return batch


def single_label_loss(
    output: Any,
    labels_B: torch.Tensor,
    total_weight: torch.Tensor,
    *,
    smoothing: float,
    weights_C: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean cross-entropy in nats; smoothed while training only."""
    total = functional.cross_entropy(
        output.logits.float(),
        labels_B,
        weight=None if weights_C is None else weights_C.to(output.logits.device),
        reduction="sum",
        label_smoothing=smoothing if torch.is_grad_enabled() else 0.0,
    )
    return total / total_weight


def multi_label_loss(
    output: Any,
    labels_BC: torch.Tensor,
    total_weight: torch.Tensor,
    *,
    weights_C: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean binary cross-entropy in nats, over rows and classes."""
    total = functional.binary_cross_entropy_with_logits(
        output.logits.float(),
        labels_BC,
        pos_weight=None if weights_C is None else weights_C.to(output.logits.device),
        reduction="sum",
    )
    return total / (total_weight * labels_BC.shape[1])


def regression_loss(output: Any, labels_B: torch.Tensor, num_rows: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error."""
    total = functional.mse_loss(output.logits[:, 0].float(), labels_B, reduction="sum")
    return total / num_rows


@dataclass(frozen=True, slots=True)
class Weighing:
    """The loss, and how much each row counts in it."""

    loss: LabelLoss
    weight: Callable[[Batch], torch.Tensor]  # of a batch's rows together
    weight_per_row: float = 1.0  # mean over the training rows


def weigh(setup: Setup, spec: TextClassification, classes: Sequence[str]) -> Weighing:
    """Return the loss of the problem, a mean over rows by their weights."""
    num_rows = setup.found.num_rows["train"]
    counts = setup.found.class_counts["train"]
    num_rows_C = np.array([counts.get(name, 0) for name in classes])
    weights_C = class_weights(spec, classes=classes, num_rows_C=num_rows_C, num_rows=num_rows)
    match spec.problem:
        case "single-label":
            smoothing = spec.training.label_smoothing
            loss = partial(single_label_loss, smoothing=smoothing, weights_C=weights_C)
            if weights_C is None:
                return Weighing(loss, count_labels)
            total = float(num_rows_C @ weights_C.numpy())
            count = partial(single_label_weight, weights_C=weights_C)
            return Weighing(loss, count, total / num_rows)
        case "multi-label":
            loss = partial(multi_label_loss, weights_C=weights_C)
            if weights_C is None:
                return Weighing(loss, count_rows)
            total = float((num_rows_C * weights_C.numpy() + num_rows - num_rows_C).mean())
            count = partial(multi_label_weight, weights_C=weights_C)
            return Weighing(loss, count, total / num_rows)
        case "regression":  # of which -100 is a fair target
            return Weighing(regression_loss, count_rows)


def measure(
    measured: Measured, *, setup: Setup, judge: _Judge, weighing: Weighing
) -> dict[str, float]:
    """Return the metrics, those that are defined on these rows."""
    logits = torch.from_numpy(np.stack(measured.predictions))
    labels = torch.from_numpy(np.array(measured.rows.values("labels"))).reshape(len(logits), -1)
    if not isinstance(judge, MultiLabelJudge):
        labels = labels[:, 0]
    with torch.no_grad():  # the loop's own is a mean over batches, whatever their weights
        count = weighing.weight({"labels": labels})
        loss = weighing.loss(SimpleNamespace(logits=logits), labels, count)
    metrics = judge.scores(measured) | {"loss": float(loss)}
    if undefined := [name for name in setup.spec.metrics() if name not in metrics]:
        message = (
            f"{', '.join(undefined)} left out of the {measured.split} metrics: not defined where "
            "all rows, or all predictions, are the same."
        )
        hint = "Give more rows to measure on."
        setup.reporter.report(Warned("metric_undefined", message, hint))
    return metrics


def build(setup: Setup) -> Recipe:
    """Return the recipe of text classification."""
    spec = setup.spec
    assert isinstance(spec, TextClassification), f"a spec of another task: {spec.task}"
    classes = _class_names(setup, spec)
    weighing = weigh(setup, spec, classes)
    judge = _judge(spec, classes)
    loaded = load_scorer(
        setup.base, spec, problem=spec.problem, classes=classes, reporter=setup.reporter
    )
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_rows(setup, spec, classes=classes)
    return Recipe(
        model=loaded.model,
        tokenizer=setup.base.tokenizer,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        collate=_collator(setup, spec),
        forward_loss=LossOfLabels(weighing.loss),
        count_targets=weighing.weight,
        targets_per_row=weighing.weight_per_row,
        predict=logits_of,
        measure=partial(measure, setup=setup, judge=judge, weighing=weighing),
        details=judge.details,
        predictions=judge.predictions,
        adapter_task="SEQ_CLS",
        new_modules=loaded.new_modules,
        num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
        classes=classes,
        pipeline="text-classification",
        usage=_USAGE.replace("{input}", _PAIR if spec.columns.text_pair else _TEXT),
    )


def _collator(setup: Setup, spec: TextClassification) -> Collator:
    tokenizer = setup.base.tokenizer
    return ClassificationCollator(
        pad_token_id=padding_id(tokenizer),
        has_token_types="token_type_ids" in tokenizer.model_input_names,
        is_multi_label=spec.problem == "multi-label",
    )


def _judge(spec: TextClassification, classes: tuple[str, ...]) -> _Judge:
    match spec.problem:
        case "single-label":
            return SingleLabelJudge(classes)
        case "multi-label":
            return MultiLabelJudge(classes, spec.threshold)
        case "regression":
            return RegressionJudge()


_TEXT = '"A text to classify"'
_PAIR = '{"text": "A text", "text_pair": "Another text"}'
_USAGE = """\
from transformers import pipeline

classify = pipeline("text-classification", model="{folder}")
print(classify({input}))
"""
