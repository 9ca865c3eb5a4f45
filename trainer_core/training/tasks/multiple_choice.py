"""Multiple choice: the right one of several texts, such as answers to a question.

    {"context": "Oslo is in Norway.", "question": "Where is Oslo?",
     "choices": ["in Norway", "in Sweden"], "label": 0}

Each choice is read by itself, with the context, or else the question, before it, and gets a score.
The choices of a row compete with each other alone, however many they are.

Shapes: B rows of a batch, C choices of the row that has most, T tokens.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.metrics import accuracy_score
from transformers import AutoModelForMultipleChoice, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIPLE_CHOICE_MAPPING

from trainer_core.events import Phase
from trainer_core.rows.checking import rows_of
from trainer_core.spec.tasks.multiple_choice import MultipleChoice
from trainer_core.training.data.batching import attention_mask, pad_rows
from trainer_core.training.data.encoding import Encoded, encode
from trainer_core.training.data.tokens import Array, TokenRow, padding_id
from trainer_core.training.models.base_model import (
    BaseModel,
    LoadedModel,
    check_architecture,
    load_model,
)
from trainer_core.training.recipes.recipe import (
    LossOfLabels,
    Measured,
    Recipe,
    Setup,
    count_rows,
    logits_of,
)
from trainer_core.training.recipes.tokenizing import Tokenized, tell_left_out, tokenize_splits

_NO_LIMIT = 2**31 - 1


def tokenize_rows(setup: Setup, spec: MultipleChoice) -> dict[str, Tokenized]:
    """Return the choices of every row, end to end, with what comes before each.

    Counted are rows, and those whose context was cut; one with a choice that does not fit is
    dropped.
    """
    tokenizer, max_length = setup.base.tokenizer, spec.max_length
    assert max_length != "auto", "the spec is resolved before"

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        pairs = [pair for row in rows for pair in _pairs(row)]
        encoded = iter(_encode_pairs(tokenizer, pairs, max_length=max_length))
        for row in rows:
            choices = [next(encoded) for _ in row.choices]
            fitting = [choice for choice in choices if choice is not None]
            is_whole = len(fitting) == len(choices)
            counts["truncated"] += is_whole and any(choice.is_truncated for choice in fitting)
            if is_whole:
                yield _token_row(fitting, label=row.label, row=counts["rows"])
            counts["rows"] += 1

    columns = {
        "input_ids": np.int32,  # so that a row's length is what all of its choices cost
        "token_type_ids": np.int8,
        "num_tokens": np.int32,  # of each choice
        "labels": np.int64,
        "row": np.int64,
    }
    return tokenize_splits(setup, columns=columns, encode=encode_rows)


def _pairs(row: Any) -> Iterator[tuple[str, str]]:
    """Yield what of each choice may be cut, and what may not."""
    for choice in row.choices:
        if not row.context.strip():
            yield row.question, choice
        elif row.question.strip():
            yield row.context, f"{row.question} {choice}"
        else:
            yield row.context, choice


def _encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], *, max_length: int
) -> Iterator[Encoded | None]:
    """Yield the tokens of each pair, its first part cut; None where that would not do."""
    seconds = [("", second) for _, second in pairs]
    lengths = [len(alone.ids) for alone in encode(tokenizer, seconds, max_length=_NO_LIMIT)]
    fitting = [pair for pair, length in zip(pairs, lengths, strict=True) if length < max_length]
    encoded = iter(encode(tokenizer, fitting, max_length=max_length, cut="only_first"))
    for length in lengths:
        yield next(encoded) if length < max_length else None


def _token_row(choices: Sequence[Encoded], *, label: int, row: int) -> TokenRow:
    return {
        "input_ids": np.concatenate([choice.ids for choice in choices]),
        "token_type_ids": np.concatenate([choice.type_ids for choice in choices]),
        "num_tokens": np.array([len(choice.ids) for choice in choices]),
        "labels": np.array([label]),
        "row": np.array([row]),
    }


def load(base: BaseModel, spec: MultipleChoice) -> LoadedModel:
    """Return the model; a head for choices that it has is kept: it means the same."""
    check_architecture(base, MODEL_FOR_MULTIPLE_CHOICE_MAPPING, task=spec.task)
    return load_model(
        base,
        AutoModelForMultipleChoice,
        changes={"pad_token_id": padding_id(base.tokenizer)},
        seed=spec.training.seed,
        is_head_new=True,
    )


@dataclass(frozen=True, slots=True)
class ChoiceCollator:
    """Pads choices to the longest of the batch, and rows to the one with most choices.

    Labels are 1 for the right choice, 0 for a wrong one and -100 for none. A choice that fills a
    row up is one token of padding that is attended to: of no tokens at all the score would be NaN.
    """

    pad_token_id: int
    has_token_types: bool

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
        ids = _parts(rows, "input_ids", filler=self.pad_token_id)
        labels = [_marks(row) for row in rows]
        shape = (len(rows), max(map(len, labels)), -1)
        batch = {
            "input_ids": pad_rows(ids, value=self.pad_token_id).view(shape),
            "attention_mask": attention_mask(ids).view(shape),
            "labels": pad_rows(labels, value=-100),
        }
        if self.has_token_types:
            types = _parts(rows, "token_type_ids", filler=0)
            batch["token_type_ids"] = pad_rows(types, value=0).view(shape)
        return batch


def _parts(rows: Sequence[TokenRow], column: str, *, filler: int) -> list[Array]:
    """Return a column of each choice of each row, as many of every row."""
    most = max(len(row["num_tokens"]) for row in rows)
    parts: list[Array] = []
    for row in rows:
        of_row = np.split(row[column], np.cumsum(row["num_tokens"])[:-1])
        parts += [*of_row, *[np.array([filler])] * (most - len(of_row))]
    return parts


def _marks(row: TokenRow) -> Array:
    marks_C = np.zeros(len(row["num_tokens"]), dtype=np.int64)
    marks_C[row["labels"]] = 1
    return marks_C


def choice_loss(
    output: Any, labels_BC: torch.Tensor, num_rows: torch.Tensor, *, smoothing: float
) -> torch.Tensor:
    """Return the mean cross-entropy in nats over the choices of each row; smoothed in training.

    The probability that smoothing spreads goes to a row's own choices.
    """
    is_choice_BC = labels_BC.ne(-100)
    logits_BC = output.logits.float().masked_fill(~is_choice_BC, -torch.inf)
    losses_BC = -logits_BC.log_softmax(dim=1).masked_fill(~is_choice_BC, 0)  # never inf * 0
    total: torch.Tensor = losses_BC[labels_BC.eq(1)].sum()
    if smoothing and torch.is_grad_enabled():
        means_B = losses_BC.sum(dim=1) / is_choice_BC.sum(dim=1)
        total = (1 - smoothing) * total + smoothing * means_B.sum()
    return total / num_rows


def choice_metrics(measured: Measured) -> dict[str, float]:
    """Return the share of rows whose best choice is the right one."""
    guesses = [int(scores_C.argmax()) for scores_C in _scores(measured)]
    return {"accuracy": float(accuracy_score(measured.rows.values("labels"), guesses))}


def _scores(measured: Measured) -> Iterator[Array]:
    """Yield the scores of each row's own choices."""
    for number, scores_C in enumerate(measured.predictions):
        yield scores_C[: len(measured.rows[number]["num_tokens"])]


def choice_predictions(measured: Measured, *, setup: Setup) -> Iterator[Mapping[str, Any]]:
    """Yield the choice made of each row that was measured, and how probable it is."""
    numbers: list[int] = measured.rows.values("row").tolist()  # without those left out
    scores_of = dict(zip(numbers, _scores(measured), strict=True))
    rows: Iterator[Any] = rows_of(setup.found, measured.split, setup.files)
    for number, row in enumerate(rows):
        if number in scores_of:
            probabilities_C = softmax(scores_of[number].astype(np.float64))
            best = int(probabilities_C.argmax())
            probability = float(probabilities_C[best])
            choice = {"choice": best, "text": row.choices[best], "probability": probability}
            yield {"row": number, **choice}


def build(setup: Setup) -> Recipe:
    """Return the recipe of multiple choice."""
    spec = setup.spec
    assert isinstance(spec, MultipleChoice), f"a spec of another task: {spec.task}"
    loaded = load(setup.base, spec)
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_rows(setup, spec)
    tell_left_out(
        setup,
        tokenized,
        why=f"a choice does not fit into {spec.max_length} tokens",
        hint="Raise max_length, or shorten the choices, and the question where there is a context.",
        param="/max_length",
    )
    tokenizer = setup.base.tokenizer
    return Recipe(
        model=loaded.model,
        tokenizer=tokenizer,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        collate=ChoiceCollator(
            padding_id(tokenizer), "token_type_ids" in tokenizer.model_input_names
        ),
        forward_loss=LossOfLabels(partial(choice_loss, smoothing=spec.training.label_smoothing)),
        count_targets=count_rows,
        targets_per_row=1.0,
        predict=logits_of,
        measure=choice_metrics,
        predictions=partial(choice_predictions, setup=setup),
        adapter_task=None,
        new_modules=loaded.new_modules,
        num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
        classes=(),
        pipeline="multiple-choice",
        usage=_USAGE,
    )


_USAGE = """\
import torch
from transformers import AutoModelForMultipleChoice, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForMultipleChoice.from_pretrained("{folder}")
# With a context: the context first, and each choice behind the question and a space.
first, choices = "Where is Oslo?", ["in Norway", "in Sweden"]
inputs = tokenizer([first] * len(choices), choices, padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**{name: tensor[None] for name, tensor in inputs.items()}).logits
print(choices[int(logits.argmax())])
"""
