r"""Chats as text, and which part of it the assistant wrote.

    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n
                                                         ^^^^^^^^^^^^^^^^
Learnt are the assistant's words and the token that ends its turn: what it is to say by itself.
Templates with `{% generation %}` blocks tell; for all others the chat is rendered up to each turn
of the assistant and through it, and the difference is what it wrote.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from trainer_core.errors import UnusableModel

CHATML_END = "<|im_end|>"
# Tools and calls are written as the Hermes models do, whose form many servers read.
_CHATML = r"""
{%- if tools -%}
{{ '<|im_start|>system\n' }}
{%- if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}{% endif -%}
{{ 'Functions you may call, one JSON object a line:\n<tools>\n' }}
{%- for tool in tools %}{{ (tool | tojson) + '\n' }}{% endfor -%}
{{ '</tools>\nTo call one, write: <tool_call>\n' }}
{{- '{"name": NAME, "arguments": OBJECT}\n</tool_call>' + END + '\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if not (tools and loop.first and message['role'] == 'system') -%}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}
{%- for call in message['tool_calls'] or [] -%}
{{ '\n' if message['content'] or not loop.first }}
{{- '<tool_call>\n{"name": ' + (call['function']['name'] | tojson) }}
{{- ', "arguments": ' + (call['function']['arguments'] | tojson) + '}\n</tool_call>' }}
{%- endfor -%}
{{ END + '\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}
"""
_GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")

Turn = Mapping[str, Any]  # role, content, and what belongs to calls of tools
Span = tuple[int, int]  # characters of the rendered text, from and up to


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation as the model sees it."""

    text: str
    spans: tuple[Span, ...]  # what the assistant wrote and is to be learnt
    left_out: tuple[Span, ...] = ()  # what it wrote and is not
    num_lost: int = 0  # turns of the assistant to be learnt that can't be found in the text


def chatml_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return ChatML for a tokenizer.

    A tokenizer that does not know `<|im_end|>` ends turns by its own end-of-sequence token:
    generation stops there without any setting, and no token has to be added and learnt anew.
    """
    knows_end = CHATML_END in tokenizer.get_vocab()
    return _CHATML.strip().replace("END", f"'{CHATML_END}'" if knows_end else "eos_token")


def render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    *,
    left_out: Sequence[bool] = (),
    tools: Sequence[Mapping[str, Any]] = (),
) -> Chat:
    """Return a conversation as text with the assistant's part marked.

    Args:
        tokenizer: has the chat template.
        turns: the conversation.
        left_out: of each turn whether it is not to be learnt; none is without it.
        tools: definitions of the functions that the assistant may call.

    Raises:
        UnusableModel: the tokenizer's chat template refuses the conversation, or leaves out its
            tools or calls.
    """
    template = _Template(tokenizer, tools)
    hidden = {number for number, is_hidden in enumerate(left_out) if is_hidden}
    own = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
    if tools or any(turn.get("tool_calls") for turn in turns):
        _check_tools(template, turns, tools)
    if template.has_blocks and not hidden:
        text, spans = template.render_with_spans(turns)
        return Chat(text, spans, num_lost=max(0, len(own) - len(spans)))
    whole = template.render(turns)
    found = {number: _find_turn(template, turns, number, whole) for number in own}
    return Chat(
        whole,
        spans=tuple(span for number, span in found.items() if span and number not in hidden),
        left_out=tuple(span for number, span in found.items() if span and number in hidden),
        num_lost=sum(span is None for number, span in found.items() if number not in hidden),
    )


def _check_tools(
    template: "_Template", turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]
) -> None:
    """Raise UnusableModel where the text would be the same without a tool, a call or its result."""
    whole = template.render(turns)
    without = {
        "the tools": [(_Template(template.tokenizer, ()), list(turns))] if tools else [],
        "calls": [(template, emptied) for emptied in _emptied(turns, "assistant", tool_calls=[])],
        "results of calls": [
            (template, emptied) for emptied in _emptied(turns, "tool", content="")
        ],
    }
    lost = [
        what
        for what, others in without.items()
        if any(other.gives(whole, of=emptied) for other, emptied in others)
    ]
    if lost:
        raise UnusableModel(
            f"the model's chat template leaves out {', '.join(lost)}, so they can't be learnt.",
            hint="Set chat_template to 'chatml', which writes them.",
            param="/chat_template",
        )


def _emptied(turns: Sequence[Turn], role: str, **empty: object) -> Iterator[list[Turn]]:
    """Yield the turns with a field empty in one of those of a role that fill it."""
    for number, turn in enumerate(turns):
        if turn["role"] == role and any(turn.get(field) for field in empty):
            yield [*turns[:number], {**turn, **empty}, *turns[number + 1 :]]


def _find_turn(
    template: "_Template", turns: Sequence[Turn], number: int, whole: str
) -> Span | None:
    """Return where the assistant's turn is in the whole text, or None if that can't be told."""
    content = turns[number]["content"].strip()
    through = template.render(turns[: number + 1])
    before = template.render(turns[:number], is_prompt=True)
    if number and through.startswith(before):
        start = len(before)
    else:
        # The prompt opens with more than the turn itself, such as a thinking tag.
        context = template.render(turns[:number])
        if not through.startswith(context) or not content:
            return None
        start = through.find(content, len(context))
        if start < 0:
            return None
    after_content = through.find(content, start) + len(content)
    end = max(after_content, len(through.rstrip()))  # the line's end after the turn is no one's
    return (start, end) if end > start and whole.startswith(through[:end]) else None


class _Template:
    """A tokenizer's chat template, and the tools that it is told of."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tools: Sequence[Mapping[str, Any]]
    ) -> None:
        self.tokenizer = tokenizer
        self._tools: list[Any] = [dict(tool) for tool in tools]
        # Some models have another template for chats with tools.
        self._text = tokenizer.get_chat_template(tools=self._tools or None)

    @property
    def has_blocks(self) -> bool:
        """Whether it says by itself what the assistant wrote."""
        return _GENERATION_BLOCK.search(self._text) is not None

    def render(self, turns: Sequence[Turn], *, is_prompt: bool = False) -> str:
        """Return turns as text, up to where the assistant begins if it is a prompt."""
        return self._render(turns, is_prompt=is_prompt, marks=False)[0] if turns else ""

    def gives(self, text: str, *, of: Sequence[Turn]) -> bool:
        """Return whether turns become this very text."""
        try:
            return self.render(of) == text
        except UnusableModel:  # what it refuses, it does look at
            return False

    def render_with_spans(self, turns: Sequence[Turn]) -> tuple[str, tuple[Span, ...]]:
        """Return turns as text, and what its blocks say the assistant wrote."""
        return self._render(turns, is_prompt=False, marks=True)

    def _render(
        self, turns: Sequence[Turn], *, is_prompt: bool, marks: bool
    ) -> tuple[str, tuple[Span, ...]]:
        names: Any = self.tokenizer.special_tokens_map
        try:
            # It says it returns a string and returns two lists: texts, and spans of each text.
            rendered: Any = render_jinja_template(
                conversations=[[dict(turn) for turn in turns]],
                tools=self._tools or None,
                chat_template=self._text,
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
