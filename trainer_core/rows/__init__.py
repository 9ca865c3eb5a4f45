"""The rows of an upload: its format, its rows with their places, and what is in it."""

from trainer_core.rows.describing import Column, Description, describe
from trainer_core.rows.formats import FileFormat, sniff
from trainer_core.rows.reading import read_column_names, read_rows
from trainer_core.rows.streams import DEFAULT_LIMITS, Limits
from trainer_core.rows.values import Row

__all__ = [
    "DEFAULT_LIMITS",
    "Column",
    "Description",
    "FileFormat",
    "Limits",
    "Row",
    "describe",
    "read_column_names",
    "read_rows",
    "sniff",
]
