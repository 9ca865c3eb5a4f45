"""Sentences of words and tags, in the CoNLL form."""

import gzip
from pathlib import Path

import pytest

from tests.row_files import bad, described, good, read
from trainer_core.errors import DataError, RowProblem
from trainer_core.rows import Limits, Row, sniff

SENTENCES = "EU\tB-ORG\nrejects\tO\n\nPeter\tB-PER\nBlackburn\tI-PER\n"


def kind_of(folder: Path, text: str, *, name: str) -> str:
    path = folder / "upload"
    path.write_text(text, encoding="utf-8", newline="")
    return sniff(path, name=name).kind


def test_a_sentence_is_a_row_under_the_line_of_its_first_word(tmp_path: Path) -> None:
    rows = read(tmp_path, SENTENCES, name="a.conll")

    assert rows == [
        Row(1, {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}),
        Row(4, {"tokens": ["Peter", "Blackburn"], "tags": ["B-PER", "I-PER"]}),
    ]


@pytest.mark.parametrize(
    "text",
    [
        SENTENCES.replace("\n", "\r\n"),
        SENTENCES.replace("\t", " "),
        SENTENCES.replace("\t", "   "),
        SENTENCES.replace("\t", "\tNN\tB-NP\t"),
        "-DOCSTART-\tO\n\n" + SENTENCES,
        "-DOCSTART- -X- O O\n\n" + SENTENCES.replace("\t", " NN B-NP "),
        "# sent_id = 1\n" + SENTENCES.replace("\n\n", "\n\n# text = Peter Blackburn\n"),
        "# text = EU rejects\n" + SENTENCES.replace("\t", " "),
        SENTENCES.rstrip("\n"),
        "\n \n" + SENTENCES.replace("\n\n", "\n\n\n"),
    ],
)
def test_all_its_forms_give_the_same_rows(tmp_path: Path, text: str) -> None:
    expected = good(read(tmp_path, SENTENCES, name="a.conll"))

    assert good(read(tmp_path, text, name="a.conll")) == expected
    assert good(read(tmp_path, gzip.compress(text.encode()), name="a.iob.gz")) == expected


def test_a_word_may_be_white_space_nothing_or_a_hash(tmp_path: Path) -> None:
    tabs = "#\tO\n \tO\n\xa0\tO\n\tB-X\n\u2028\tI-X\n\u2764 \tO\n"
    spaces = "a O\n# O\n#tag B-X\n"

    assert good(read(tmp_path, tabs, name="a.conll")) == [
        {
            "tokens": ["#", " ", "\xa0", "", "\u2028", "\u2764 "],
            "tags": ["O", "O", "O", "B-X", "I-X", "O"],
        }
    ]
    assert good(read(tmp_path, spaces, name="a.conll")) == [
        {"tokens": ["a", "#", "#tag"], "tags": ["O", "O", "B-X"]}
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("lonely", "one column"),
        ("word\t", "no tag"),
        ("word NN O", "3 columns separated by spaces; the file's first has 2 columns"),
        ("nul\0\tO", "NUL"),
    ],
)
def test_a_line_that_can_not_be_used_is_named_and_its_sentence_left_out(
    tmp_path: Path, line: str, reason: str
) -> None:
    text = SENTENCES + f"\nAnd\tO\n{line}\nthen\tO\n\nlast\tO\n"

    rows = read(tmp_path, text, name="a.conll")

    (problem,) = bad(rows)
    assert (problem.file, problem.line) == ("a.conll", 7 if "NUL" in reason else 8)
    assert reason in problem.reason
    assert good(rows)[-1] == {"tokens": ["last"], "tags": ["O"]}
    assert len(good(rows)) == 3


def test_a_byte_that_can_not_be_decoded_is_placed(tmp_path: Path) -> None:
    content = "né\tO\n\n".encode() * 50 + b"n\xe9\tO\n"

    (problem,) = bad(read(tmp_path, content, name="a.conll"))

    assert problem == RowProblem(
        "a.conll", 101, None, f"byte 0xE9 at offset {50 * 7 + 1} of the file is not UTF-8"
    )


def test_a_file_without_empty_lines_does_not_fill_the_memory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sentence that starts on line 1 has more than") as caught:
        read(tmp_path, "word\tO\n" * 1000, name="a.conll", limits=Limits(max_row_bytes=1000))

    assert "empty line" in caught.value.hint


@pytest.mark.parametrize("name", ["btc.train", "a", "a.txt", "a.tsv"])
def test_tagged_sentences_are_known_by_their_content(tmp_path: Path, name: str) -> None:
    assert kind_of(tmp_path, SENTENCES, name=name) == "conll"
    assert kind_of(tmp_path, SENTENCES.replace("\t", " "), name=name) == "conll"
    assert kind_of(tmp_path, SENTENCES * 200, name=name) == "conll"


@pytest.mark.parametrize(
    ("text", "name", "kind"),
    [
        ("word\ttag\nEU\tB-ORG\n\nPeter\tB-PER\n", "a.tsv", "tsv"),  # it has a header
        ("EU\tB-ORG\nPeter\tB-PER\n", "a.tsv", "tsv"),  # no sentences
        ("a dog NOUN\n\na cat NOUN\n", "a.txt", "text"),
        ("The answer is O\n\nO no, it is not O\n", "a.txt", "text"),
        ('{"tokens": ["EU"], "tags": ["O"]}\n', "a.conll", "jsonl"),
        ("a\tNOUN\n\nb\tVERB\n", "a.bio", "conll"),  # by its name alone
    ],
)
def test_what_may_be_something_else_is_not_taken_for_sentences(
    tmp_path: Path, text: str, name: str, kind: str
) -> None:
    assert kind_of(tmp_path, text, name=name) == kind


def test_its_columns_are_described(tmp_path: Path) -> None:
    found = described(tmp_path, SENTENCES, name="a.conll")

    assert [(column.name, column.type) for column in found.columns] == [
        ("tokens", "list"),
        ("tags", "list"),
    ]
    assert found.num_rows == 2
