"""Text classification: one class a text or pair of texts, several, or a number.

    {"text": "My card was swallowed", "label": "card_lost"}             single-label
    {"text": "Where is it? And cancel!", "label": ["order", "cancel"]}  multi-label
    {"text": "A man sings", "text_pair": "Someone sings", "label": 4.2} regression

Shapes: B rows of a batch, T tokens, C classes (1 for regression).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from trainer_core.errors import DataError, UnusableModel
from trainer_core.events import Phase, Reporter, Warned
from trainer_core.spec.tasks.text_classification import TextClassification
from trainer_core.training.batching import attention_mask, pad_rows
from trainer_core.training.heads import known_classes, loaded_heads, renew_heads
from trainer_core.training.models import LoadedModel, check_architecture, load_model
from trainer_core.training.recipe import (
    Collator,
    LossOfLabels,
    Measured,
    Recipe,
    Setup,
    count_labels,
    count_rows,
    logits_of,
)
from trainer_core.training.tokenizing import Tokenized, tokenize_splits
from trainer_core.training.tokens import Array, TokenRow, encode

_PROBLEM_TYPES = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}


def tokenize_rows(
    setup: Setup, spec: TextClassification, *, classes: Sequence[str]
) -> dict[str, Tokenized]:
    """Return the tokens and labels of every split."""
    max_length = spec.max_length
    assert max_length != "auto", "the spec is resolved before"
    encode_label = _label_encoder(spec, classes)

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        encoded = encode(setup.base.tokenizer, list(map(_texts, rows)), max_length=max_length)
        for row, tokens in zip(rows, encoded, strict=True):
            counts["truncated"] += tokens.is_truncated
            yield {
                "input_ids": np.asarray(tokens.ids),
                "token_type_ids": np.asarray(tokens.type_ids),
                "labels": encode_label(row),
            }

    dtype = np.float32 if spec.problem != "single-label" else np.int64
    columns = {"input_ids": np.int32, "token_type_ids": np.int8, "labels": dtype}
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


def load(setup: Setup, *, problem: str, classes: tuple[str, ...]) -> LoadedModel:
    """Return the model with a head for the classes; one for other classes begins anew."""
    spec = setup.spec
    check_architecture(setup.base, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, task=spec.task)
    known = known_classes(setup.base.config)
    changes = {
        "problem_type": _PROBLEM_TYPES[problem],
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
    }
    tokenizer = setup.base.tokenizer
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UnusableModel("the model's tokenizer has neither a padding nor an end token.")
        tokenizer.pad_token = tokenizer.eos_token
    changes["pad_token_id"] = tokenizer.pad_token_id  # decoders pool the last token that is no pad
    loaded = load_model(
        setup.base,
        AutoModelForSequenceClassification,
        changes=changes,
        seed=spec.training.seed,
        is_head_new=True,
    )
    is_for_these = len(known) == 1 if problem == "regression" else known == classes
    if is_for_these or not loaded_heads(loaded):
        return loaded
    message = f"the model's head is for other classes ({', '.join(known)[:200]}); it begins anew."
    setup.reporter.report(Warned("head_renewed", message))
    return renew_heads(loaded, seed=spec.training.seed)


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
    output: Any, labels_B: torch.Tensor, num_rows: torch.Tensor, *, smoothing: float
) -> torch.Tensor:
    """Return the mean cross-entropy in nats; smoothed while training only."""
    total = functional.cross_entropy(
        output.logits.float(),
        labels_B,
        reduction="sum",
        label_smoothing=smoothing if torch.is_grad_enabled() else 0.0,
    )
    return total / num_rows


def multi_label_loss(output: Any, labels_BC: torch.Tensor, num_rows: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy in nats, over rows and classes."""
    total = functional.binary_cross_entropy_with_logits(
        output.logits.float(), labels_BC, reduction="sum"
    )
    return total / (num_rows * labels_BC.shape[1])


def regression_loss(output: Any, labels_B: torch.Tensor, num_rows: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error."""
    total = functional.mse_loss(output.logits[:, 0].float(), labels_B, reduction="sum")
    return total / num_rows


def single_label_metrics(measured: Measured) -> dict[str, float]:
    """Return accuracy and the unweighted mean of the classes' F1."""
    guesses_B = np.stack(measured.predictions).argmax(axis=-1)
    truth_B = measured.rows.values("labels")
    return {
        "accuracy": float(accuracy_score(truth_B, guesses_B)),
        "macro_f1": _macro_f1(truth_B, guesses_B, classes=np.unique(truth_B)),
    }


def multi_label_metrics(measured: Measured, *, threshold: float) -> dict[str, float]:
    """Return F1 over classes and over all decisions, and the share of rows that are all right."""
    # The probability reaches the threshold where the logit reaches the threshold's own.
    cut = math.log(threshold / (1 - threshold))
    guesses_BC = (np.stack(measured.predictions) >= cut).astype(int)
    truth_BC = measured.rows.values("labels").reshape(guesses_BC.shape).astype(int)
    return {
        "macro_f1": _macro_f1(truth_BC, guesses_BC, classes=np.flatnonzero(truth_BC.any(axis=0))),
        "micro_f1": float(f1_score(truth_BC, guesses_BC, average="micro", zero_division=0)),
        "accuracy": float((guesses_BC == truth_BC).all(axis=1).mean()),
    }


def _macro_f1(truth: Any, guesses: Any, *, classes: Any) -> float:
    """Return the mean F1 of the classes that some row has: of others there is nothing to find."""
    if not len(classes):
        return 0.0
    return float(f1_score(truth, guesses, labels=classes, average="macro", zero_division=0))


def regression_metrics(measured: Measured, *, reporter: Reporter) -> dict[str, float]:
    """Return the mean squared error and Pearson's correlation, where that is defined."""
    guesses_B = np.stack(measured.predictions)[:, 0].astype(np.float64)
    truth_B = measured.rows.values("labels").astype(np.float64)
    metrics = {"mse": float(np.square(guesses_B - truth_B).mean())}
    if len(truth_B) < 2 or not guesses_B.std() > 0 or not truth_B.std() > 0:
        reporter.report(
            Warned(
                "metric_undefined",
                "pearson is left out: all predictions, or all labels, are the same number.",
                "Give more rows to evaluate on.",
            )
        )
        return metrics
    return metrics | {"pearson": float(pearsonr(guesses_B, truth_B).statistic)}


def build(setup: Setup) -> Recipe:
    """Return the recipe of text classification."""
    spec = setup.spec
    assert isinstance(spec, TextClassification), f"a spec of another task: {spec.task}"
    classes = _class_names(setup, spec)
    loaded = load(setup, problem=spec.problem, classes=classes)
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_rows(setup, spec, classes=classes)
    return Recipe(
        model=loaded.model,
        tokenizer=setup.base.tokenizer,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        collate=_collator(setup, spec),
        targets_per_row=1.0,
        predict=logits_of,
        adapter_task="SEQ_CLS",
        new_modules=loaded.new_modules,
        num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
        classes=classes,
        pipeline="text-classification",
        usage=_USAGE,
        **_measures(setup, spec),
    )


def _collator(setup: Setup, spec: TextClassification) -> Collator:
    tokenizer = setup.base.tokenizer
    assert isinstance(tokenizer.pad_token_id, int), "set with the model"
    return ClassificationCollator(
        pad_token_id=tokenizer.pad_token_id,
        has_token_types="token_type_ids" in tokenizer.model_input_names,
        is_multi_label=spec.problem == "multi-label",
    )


def _measures(setup: Setup, spec: TextClassification) -> Mapping[str, Any]:
    match spec.problem:
        case "single-label":
            loss = partial(single_label_loss, smoothing=spec.training.label_smoothing)
            metrics: Any = single_label_metrics
            count = count_labels
        case "multi-label":
            loss = partial(multi_label_loss)
            metrics = partial(multi_label_metrics, threshold=spec.threshold)
            count = count_rows
        case "regression":  # of which -100 is a fair target
            loss = partial(regression_loss)
            metrics = partial(regression_metrics, reporter=setup.reporter)
            count = count_rows
    return {"forward_loss": LossOfLabels(loss), "measure": metrics, "count_targets": count}


_USAGE = """\
from transformers import pipeline

classify = pipeline("text-classification", model="{folder}")
print(classify("A text to classify"))
"""
