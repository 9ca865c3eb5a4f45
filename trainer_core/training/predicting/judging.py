"""Models that judge: labels, tags, answers in a text, choices, guesses, scores and vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec.tasks.messages import Message
from trainer_core.training.models.sentence_folders import pooling_module, read_form
from trainer_core.training.predicting.answers import Answers, Input, Opened, Tell

_NUM_GUESSES = 5


@dataclass(frozen=True, slots=True)
class Classifier:
    """Names the label of a text, the labels, or a number."""

    opened: Opened
    spec: Any

    def __call__(self, inputs: Sequence[Input], _: Mapping[str, Any], __: Tell) -> Answers:
        outputs, count = [], 0
        for one in inputs:
            pair = (one["text_pair"],) if "text_pair" in one else ()
            tokens = self.opened.encode(one["text"], *pair)
            count += tokens["input_ids"].numel()
            outputs.append(self._said(self.opened.run(tokens).logits[0].float()))
        return Answers(outputs, count)

    def _said(self, logits: torch.Tensor) -> dict[str, Any]:
        labels = self.opened.labels
        match self.spec.problem:
            case "regression":
                return {"score": float(logits[0])}
            case "multi-label":
                scores = logits.sigmoid().tolist()
                chosen = [n for n, score in enumerate(scores) if score >= self.spec.threshold]
                named: dict[str, Any] = {"labels": [labels[number] for number in chosen]}
            case _:
                scores = logits.softmax(-1).tolist()
                best = int(logits.argmax())
                named = {"label": labels[best], "score": scores[best]}
        return {**named, "scores": {labels[n]: score for n, score in enumerate(scores)}}


@dataclass(frozen=True, slots=True)
class Tagger:
    """Finds what is named in a text."""

    pipeline: Any  # transformers' own, which knows how tags become spans

    def __call__(self, inputs: Sequence[Input], _: Mapping[str, Any], __: Tell) -> Answers:
        outputs, count = [], 0
        for one in inputs:
            count += len(self.pipeline.tokenizer(one["text"])["input_ids"])
            found = [
                {
                    "label": entity["entity_group"],
                    "text": one["text"][entity["start"] : entity["end"]],
                    "start": int(entity["start"]),
                    "end": int(entity["end"]),
                    "score": float(entity["score"]),
                }
                for entity in self.pipeline(one["text"])
            ]
            outputs.append({"entities": found})
        return Answers(outputs, count)


@dataclass(frozen=True, slots=True)
class QuestionAnswerer:
    """Finds the answer to a question in a text, window by window."""

    opened: Opened
    spec: Any

    def __call__(self, inputs: Sequence[Input], _: Mapping[str, Any], __: Tell) -> Answers:
        found = [self._answer(one["question"], one["context"]) for one in inputs]
        return Answers([output for output, _ in found], sum(count for _, count in found))

    def _answer(self, question: str, context: str) -> tuple[dict[str, Any], int]:
        tokens = self.opened.encode(
            question,
            context,
            truncation="only_second",
            max_length=self.spec.max_length,
            stride=min(self.spec.doc_stride, self.spec.max_length // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding=True,
        )
        places = tokens.pop("offset_mapping").tolist()
        tokens.pop("overflow_to_sample_mapping")
        output = self.opened.run(tokens)
        best: tuple[float, float, int, int] | None = None  # score, of none, start, end
        for window, offsets in enumerate(places):
            inside = torch.tensor([part == 1 for part in tokens.sequence_ids(window)])
            scores = (output.start_logits[window][:, None] + output.end_logits[window]).cpu()
            is_span = (inside[:, None] & inside).triu().tril(self.spec.max_answer_length - 1)
            place = int(scores.masked_fill(~is_span, float("-inf")).argmax())
            first, last = divmod(place, len(scores))
            score, none = float(scores[first, last]), float(scores[0, 0])
            if best is None or score - none > best[0] - best[1]:
                best = (score, none, offsets[first][0], offsets[last][1])
        assert best is not None, "a text has one window at least"
        score, none, start, end = best
        count = tokens["input_ids"].numel()
        if self.spec.has_no_answers and none - score > self.spec.no_answer_threshold:
            return {"answer": None, "start": None, "end": None, "score": score - none}, count
        said = {"answer": context[start:end], "start": start, "end": end, "score": score - none}
        return said, count


@dataclass(frozen=True, slots=True)
class Chooser:
    """Chooses one of several answers."""

    opened: Opened

    def __call__(self, inputs: Sequence[Input], _: Mapping[str, Any], __: Tell) -> Answers:
        outputs, count = [], 0
        for one in inputs:
            first, choices = one["question"], list(one["choices"])
            if "context" in one:
                choices = [f"{first} {choice}" for choice in choices]
                first = one["context"]
            tokens = self.opened.encode([first] * len(choices), choices, padding=True)
            count += tokens["input_ids"].numel()
            logits = self.opened.run({n: tensor[None] for n, tensor in tokens.items()}).logits[0]
            scores = logits.float().softmax(-1).tolist()
            best = int(logits.argmax())
            outputs.append({"choice": best, "text": one["choices"][best], "scores": scores})
        return Answers(outputs, count)


@dataclass(frozen=True, slots=True)
class Guesser:
    """Says what a masked word may be."""

    opened: Opened

    def __call__(self, inputs: Sequence[Input], _: Mapping[str, Any], __: Tell) -> Answers:
        tokenizer, outputs, count = self.opened.tokenizer, [], 0
        for place, one in enumerate(inputs):
            tokens = self.opened.encode(one["text"])
            masked = (tokens["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
            if not len(masked):
                message = f"has no {tokenizer.mask_token} to guess"
                raise InvalidSpec([FieldProblem(f"/inputs/{place}/text", message)])
            count += tokens["input_ids"].numel()
            chances = self.opened.run(tokens).logits[0, masked].float().softmax(-1)
            best = chances.topk(min(_NUM_GUESSES, chances.shape[-1]))
            outputs.append(
                {
                    "guesses": [
                        [
                            {"token": tokenizer.decode([number]).strip(), "score": score}
                            for score, number in zip(scores, numbers, strict=True)
                        ]
                        for scores, numbers in zip(
                            best.values.tolist(), best.indices.tolist(), strict=True
                        )
                    ]
                }
            )
        return Answers(outputs, count)


@dataclass(frozen=True, slots=True)
class Rewarder:
    """Says how good an answer is."""

    opened: Opened

    def __call__(self, inputs: Sequence[Input], _: Mapping[str, Any], __: Tell) -> Answers:
        outputs, count = [], 0
        for one in inputs:
            text = one.get("text") or conversation(self.opened, one["messages"], is_open=False)
            tokens = self.opened.encode(text, add_special_tokens="text" in one)
            count += tokens["input_ids"].numel()
            outputs.append({"score": float(self.opened.run(tokens).logits[0, 0])})
        return Answers(outputs, count)


class Embedder:
    """Turns a text into a vector."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._form = read_form(opened.base.path, opened.base.config)
        self._pool = pooling_module(
            self._form.pooling, num_dimensions=opened.model.config.get_text_config().hidden_size
        )

    def __call__(self, inputs: Sequence[Input], settings: Mapping[str, Any], _: Tell) -> Answers:
        before = self._form.prompts.get(settings.get("prompt") or "", "")
        outputs, count = [], 0
        for one in inputs:
            limit = self._form.max_length or self._opened.base.usual_length
            tokens = self._opened.encode(before + one["text"], max_length=limit)
            count += tokens["input_ids"].numel()
            features = {
                "token_embeddings": self._opened.run(tokens).last_hidden_state.float(),
                "attention_mask": tokens["attention_mask"].to(self._opened.device),
            }
            vector = self._pool(features)["sentence_embedding"]
            if self._form.is_normalized:
                vector = torch.nn.functional.normalize(vector)
            outputs.append({"vector": vector[0].tolist()})
        return Answers(outputs, count)


def conversation(opened: Opened, messages: Sequence[Mapping[str, Any]], *, is_open: bool) -> str:
    """Return messages as the model's template writes them; open ones ask for an answer."""
    if not opened.tokenizer.chat_template:
        message = "the model has no chat template, so it can't be asked in messages"
        raise InvalidSpec([FieldProblem("/messages", message, "Ask it with a prompt.")])
    turns = [Message.model_validate(one).for_template() for one in messages]
    text: str = opened.tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=is_open
    )
    return text


def tag_pipeline(opened: Opened) -> Any:
    """Return transformers' pipeline for tags, joined to spans where they have prefixes."""
    from transformers import pipeline

    names = opened.labels.values()
    has_spans = any(name.startswith(("B-", "I-")) for name in names)
    return pipeline(
        "token-classification",
        model=opened.model,
        tokenizer=opened.tokenizer,
        device=opened.device,
        aggregation_strategy="simple" if has_spans else "first",
    )
