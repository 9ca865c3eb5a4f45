"""Extractive question answering: the part of a text that answers a question, or none.

    {"context": "Oslo is in Norway.", "question": "Where is Oslo?",
     "answers": [{"text": "Norway", "answer_start": 11}]}

A context that is too long is read in windows that overlap, each of which is an example. A window
without the answer learns the place of no answer: the classification token, else the first one.

Shapes: B windows of a batch, T tokens.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING

from trainer_core.errors import FieldProblem, InvalidSpec, UnusableModel
from trainer_core.events import Phase, Warned
from trainer_core.spec.tasks.question_answering import Answer, QuestionAnswering
from trainer_core.training.data.batching import attention_mask, pad_rows
from trainer_core.training.data.spans import Guess, best_spans, choose_answer, span_loss
from trainer_core.training.data.tokens import Array, TokenRow, padding_id
from trainer_core.training.data.windows import Window, cut_texts, make_windows
from trainer_core.training.metrics.squad import score_answers
from trainer_core.training.models.base_model import (
    BaseModel,
    LoadedModel,
    check_architecture,
    load_model,
)
from trainer_core.training.recipes.recipe import Batch, Measured, Recipe, Setup, count_rows
from trainer_core.training.recipes.tokenizing import Tokenized, tokenize_splits

_CODES = {"cut": "questions_truncated", "lost": "answers_lost", "long": "answers_too_long"}
_SLACK = 4  # tokens: where a question is cut, its end may come out as more of them


def tokenize_rows(setup: Setup, spec: QuestionAnswering) -> dict[str, Tokenized]:
    """Return the windows of every split; with the first of a row its texts, in UTF-8.

    Counted are rows, questions that were cut, answers that no window has whole, and those of more
    tokens than an answer may have.
    """
    tokenizer, max_length = setup.base.tokenizer, spec.max_length
    assert max_length != "auto", "the spec is resolved before"

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        asked = [row.question for row in rows]
        questions = cut_texts(tokenizer, asked, max_tokens=spec.max_question_length)
        counts["cut"] += sum(len(a) < len(b) for a, b in zip(questions, asked, strict=True))
        pairs = [(question, row.context) for question, row in zip(questions, rows, strict=True)]
        windows_of = make_windows(tokenizer, pairs, max_length=max_length, stride=spec.doc_stride)
        for row, windows in zip(rows, windows_of, strict=True):
            places = [_find(window, row.answers) for window in windows]
            found = [last - first + 1 for first, last in filter(None, places)]
            counts["lost"] += bool(row.answers) and not found
            counts["long"] += any(length > spec.max_answer_length for length in found)
            texts = _texts(row.context, [answer.text for answer in row.answers])
            for window, place in zip(windows, places, strict=True):
                null = _null_place(tokenizer, window)
                token_row = _token_row(window, place or (null, null), null, row=counts["rows"])
                yield token_row | texts
                texts = _texts("", None)
            counts["rows"] += 1

    columns = {
        "input_ids": np.int32,
        "token_type_ids": np.int8,
        "places": np.int32,  # of each token in the context: start, end, start, end ...
        "labels": np.int32,  # the answer's first and last token
        "null": np.int32,
        "row": np.int64,
        "context": np.uint8,
        "answers": np.uint8,  # JSON
    }
    return tokenize_splits(setup, columns=columns, encode=encode_rows)


def _find(window: Window, answers: Sequence[Answer]) -> tuple[int, int] | None:
    """Return the first and the last token of the first answer, without the space around it."""
    if not answers:
        return None
    text = answers[0].text
    start = answers[0].answer_start + len(text) - len(text.lstrip())
    return window.find(start, start + len(text.strip()))


def _null_place(tokenizer: PreTrainedTokenizerBase, window: Window) -> int:
    ids, token = list(window.ids), tokenizer.cls_token_id
    return ids.index(token) if token in ids else 0


def _token_row(window: Window, label: tuple[int, int], null: int, *, row: int) -> TokenRow:
    return {
        "input_ids": np.asarray(window.ids),
        "token_type_ids": np.asarray(window.type_ids),
        "places": window.places.reshape(-1),
        "labels": np.array(label),
        "null": np.array([null]),
        "row": np.array([row]),
    }


def _texts(context: str, answers: list[str] | None) -> TokenRow:
    """Return the texts of a row by which it is judged, or nothing in their place."""
    parts = {"context": context, "answers": "" if answers is None else json.dumps(answers)}
    return {name: np.frombuffer(text.encode(), dtype=np.uint8) for name, text in parts.items()}


def check_windows(base: BaseModel, spec: QuestionAnswering) -> None:
    """Raise unless contexts can be read in windows: the tokenizer's part, and the room's."""
    if not base.tokenizer.is_fast:
        raise UnusableModel(
            "the model's tokenizer can't say where in a text its tokens are.",
            hint="Use a model with a fast tokenizer, one with a tokenizer.json.",
        )
    assert spec.max_length != "auto", "the spec is resolved before"
    special = base.tokenizer.num_special_tokens_to_add(pair=True)
    room = spec.max_length - special - spec.max_question_length - _SLACK
    if room <= spec.doc_stride:
        message = (
            f"{spec.doc_stride} tokens shared by neighbouring windows are too many: of max_length "
            f"({spec.max_length}) the longest question (max_question_length "
            f"{spec.max_question_length}) leaves {max(0, room)} to the context"
        )
        hint = "Lower it or max_question_length, or raise max_length."
        raise InvalidSpec([FieldProblem("/doc_stride", message, hint)])


def load(base: BaseModel, spec: QuestionAnswering) -> LoadedModel:
    """Return the model; a head for question answering that it has is kept: it means the same."""
    check_architecture(base, MODEL_FOR_QUESTION_ANSWERING_MAPPING, task=spec.task)
    changes = {"num_labels": 2, "pad_token_id": padding_id(base.tokenizer)}
    return load_model(
        base,
        AutoModelForQuestionAnswering,
        changes=changes,
        seed=spec.training.seed,
        is_head_new=True,
    )


@dataclass(frozen=True, slots=True)
class WindowCollator:
    """Pads the windows of a batch to its longest, and marks what of them is context."""

    pad_token_id: int
    has_token_types: bool

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
        ids = [row["input_ids"] for row in rows]
        batch = {
            "input_ids": pad_rows(ids, value=self.pad_token_id),
            "attention_mask": attention_mask(ids),
            "labels": pad_rows([row["labels"] for row in rows], value=0),  # all are of two
            "null": pad_rows([row["null"] for row in rows], value=0),
            "is_context": pad_rows([row["places"][::2] >= 0 for row in rows], value=0).bool(),
        }
        if self.has_token_types:
            batch["token_type_ids"] = pad_rows([row["token_type_ids"] for row in rows], value=0)
        return batch


_NOT_FOR_THE_MODEL = {"labels", "null", "is_context"}


def forward_loss(model: Any, batch: Batch, num_windows: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Return the mean over the windows of the loss of start and end, and the output."""
    output = model(**{name: part for name, part in batch.items() if name not in _NOT_FOR_THE_MODEL})
    total = span_loss(
        output.start_logits,
        output.end_logits,
        batch["labels"],
        is_padding_BT=batch["attention_mask"].eq(0),
    )
    return total / num_windows, output


def is_answer(batch: Batch) -> torch.Tensor:
    """Return which tokens are of the answer, (B, T); without one it is the window's first."""
    places_T = torch.arange(batch["input_ids"].shape[1])
    first_B1, last_B1 = batch["labels"][:, :1], batch["labels"][:, 1:]
    return (places_T >= first_B1) & (places_T <= last_B1)


@dataclass(frozen=True, slots=True)
class PredictSpans:
    """Of each window the score of no answer, the best span's, its first and last token, (B, 4)."""

    max_answer_length: int

    def __call__(self, _model: Any, batch: Batch, output: Any) -> torch.Tensor:
        start_BT, end_BT = output.start_logits.float(), output.end_logits.float()
        score_B, first_B, last_B = best_spans(
            start_BT, end_BT, batch["is_context"], max_tokens=self.max_answer_length
        )
        null_B = (start_BT + end_BT).gather(1, batch["null"])[:, 0]
        return torch.stack([null_B, score_B, first_B.float(), last_B.float()], dim=1)


@dataclass(frozen=True, slots=True)
class Answering:
    """From the spans of windows to the answers to questions, and their metrics."""

    setup: Setup
    spec: QuestionAnswering

    def metrics(self, measured: Measured) -> dict[str, float]:
        """Return F1 and exact match, and apart for rows with and without an answer."""
        guesses, answers = [], []
        for wanted, guess in self._answered(measured):
            guesses.append(guess.text)
            answers.append(wanted)
        found = score_answers(guesses, answers)
        names = [name for name in self.spec.metrics() if name != "loss"]  # told by the loop
        for name in names:
            if name not in found:
                message = f"{name} is left out: no question that was measured is of that kind."
                self.setup.reporter.report(Warned("metric_undefined", message))
        return {name: found[name] for name in names if name in found}

    def predictions(self, measured: Measured) -> Iterator[Mapping[str, Any]]:
        """Yield the answer to each question; an empty text and no place for none."""
        for _, guess in self._answered(measured):
            yield asdict(guess)

    def _answered(self, measured: Measured) -> Iterator[tuple[list[str], Guess]]:
        """Yield of each row the answers that are right, and the one that is given."""
        row_of_window = measured.rows.values("row")
        by_row = groupby(range(len(measured.rows)), key=lambda window: row_of_window[window])
        for _, group in by_row:
            windows = list(group)
            first = measured.rows[windows[0]]
            context = first["context"].tobytes().decode()
            answers: list[str] = json.loads(first["answers"].tobytes())
            yield answers, self._answer(context, windows, measured)

    def _answer(self, context: str, windows: Sequence[int], measured: Measured) -> Guess:
        def places_of(best: int) -> Array:
            return measured.rows[windows[best]]["places"].reshape(-1, 2)

        spans_W4 = np.stack([measured.predictions[window] for window in windows])
        threshold = self.spec.no_answer_threshold if self.spec.has_no_answers else None
        return choose_answer(context, spans_W4, places_of, null_threshold=threshold)


def build(setup: Setup) -> Recipe:
    """Return the recipe of question answering."""
    spec = setup.spec
    assert isinstance(spec, QuestionAnswering), f"a spec of another task: {spec.task}"
    check_windows(setup.base, spec)
    loaded = load(setup.base, spec)
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_rows(setup, spec)
    for split, tokens in tokenized.items():
        _tell(setup, spec, split=split, counts=tokens.counts)
    tokenizer = setup.base.tokenizer
    answering = Answering(setup, spec)
    return Recipe(
        model=loaded.model,
        tokenizer=tokenizer,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        collate=WindowCollator(
            padding_id(tokenizer), "token_type_ids" in tokenizer.model_input_names
        ),
        forward_loss=forward_loss,
        count_targets=count_rows,
        targets_per_row=1.0,
        predict=PredictSpans(spec.max_answer_length),
        measure=answering.metrics,
        predictions=answering.predictions,
        adapter_task=None,  # peft's own class for this task keeps the token types from the model
        new_modules=loaded.new_modules,
        num_truncated={},
        classes=(),
        pipeline="question-answering",
        usage=_usage(spec),
        is_learnt=is_answer,
    )


def _tell(setup: Setup, spec: QuestionAnswering, *, split: str, counts: Mapping[str, int]) -> None:
    """Report questions that are not learnt, or can't be answered, as they were given."""
    told = (
        ("cut", f"a question of more than {spec.max_question_length} tokens, which is cut",
         "Raise max_question_length."),
        ("lost", "an answer that no window has whole", "Raise doc_stride and max_length."),
        ("long", f"an answer of more than {spec.max_answer_length} tokens, the most that are given",
         "Raise max_answer_length."),
    )  # fmt: skip
    for name, what, hint in told:
        if counts[name]:
            message = f"{counts[name]} of {counts['rows']} {split} rows have {what}."
            setup.reporter.report(Warned(_CODES[name], message, hint))


def _usage(spec: QuestionAnswering) -> str:
    """Return lines that answer a question of one window; transformers has no pipeline for it."""
    usage = _USAGE + (_USAGE_WITH_NONE if spec.has_no_answers else _USAGE_WITH_ANSWER)
    for name, value in (
        ("max_length", spec.max_length),
        ("max_answer_length", spec.max_answer_length),
        ("threshold", spec.no_answer_threshold),
    ):
        usage = usage.replace(f"{{{name}}}", str(value))
    return usage


_USAGE = """\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForQuestionAnswering.from_pretrained("{folder}")
question, context = "Where is Oslo?", "Oslo is in Norway."
inputs = tokenizer(
    question,
    context,
    truncation="only_second",
    max_length={max_length},
    return_offsets_mapping=True,
    return_tensors="pt",
)
places = inputs.pop("offset_mapping")[0].tolist()
is_context = torch.tensor([part == 1 for part in inputs.sequence_ids(0)])
with torch.no_grad():
    output = model(**inputs)
scores = output.start_logits[0][:, None] + output.end_logits[0]
is_span = (is_context[:, None] & is_context).triu().tril({max_answer_length} - 1)
best = int(scores.masked_fill(~is_span, float("-inf")).argmax())
first, last = divmod(best, len(scores))
"""
_USAGE_WITH_ANSWER = """\
print(context[places[first][0] : places[last][1]])
"""
_USAGE_WITH_NONE = """\
has_answer = scores[0, 0] - scores[first, last] <= {threshold}
print(context[places[first][0] : places[last][1]] if has_answer else "no answer")
"""
