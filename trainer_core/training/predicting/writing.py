"""Models that write: what follows a prompt, an answer in a conversation, a summary."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.predictions import MAX_NEW_TOKENS, MAX_SECONDS
from trainer_core.training.predicting.answers import Answers, Input, Opened, Tell
from trainer_core.training.predicting.judging import conversation
from trainer_core.training.recipes.frames import choose_languages

_HALF_A_CHARACTER = "\ufffd"  # how a decoder shows bytes whose rest is not written yet


@dataclass(frozen=True, slots=True)
class Writer:
    """Goes on with a text, or answers in a conversation."""

    opened: Opened

    def __call__(self, inputs: Sequence[Input], settings: Mapping[str, Any], tell: Tell) -> Answers:
        outputs, num_read, num_written = [], 0, 0
        for place, one in enumerate(inputs):
            is_chat = "messages" in one
            text = (
                conversation(self.opened, one["messages"], is_open=True)
                if is_chat
                else one["prompt"]
            )
            tokens = self.opened.encode(
                text, truncation=False, max_length=None, add_special_tokens=not is_chat
            )
            length = tokens["input_ids"].shape[1]
            room = self._room(length, place=place)
            most = min(settings["max_new_tokens"], room)
            output, count = write(self.opened, tokens, {**settings, "max_new_tokens": most}, tell)
            outputs.append(output)
            num_read += length
            num_written += count
        return Answers(outputs, num_read, num_written)

    def _room(self, length: int, *, place: int) -> int:
        """Return how many tokens can follow a prompt."""
        most = self.opened.base.num_positions
        if most is None:
            return MAX_NEW_TOKENS
        if length >= most:
            message = f"has {length} tokens, and the model can take {most} with what it writes"
            raise InvalidSpec([FieldProblem(f"/inputs/{place}", message, "Shorten it.")])
        return most - length


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Writes what a text becomes: a summary, a translation."""

    opened: Opened
    spec: Any

    def __post_init__(self) -> None:
        choose_languages(self.opened.base, self.spec)

    def __call__(self, inputs: Sequence[Input], settings: Mapping[str, Any], tell: Tell) -> Answers:
        outputs, num_read, num_written = [], 0, 0
        for one in inputs:
            tokens = self.opened.encode((self.spec.source_prefix or "") + one["text"])
            output, count = write(self.opened, tokens, settings, tell)
            outputs.append(output)
            num_read += tokens["input_ids"].shape[1]
            num_written += count
        return Answers(outputs, num_read, num_written)


def write(
    opened: Opened, tokens: Mapping[str, torch.Tensor], settings: Mapping[str, Any], tell: Tell
) -> tuple[dict[str, Any], int]:
    """Return what the model writes, why it ended, and how many tokens that are."""
    if settings.get("seed") is not None:
        torch.manual_seed(settings["seed"])
    given = {name: tensor.to(opened.device) for name, tensor in tokens.items()}
    is_decoder = not opened.model.config.is_encoder_decoder
    num_before = given["input_ids"].shape[1] if is_decoder else 1
    page = _Page(opened.tokenizer, num_before, tuple(settings["stop"]), tell)
    temperature = settings["temperature"]
    drawing = {"temperature": temperature, "top_p": settings["top_p"]} if temperature else {}
    given.pop("token_type_ids", None)  # some tokenizers make them, and no model that writes
    model: Any = opened.model
    ids = model.generate(
        **given,
        **drawing,
        do_sample=temperature > 0,
        num_beams=1,  # a beam can't be told while it is written
        max_new_tokens=settings["max_new_tokens"],
        max_length=None,
        pad_token_id=_padding(opened),
        streamer=page,
        stopping_criteria=[page.is_over],
    )[0, num_before:]
    text, has_stopped = page.finish(ids)
    ends = _ends(model)
    is_ended = has_stopped or (len(ids) > 0 and int(ids[-1]) in ends)
    return {"text": text, "finish_reason": "stop" if is_ended else "length"}, len(ids)


class _Page(BaseStreamer):
    """What is written so far: told as it grows, and looked at for words to end before."""

    def __init__(self, tokenizer: Any, num_before: int, stops: tuple[str, ...], tell: Tell) -> None:
        self._tokenizer, self._num_before = tokenizer, num_before
        self._stops, self._tell = stops, tell
        self._told = 0  # characters
        # The beginning of such a word may be written, and is held back until it is none.
        self._num_held = max((len(stop) for stop in stops), default=1) - 1
        self._ids: list[int] = []
        self._is_prompt = True
        self.is_over = _Over(self)

    @property
    def has_stopped(self) -> bool:
        text = self._text() if self._stops else ""
        return any(stop in text for stop in self._stops)

    def put(self, value: torch.Tensor) -> None:
        if self._is_prompt:
            self._is_prompt = False
            return
        self._ids += value.flatten().tolist()
        if self._tell is not None:
            text = self._cut(self._text())
            if not text.endswith(_HALF_A_CHARACTER):
                self._say(text[: len(text) - self._num_held])

    def end(self) -> None:
        """Nothing is left to do: `finish` knows all of the tokens."""

    def finish(self, ids: torch.Tensor) -> tuple[str, bool]:
        """Return the text of all tokens, and whether it ended before one of the words."""
        self._ids = ids.tolist()
        has_stopped = self.has_stopped
        text = self._cut(self._text())
        self._say(text)
        return text, has_stopped

    def _say(self, text: str) -> None:
        if self._tell is not None and len(text) > self._told:
            self._tell(text[self._told :])
            self._told = len(text)

    def _text(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return text

    def _cut(self, text: str) -> str:
        places = [text.find(stop) for stop in self._stops]
        return text[: min((place for place in places if place >= 0), default=len(text))]


class _Over(StoppingCriteria):
    """Ends the writing before a word, or when its time is over."""

    def __init__(self, page: _Page) -> None:
        self._page = page
        self._deadline = time.monotonic() + MAX_SECONDS / 2

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        is_over = self._page.has_stopped or time.monotonic() > self._deadline
        return torch.full((len(input_ids),), is_over, device=input_ids.device)


def _padding(opened: Opened) -> int | None:
    padding: int | None = opened.tokenizer.pad_token_id
    return opened.tokenizer.eos_token_id if padding is None else padding


def _ends(model: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends}
