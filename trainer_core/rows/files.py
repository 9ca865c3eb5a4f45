"""A file of rows on this machine."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class InputFile:
    """Where a file is, and what its reader must know of it."""

    path: Path
    name: str  # as the user called it; errors say this name
    has_header: bool = True  # CSV and TSV only
    sha256: str | None = None
