r"""Rows from files in the CoNLL form: a word and its tag a line, an empty line after a sentence.

    EU<TAB>B-ORG
    rejects<TAB>O

The first column is the word, the last one its tag; those between are passed over.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from trainer_core.errors import RowProblem
from trainer_core.rows.conll_lines import Shape, is_passed_over, shape_of, split_fields
from trainer_core.rows.lines import Source, read_line_blocks, too_long
from trainer_core.rows.values import Flaw, Row, check_known, find_flaw

CONLL_COLUMNS = ("tokens", "tags")

_SPOKEN = {True: "tabs", False: "spaces"}


@dataclass(slots=True)
class _Sentence:
    """What is known of the sentence that is being read."""

    line: int  # of its first word
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    num_characters: int = 0
    flaw: Flaw | None = None  # the first
    flawed_line: int = 0

    def add(self, fields: Sequence[str], flaw: Flaw | None, *, line: int) -> None:
        """Add a word and its tag, or what is wrong with them."""
        if flaw and not self.flaw:
            self.flaw, self.flawed_line = flaw, line
        self.tokens.append(fields[0])
        self.tags.append(fields[-1].strip())
        self.num_characters += sum(map(len, fields))


def read_conll(source: Source, *, columns: Sequence[str] | None) -> Iterator[Row | RowProblem]:
    """Yield a row of `tokens` and `tags` for each sentence, under the line of its first word.

    A sentence with a line that can't be used is a problem under the number of that line.

    Raises:
        DataError: a sentence is too long.
    """
    check_known(columns or (), CONLL_COLUMNS, file=source.name)
    for sentence in _read_sentences(source):
        values = {"tokens": sentence.tokens, "tags": sentence.tags}
        wanted = {name: v for name, v in values.items() if columns is None or name in columns}
        if sentence.flaw:
            column, reason = sentence.flaw
            yield RowProblem(source.name, sentence.flawed_line, column, reason)
        elif flaw := find_flaw(wanted, scan_strings=True):
            yield RowProblem(source.name, sentence.line, flaw.column, flaw.reason)
        else:
            yield Row(sentence.line, wanted)


def _read_sentences(source: Source) -> Iterator[_Sentence]:
    sentence: _Sentence | None = None
    shape: Shape | None = None  # of the file's lines
    for block in read_line_blocks(source):
        for number, line in enumerate(block.lines, block.first_line):
            fields = split_fields(line)
            if not fields:
                if sentence:
                    yield sentence
                sentence = None
                continue
            here = shape_of(line, fields)
            if is_passed_over(fields, here, shape=shape):
                continue
            shape = shape or here
            undecodable = block.flaws.get(number)
            flaw = Flaw(None, undecodable) if undecodable else _flaw(fields, here, shape=shape)
            sentence = sentence or _Sentence(number)
            sentence.add(fields, flaw, line=number)
            if sentence.num_characters > source.limits.max_row_bytes:
                hint = "Put an empty line between two sentences."
                raise too_long(source, line=sentence.line, unit="sentence", hint=hint)
    if sentence:
        yield sentence


def _flaw(fields: Sequence[str], here: Shape, *, shape: Shape) -> Flaw | None:
    if len(fields) == 1:
        return Flaw("tags", "the line has one column; a word and its tag are needed")
    if here != shape:
        spoken = [f"{num} columns separated by {_SPOKEN[is_tab]}" for is_tab, num in (here, shape)]
        return Flaw("tags", f"the line has {spoken[0]}; the file's first has {spoken[1]}")
    return None if fields[-1].strip() else Flaw("tags", "the word has no tag")
