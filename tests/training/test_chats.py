from typing import Any

import pytest
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

from tests.training.tiny import CHATML, chat_tokenizer
from trainer_core.errors import UnusableModel
from trainer_core.training.data.chats import Chat, chatml_template, encode_chat, render

pytestmark = pytest.mark.slow

TURNS = [
    {"role": "system", "content": "be old"},
    {"role": "user", "content": "the  sky"},
    {"role": "assistant", "content": "is blue é"},
    {"role": "user", "content": "and"},
    {"role": "assistant", "content": "red"},
]
WITH_BLOCKS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}A:{% generation %}{{ m['content'] }};"
    "{% endgeneration %}{% else %}U:{{ m['content'] }};{% endif %}{% endfor %}"
)
# As several models do: what the assistant thought is shown for its last turn only.
THINKING = (
    "{% for m in messages %}{{ m['role'] + ':' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}"
    "{{ m['content'] + ';' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
PROMPT_WITH_MORE = (
    "{% for m in messages %}{{ m['role'] + ':' + m['content'] + ';' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:<think>' }}{% endif %}"
)


def _learnt(chat: Chat) -> list[str]:
    return [chat.text[start:end] for start, end in chat.spans]


def _learnt_tokens(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> str:
    ids, mask = encode_chat(tokenizer, chat)
    assert len(ids) == len(mask)
    text = tokenizer.decode(ids[mask])
    assert isinstance(text, str)
    return text


def test_the_assistants_words_and_its_end_token_are_learnt() -> None:
    tokenizer = chat_tokenizer()
    chat = render(tokenizer, TURNS)
    assert chat.text == (
        "<|im_start|>system\nbe old<|im_end|>\n<|im_start|>user\nthe  sky<|im_end|>\n"
        "<|im_start|>assistant\nis blue é<|im_end|>\n<|im_start|>user\nand<|im_end|>\n"
        "<|im_start|>assistant\nred<|im_end|>\n"
    )
    assert _learnt(chat) == ["is blue é<|im_end|>", "red<|im_end|>"]
    assert chat.num_lost == 0


def test_the_mask_is_that_of_a_hand_written_example() -> None:
    tokenizer = chat_tokenizer()
    ids, mask = encode_chat(tokenizer, render(tokenizer, TURNS[1:3]))
    known: Any = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    start, end = known

    def encode(text: str) -> list[int]:
        found: Any = tokenizer.encode(text, add_special_tokens=False)
        return list(found)

    parts = [
        ([start, *encode("user\nthe  sky"), end, *encode("\n")], False),
        ([start, *encode("assistant\n")], False),
        ([*encode("is blue é"), end], True),
        (encode("\n"), False),
    ]
    assert ids.tolist() == [token for tokens, _ in parts for token in tokens]
    assert mask.tolist() == [is_learnt for tokens, is_learnt in parts for _ in tokens]


def test_the_templates_own_blocks_are_obeyed() -> None:
    tokenizer = chat_tokenizer(template=WITH_BLOCKS)
    chat = render(tokenizer, TURNS)
    assert _learnt(chat) == ["is blue é;", "red;"]
    assert _learnt_tokens(tokenizer, chat) == "is blue é;red;"


def test_a_conversation_that_the_assistant_opens_is_learnt_too() -> None:
    chat = render(chat_tokenizer(), TURNS[2:4])
    assert _learnt(chat) == ["is blue é<|im_end|>"]


def test_a_prompt_that_opens_with_more_than_the_turn_does_not_shift_it() -> None:
    tokenizer = chat_tokenizer(template=PROMPT_WITH_MORE)
    assert _learnt(render(tokenizer, TURNS)) == ["is blue é;", "red;"]


def test_a_turn_that_the_template_changes_later_is_counted_as_lost() -> None:
    tokenizer = chat_tokenizer(template=THINKING)
    chat = render(tokenizer, TURNS)
    assert _learnt(chat) == ["<think></think>red;"]
    assert chat.num_lost == 1


def test_a_template_that_refuses_the_roles_is_told() -> None:
    tokenizer = chat_tokenizer(template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(UnusableModel, match=r"system, user, assistant.*roles must alternate"):
        render(tokenizer, TURNS[:3])


def test_chatml_ends_turns_by_the_tokenizers_own_end_where_it_has_no_im_end() -> None:
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = chatml_template(tokenizer)
    chat = render(tokenizer, TURNS[1:3])
    assert chat.text == "<|im_start|>user\nthe  sky</s>\n<|im_start|>assistant\nis blue é</s>\n"
    ids, mask = encode_chat(tokenizer, chat)  # a tokenizer without offsets
    assert ids[mask][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[mask], skip_special_tokens=True) == "is blue é"
    assert len(ids) == len(mask)


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"in": "Rome"}}}
CALLING: list[Any] = [
    {"role": "system", "content": "be old"},
    {"role": "user", "content": "is it warm"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "7", "name": "weather"},
    {"role": "assistant", "content": "it is cold"},
]
CALL_TEXT = '<tool_call>\n{"name": "weather", "arguments": {"in": "Rome"}}\n</tool_call>'


def _with_chatml() -> PreTrainedTokenizerBase:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = chatml_template(tokenizer)
    return tokenizer


def test_calls_of_tools_are_learnt_and_their_results_are_not() -> None:
    tokenizer = _with_chatml()
    chat = render(tokenizer, CALLING, tools=TOOLS)
    assert chat.text == (
        "<|im_start|>system\nbe old\n\nFunctions you may call, one JSON object a line:\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}\n'
        '</tools>\nTo call one, write: <tool_call>\n{"name": NAME, "arguments": OBJECT}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\nis it warm<|im_end|>\n"
        f"<|im_start|>assistant\n{CALL_TEXT}<|im_end|>\n<|im_start|>tool\n7<|im_end|>\n"
        "<|im_start|>assistant\nit is cold<|im_end|>\n"
    )
    assert _learnt(chat) == [f"{CALL_TEXT}<|im_end|>", "it is cold<|im_end|>"]
    assert _learnt_tokens(tokenizer, chat) == f"{CALL_TEXT}<|im_end|>it is cold<|im_end|>"


def test_a_call_after_words_and_two_calls_are_lines_of_their_own() -> None:
    turns = [CALLING[1], {"role": "assistant", "content": "wait", "tool_calls": [CALL, CALL]}]
    assert _learnt(render(_with_chatml(), turns)) == [f"wait\n{CALL_TEXT}\n{CALL_TEXT}<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "lost"),
    [
        (CHATML, "the tools, calls"),
        ("{{ tools | tojson if tools }}" + CHATML, "calls"),
        (
            "{{ tools | tojson if tools }}{% for m in messages if m['role'] != 'tool' %}"
            "{{ m['content'] + (m['tool_calls'] or [] | tojson) | string }};{% endfor %}",
            "results of calls",
        ),
    ],
)
def test_a_template_that_leaves_out_tools_is_refused(template: str, lost: str) -> None:
    with pytest.raises(UnusableModel, match=f"leaves out {lost}, ") as caught:
        render(chat_tokenizer(template=template), CALLING, tools=TOOLS)
    assert "'chatml'" in caught.value.hint


def test_calls_that_blocks_of_the_template_do_not_mark_count_as_lost() -> None:
    unmarked = (
        "{{ tools | tojson if tools }}{% for m in messages %}{% if m['tool_calls'] %}"
        "{{ m['tool_calls'] | tojson }}{% elif m['role'] == 'assistant' %}{% generation %}"
        "{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    chat = render(chat_tokenizer(template=unmarked), CALLING, tools=TOOLS)
    assert _learnt(chat) == ["it is cold"]
    assert chat.num_lost == 1
