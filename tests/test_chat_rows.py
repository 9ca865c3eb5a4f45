"""Rows of causal language modelling: chats with tools, prompts with completions."""

import json

import pytest

from trainer_core.errors import InvalidRows, InvalidSpec
from trainer_core.rows.checking import rows_of, survey
from trainer_core.rows.files import InputFile
from trainer_core.spec import parse_spec

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
ASK = {"role": "user", "content": "q"}


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return InputFile(path=path, name=name)

    return write


def spec_of(*, data=None):
    train = {"train": "dataset:ds_0123456789ab", **(data or {})}
    return parse_spec({"task": "causal-lm", "model": "model:m", "data": train})


def chats_of(write, *rows):
    """Write twelve good chats, and others after them."""
    good = {"messages": [ASK, {"role": "assistant", "content": "a"}]}
    text = "".join(json.dumps(row) + "\n" for row in [*[good] * 12, *rows])
    return {"train": write("chat.jsonl", text)}


def call_of(arguments, **message):
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **message}


def last_row(files, *, spec=None):
    spec = spec or spec_of(data={"eval": None})
    return list(rows_of(survey(spec, files), "train", files))[-1]


def test_tools_and_calls_are_read_as_objects_or_as_json(write):
    told = {"role": "tool", "tool_call_id": "1", "content": "7 degrees"}
    for arguments, tools in (
        ({"in": "Rome", "unit": None}, [TOOL]),
        ('{"in": "Rome", "unit": null}', json.dumps([TOOL])),
    ):
        row = {"messages": [ASK, call_of(arguments), told], "tools": tools}
        found = last_row(chats_of(write, row | {"parallel_tool_calls": False}))
        assert found.tools == (TOOL,)
        assert [turn.for_template() for turn in found.messages] == [
            ASK,
            call_of({"in": "Rome", "unit": None}, content=""),
            told,
        ]


def test_old_forms_of_calls_and_chats_are_read(write):
    old = {"role": "assistant", "function_call": {"name": "weather", "arguments": "{}"}}
    told = {"role": "function", "name": "weather", "content": "7"}
    bare = TOOL["function"]
    row = last_row(chats_of(write, {"messages": [ASK, old, told], "tools": [bare]}))
    assert row.messages[1].tool_calls[0].function.name == "weather"
    assert row.messages[2].role == "tool"
    assert row.tools == (TOOL,)

    said = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    text = json.dumps({"id": "1", "conversations": said}) + "\n"
    files = {"train": write("sharegpt.jsonl", text * 12)}
    turns = last_row(files).messages
    assert [(turn.role, turn.content) for turn in turns] == [("user", "q"), ("assistant", "a")]


def test_a_content_in_parts_is_joined_and_a_conversation_may_be_json(write):
    parts = [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}]
    row = last_row(chats_of(write, {"messages": json.dumps(turns)}))
    assert row.messages[0].content == "two parts"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [ASK, {"role": "assistant", "content": None}]}, "1: has no content"),
        ({"messages": [ASK, call_of("[1]")]}, "arguments: should be a valid dictionary"),
        ({"messages": [ASK, call_of("{")]}, "arguments: is not JSON"),
        ({"messages": [{**call_of({}), "role": "user"}]}, "'tool_calls' are the assistant's"),
        ({"messages": [ASK, call_of({})], "tools": [{"type": "function"}]}, "0: expected"),
        ({"messages": [ASK, call_of({})], "functions": [{}]}, "a list in the column 'tools'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'image_url'"),
        ({"messages": [{"from": "bot", "value": "a"}]}, "'from' is 'bot'"),
    ],
)
def test_what_is_wrong_with_a_call_or_a_turn_is_told(write, row, reason):
    with pytest.raises(InvalidRows) as caught:
        survey(spec_of(), chats_of(write, row))
    (told,) = caught.value.detail["rows"]
    assert told["line"] == 13
    assert reason in told["reason"]


def test_a_call_is_enough_to_learn(write):
    assert last_row(chats_of(write, {"messages": [ASK, call_of({})]})).messages[1].tool_calls


def test_prompts_with_completions_are_found_by_their_columns(write):
    text = json.dumps({"prompt": "p", "completion": "c", "text": "t"}) + "\n"
    row = last_row({"train": write("train.jsonl", text * 12)})
    assert (row.prompt, row.completion) == ("p", "c")

    columns = {"prompt": "question", "completion": "answer"}
    spec = spec_of(data={"eval": None, "columns": columns})
    named = json.dumps({"question": "p", "answer": "c"}) + "\n"
    assert last_row({"train": write("named.jsonl", named * 12)}, spec=spec).completion == "c"
    empty = json.dumps({"question": "p", "answer": " "}) + "\n"
    with pytest.raises(InvalidRows):
        survey(spec, {"train": write("empty.jsonl", named * 12 + empty)})


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"text": "t", "prompt": "p", "completion": "c"}, "give columns.text, or"),
        ({"prompt": "p"}, "go together"),
        ({"text": "t", "tools": "tools"}, "columns.tools goes with columns.messages"),
    ],
)
def test_columns_that_do_not_go_together_are_refused(columns, reason):
    with pytest.raises(InvalidSpec, match=reason):
        spec_of(data={"columns": columns})
