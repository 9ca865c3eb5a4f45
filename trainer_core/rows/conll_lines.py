"""The lines of files in the CoNLL form: columns, comments, and whether a text is in that form."""

import re
from collections.abc import Sequence

DOCUMENT_START = "-DOCSTART-"

_SPACES = re.compile(" +")
_TAG = re.compile(r"O|[BIESLU]-\S+")

Shape = tuple[bool, int]  # whether a line is split at tabs, and its number of columns


def split_fields(line: str) -> list[str]:
    """Return the columns of a line; none of an empty one.

    A line is split at its tabs before anything is stripped: a word may be white space itself.
    """
    line = line.removesuffix("\r")
    if "\t" in line:
        return line.split("\t")
    return [] if not line or line.isspace() else _SPACES.split(line.strip(" "))


def shape_of(line: str, fields: Sequence[str]) -> Shape:
    """Return how a line is laid out: those of a file are all alike."""
    return ("\t" in line, len(fields))


def is_passed_over(fields: Sequence[str], here: Shape, *, shape: Shape | None) -> bool:
    """Return whether a line starts a document, or is a comment and can't be the word `#`.

    Args:
        fields: the columns of the line.
        here: its layout.
        shape: the layout of the file's lines; None as long as it is not known.
    """
    if fields[0] == DOCUMENT_START:
        return True
    if not fields[0].startswith("#") or here[0]:
        return False
    return here != shape if shape else not _TAG.fullmatch(fields[-1])


def is_tagged(lines: Sequence[str]) -> bool:
    """Return whether lines are surely sentences of words with BIO tags.

    They are if an empty line is between two of them and each other line is laid out as the first
    and ends in a tag.
    """
    shape: Shape | None = None
    rows = [(line, split_fields(line)) for line in lines]
    for line, fields in rows:
        here = shape_of(line, fields)
        if not fields or is_passed_over(fields, here, shape=shape):
            continue
        shape = shape or here
        if here != shape or len(fields) < 2 or not _TAG.fullmatch(fields[-1].strip()):
            return False
    filled = [number for number, (_, fields) in enumerate(rows) if fields]
    return shape is not None and len(filled) <= filled[-1] - filled[0]
