"""Token classification: the tag of each word, or the spans of a text that are of a class.

    {"tokens": ["Ada", "met", "Bob"], "tags": ["B-PER", "O", "B-PER"]}
    {"text": "Ada met Bob", "spans": [{"start": 0, "end": 3, "label": "PER"}]}

A word's tag is learnt at its first token, a span's at all its tokens, as B- and I-. What is judged,
a unit, is a word, or a token of a text with spans. A unit without a token, because it was cut or
because the tokenizer makes none of it, is never found: it counts as guessed to be outside.

Shapes: B rows of a batch, T tokens, U units of a row, C classes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForTokenClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING

from trainer_core.errors import UnusableModel
from trainer_core.events import Phase, Warned
from trainer_core.rows.checking import rows_of
from trainer_core.spec.tasks.token_classification import (
    OUTSIDE,
    SpansRow,
    TaggedRow,
    TokenClassification,
)
from trainer_core.training.data.batching import attention_mask, pad_rows
from trainer_core.training.data.tags import (
    Scheme,
    entities_of,
    scheme_of,
    stray_tags,
    tag_metrics,
    tag_table,
)
from trainer_core.training.data.tokens import Array, TokenRow, padding_id
from trainer_core.training.models.alignment import (
    NO_TOKEN,
    check_places,
    encode_places,
    join_words,
    units_of_spans,
    units_of_words,
)
from trainer_core.training.models.base_model import LoadedModel, check_architecture
from trainer_core.training.models.heads import known_classes, load_with_classes
from trainer_core.training.recipes.recipe import (
    Batch,
    LossOfLabels,
    Measured,
    Recipe,
    Setup,
    count_labels,
)
from trainer_core.training.recipes.token_losses import TokenLoss
from trainer_core.training.recipes.tokenizing import Tokenized, tokenize_splits


def tokenize_rows(
    setup: Setup, spec: TokenClassification, *, classes: Sequence[str]
) -> dict[str, Tokenized]:
    """Return the tokens and units of every split; counted are rows cut and units with a token."""
    max_length = spec.max_length
    assert max_length != "auto", "the spec is resolved before"
    number = {name: position for position, name in enumerate(classes)}

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        joined = [join_words(row.tokens) if isinstance(row, TaggedRow) else row for row in rows]
        texts = [text.text for text in joined]
        placed = encode_places(setup.base.tokenizer, texts, max_length=max_length)
        for row, words, tokens in zip(rows, joined, placed, strict=True):
            if isinstance(row, SpansRow):
                units = units_of_spans(row, tokens)
            else:
                units = units_of_words(row, words, tokens)
            counts["truncated"] += tokens.is_truncated
            counts["targets"] += int((units.tokens != NO_TOKEN).sum())
            yield {
                "input_ids": np.asarray(tokens.ids),
                "token_type_ids": np.asarray(tokens.type_ids),
                "unit_tokens": units.tokens,
                "unit_tags": np.array([number[tag] for tag in units.tags]),
                "unit_starts": units.starts,
                "unit_ends": units.ends,
            }

    columns: dict[str, type] = {"input_ids": np.int32, "token_type_ids": np.int8}
    columns |= dict.fromkeys(("unit_tokens", "unit_tags", "unit_starts", "unit_ends"), np.int32)
    return tokenize_splits(setup, columns=columns, encode=encode_rows)


def load(setup: Setup, spec: TokenClassification, classes: tuple[str, ...]) -> LoadedModel:
    """Return the model with a head for the classes; one for other classes begins anew."""
    return load_with_classes(
        setup.base,
        AutoModelForTokenClassification,
        classes=classes,
        is_known=known_classes(setup.base.config) == classes,
        changes={"pad_token_id": padding_id(setup.base.tokenizer)},
        seed=spec.training.seed,
        reporter=setup.reporter,
    )


def _class_names(setup: Setup) -> tuple[str, ...]:
    """Return the classes in the order of the model's outputs."""
    found = setup.found.classes
    known = known_classes(setup.base.config)
    # A head that knows the very same classes keeps its order: its weights belong to it.
    if sorted(known) == sorted(found):
        return known
    return tuple(sorted(found, key=lambda name: name != OUTSIDE))


@dataclass(frozen=True, slots=True)
class TagCollator:
    """Pads the rows of a batch to its longest; tokens that are of no unit have the label -100."""

    pad_token_id: int
    has_token_types: bool

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
        ids = [row["input_ids"] for row in rows]
        batch = {
            "input_ids": pad_rows(ids, value=self.pad_token_id),
            "attention_mask": attention_mask(ids),
            "labels": pad_rows(list(map(_labels, rows)), value=-100),
        }
        if self.has_token_types:
            batch["token_type_ids"] = pad_rows([row["token_type_ids"] for row in rows], value=0)
        return batch


def _labels(row: TokenRow) -> Array:
    labels_T = np.full(len(row["input_ids"]), -100)
    has_token_U = row["unit_tokens"] != NO_TOKEN
    labels_T[row["unit_tokens"][has_token_U]] = row["unit_tags"][has_token_U]
    return labels_T


def _count_targets(batch: Batch) -> torch.Tensor:
    # A text of nothing but characters that the tokenizer drops has no target.
    return count_labels(batch).clamp(min=1)


def guesses_and_losses(_model: Any, batch: Batch, output: Any) -> torch.Tensor:
    """Return of each token its likeliest class and its loss in nats, (B, T, 2)."""
    logits_BTC = output.logits.float()
    losses_BT = functional.cross_entropy(
        logits_BTC.transpose(1, 2), batch["labels"], reduction="none"
    )
    return torch.stack([logits_BTC.argmax(-1).float(), losses_BT], dim=-1)


@dataclass(frozen=True, slots=True)
class TagJudge:
    """Compares the tags that were guessed with those of the rows."""

    classes: tuple[str, ...]
    scheme: Scheme

    def metrics(self, measured: Measured) -> dict[str, float]:
        """Return F1 and its like, and the mean loss of all units that have a token."""
        losses: list[Array] = []
        for number, row_T2 in enumerate(measured.predictions):
            tokens_U = measured.rows[number]["unit_tokens"]
            losses.append(row_T2[tokens_U[tokens_U != NO_TOKEN], 1])
        truth, guesses = self.truth(measured), list(self.guesses(measured))
        metrics = tag_metrics(truth, guesses, scheme=self.scheme)
        found = np.concatenate(losses)
        return metrics | {"loss": float(found.mean(dtype=np.float64))} if len(found) else metrics

    def details(self, measured: Measured) -> dict[str, Any]:
        """Return the figures of each class, and how many units could not be found."""
        tokens = measured.rows.values("unit_tokens")
        truth, guesses = self.truth(measured), list(self.guesses(measured))
        return {
            "classes": tag_table(truth, guesses, scheme=self.scheme),
            "num_units": len(tokens),
            "num_units_without_token": int((tokens == NO_TOKEN).sum()),
        }

    def truth(self, measured: Measured) -> list[list[str]]:
        """Return the tag of each unit, row by row."""
        return [
            [self.classes[tag] for tag in measured.rows[number]["unit_tags"]]
            for number in range(len(measured.rows))
        ]

    def guesses(self, measured: Measured) -> Iterator[list[str]]:
        """Yield the tags guessed for each row's units."""
        names = np.array([*self.classes, OUTSIDE], dtype=object)
        for number, row_T2 in enumerate(measured.predictions):
            tokens_U = measured.rows[number]["unit_tokens"]
            guesses_U = row_T2[tokens_U, 0].astype(np.int64)
            yield names[np.where(tokens_U == NO_TOKEN, -1, guesses_U)].tolist()


def predicted_tags(measured: Measured, *, judge: TagJudge) -> Iterator[Mapping[str, Any]]:
    """Yield the tag of each word of a row."""
    for tags in judge.guesses(measured):
        yield {"tags": tags}


def predicted_spans(
    measured: Measured, *, judge: TagJudge, setup: Setup
) -> Iterator[Mapping[str, Any]]:
    """Yield the spans that were found in each text."""
    texts = rows_of(setup.found, measured.split, setup.files)
    for number, (row, tags) in enumerate(zip(texts, judge.guesses(measured), strict=True)):
        assert isinstance(row, SpansRow), "the columns are those that were tokenized"
        units = measured.rows[number]
        spans = [
            {"start": start, "end": end, "label": entity.label, "text": row.text[start:end]}
            for entity in entities_of(tags, scheme=judge.scheme)
            for start in [int(units["unit_starts"][entity.first])]
            for end in [int(units["unit_ends"][entity.last])]
            if start < end  # else it is white space
        ]
        yield {"spans": spans}


def build(setup: Setup) -> Recipe:
    """Return the recipe of token classification."""
    spec = setup.spec
    assert isinstance(spec, TokenClassification), f"a spec of another task: {spec.task}"
    tokenizer = setup.base.tokenizer
    check_architecture(setup.base, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING, task=spec.task)
    check_places(tokenizer)
    classes = _class_names(setup)
    judge = TagJudge(classes, scheme_of(classes))
    _tell_strays(setup, classes)
    loaded = load(setup, spec, classes)
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_rows(setup, spec, classes=classes)
    has_spans = spec.columns.spans is not None
    return Recipe(
        model=loaded.model,
        tokenizer=tokenizer,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        collate=TagCollator(padding_id(tokenizer), "token_type_ids" in tokenizer.model_input_names),
        forward_loss=LossOfLabels(TokenLoss(spec.training.label_smoothing)),
        count_targets=_count_targets,
        targets_per_row=_targets_per_row(tokenized["train"]),
        predict=guesses_and_losses,
        measure=judge.metrics,
        details=judge.details,
        predictions=(
            partial(predicted_spans, judge=judge, setup=setup)
            if has_spans
            else partial(predicted_tags, judge=judge)
        ),
        adapter_task="TOKEN_CLS",
        new_modules=loaded.new_modules,
        num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
        classes=classes,
        pipeline="token-classification",
        usage=_USAGE.replace("{strategy}", "simple" if has_spans else "first"),
    )


def _targets_per_row(tokenized: Tokenized) -> float:
    if not tokenized.counts["targets"]:
        raise UnusableModel("the model's tokenizer makes no token of any word of the rows.")
    return tokenized.counts["targets"] / len(tokenized.rows)


def _tell_strays(setup: Setup, classes: Sequence[str]) -> None:
    if strays := stray_tags(classes):
        message = (
            f"the tags {', '.join(strays)[:200]} have no prefix such as B- and others have; each "
            "run of a tag is taken for one entity, and prefixes for parts of names."
        )
        setup.reporter.report(Warned("tags_mixed", message, "Give all tags a prefix, or none."))


_USAGE = """\
from transformers import pipeline

tag = pipeline("token-classification", model="{folder}", aggregation_strategy="{strategy}")
print(tag("A text in which to find something"))
"""
