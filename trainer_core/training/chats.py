r"""Chats as text, and which part of it the assistant wrote.

    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n
                                                         ^^^^^^^^^^^^^^^^
Learnt are the assistant's words and the token that ends its turn: what it is to say by itself.
Templates with `{% generation %}` blocks tell; for all others the chat is rendered up to each turn
of the assistant and through it, and the difference is what it wrote.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from trainer_core.errors import UnusableModel

CHATML_END = "<|im_end|>"
_CHATML = (
    "{%% for message in messages %%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + %s + '\\n' }}"
    "{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ '<|im_start|>assistant\\n' }}{%% endif %%}"
)
_GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")

Turn = Mapping[str, str]  # role and content
Span = tuple[int, int]  # characters of the rendered text, from and up to


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation as the model sees it."""

    text: str
    spans: tuple[Span, ...]  # what the assistant wrote and is to be learnt
    left_out: tuple[Span, ...] = ()  # what it wrote and is not
    num_lost: int = 0  # turns of the assistant that can't be found in the text


def chatml_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return ChatML for a tokenizer.

    A tokenizer that does not know `<|im_end|>` ends turns by its own end-of-sequence token:
    generation stops there without any setting, and no token has to be added and learnt anew.
    """
    knows_end = CHATML_END in tokenizer.get_vocab()
    return _CHATML % (f"'{CHATML_END}'" if knows_end else "eos_token")


def render(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, left_out: Sequence[bool] = ()
) -> Chat:
    """Return a conversation as text with the assistant's part marked.

    Args:
        tokenizer: has the chat template.
        turns: the conversation.
        left_out: of each turn whether it is not to be learnt; none is without it.

    Raises:
        UnusableModel: the tokenizer's chat template refuses the conversation.
    """
    hidden = {number for number, is_hidden in enumerate(left_out) if is_hidden}
    if _GENERATION_BLOCK.search(tokenizer.get_chat_template()) and not hidden:
        text, spans = _render(tokenizer, turns, marks=True)
        return Chat(text, spans)
    whole, _ = _render(tokenizer, turns)
    own = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
    found = {number: _find_turn(tokenizer, turns, number, whole) for number in own}
    return Chat(
        whole,
        spans=tuple(span for number, span in found.items() if span and number not in hidden),
        left_out=tuple(span for number, span in found.items() if span and number in hidden),
        num_lost=sum(span is None for span in found.values()),
    )


def _find_turn(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], number: int, whole: str
) -> Span | None:
    """Return where the assistant's turn is in the whole text, or None if that can't be told."""
    content = turns[number]["content"].strip()
    through, _ = _render(tokenizer, turns[: number + 1])
    before = _rendered_before(tokenizer, turns[:number], is_prompt=True)
    if number and through.startswith(before):
        start = len(before)
    else:
        # The prompt opens with more than the turn itself, such as a thinking tag.
        context = _rendered_before(tokenizer, turns[:number], is_prompt=False)
        if not through.startswith(context):
            return None
        start = through.find(content, len(context))
        if start < 0:
            return None
    after_content = through.find(content, start) + len(content)
    end = max(after_content, len(through.rstrip()))  # the line's end after the turn is no one's
    return (start, end) if end > start and whole.startswith(through[:end]) else None


def _rendered_before(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, is_prompt: bool
) -> str:
    return _render(tokenizer, turns, is_prompt=is_prompt)[0] if turns else ""


def _render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    *,
    is_prompt: bool = False,
    marks: bool = False,
) -> tuple[str, tuple[Span, ...]]:
    names: Any = tokenizer.special_tokens_map
    try:
        # It says it returns a string and returns two lists: texts, and spans of each text.
        rendered: Any = render_jinja_template(
            conversations=[[dict(turn) for turn in turns]],
            chat_template=tokenizer.get_chat_template(),
            add_generation_prompt=is_prompt,
            return_assistant_tokens_mask=marks,
            **names,
        )
    except (TemplateError, TypeError, ValueError, OverflowError) as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise UnusableModel(
            f"the model's chat template refuses a conversation of the roles {roles}: {error}",
            hint="Mend the rows, or set chat_template to 'chatml'.",
            param="/chat_template",
        ) from error
    (text,), (spans,) = rendered[0], rendered[1] or [()]
    return text, tuple((start, end) for start, end in spans) if marks else ()


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, chat: Chat
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Return the token ids of a chat, and which of them the assistant wrote."""
    if tokenizer.is_fast:
        backend: Any = tokenizer.backend_tokenizer
        row = backend.encode(chat.text, add_special_tokens=False)
        starts = np.array([start for start, _ in row.offsets], dtype=np.int64)
        return np.array(row.ids, dtype=np.int32), _within(starts, chat.spans)
    return _encode_pieces(tokenizer, chat)


def _within(starts: npt.NDArray[np.int64], spans: Iterable[Span]) -> npt.NDArray[np.bool_]:
    """Return which tokens begin in one of the spans."""
    mask = np.zeros(len(starts), dtype=np.bool_)
    for start, end in spans:
        mask |= (starts >= start) & (starts < end)
    return mask


def _encode_pieces(
    tokenizer: PreTrainedTokenizerBase, chat: Chat
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Encode the text cut at the spans' ends: a tokenizer without offsets can't map them."""
    ids: list[int] = []
    mask: list[bool] = []
    position = 0
    cuts = [
        (edge, is_end)
        for span in chat.spans
        for edge, is_end in zip(span, (False, True), strict=True)
    ]
    for edge, is_end in [*cuts, (len(chat.text), False)]:
        piece = tokenizer.encode(chat.text[position:edge], add_special_tokens=False)
        ids += piece
        mask += [is_end] * len(piece)
        position = edge
    return np.array(ids, dtype=np.int32), np.array(mask, dtype=np.bool_)
