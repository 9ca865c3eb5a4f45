"""Makes `luthier.client.sync` of `luthier.client.aio`: `python -m tests.client.twins` renews it.

A word is replaced by a word, so a line of the one is a line of the other until ruff joins what has
become short. `waiting.py` alone is written for each side.
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "luthier" / "client"
SOURCE, TWIN = PACKAGE / "aio", PACKAGE / "sync"
BY_HAND = {"waiting.py"}
_ROOT = PACKAGE.parents[1]
_HEADER = (
    "# Made of luthier/client/aio/{name} by `python -m tests.client.twins`: change that one.\n"
)
_WORDS = (
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\basync with\b", "with"),
    (r"\bluthier\.client\.aio\b", "luthier.client.sync"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\bimport Awaitable, ", "import "),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\baclosing\b", "closing"),
    (r"\b(?:aclose|aread|aiter_raw|aiter_sse)\b", lambda match: match[0][1:]),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"  # noqa: ASYNC\d+ - .*", ""),
    (r"an `with`", "a `with`"),
)


def twins() -> dict[str, str]:
    """Return the modules of the synchronous side by their names, as they should be."""
    return {
        path.name: _formatted(_translated(path))
        for path in sorted(SOURCE.glob("*.py"))
        if path.name not in BY_HAND
    }


def _translated(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.name == "__init__.py":
        return '"""The synchronous client. All but `waiting` is made of `luthier.client.aio`."""\n'
    for pattern, replacement in _WORDS:
        text = re.sub(pattern, replacement, text)
    return _HEADER.format(name=path.name) + text


def _formatted(text: str) -> str:
    for arguments in (["check", "--quiet", "--select", "I", "--fix"], ["format", "--quiet"]):
        text = subprocess.run(
            ["ruff", *arguments, "--stdin-filename", str(TWIN / "module.py"), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd=_ROOT,
            env={"PATH": str(Path(sys.executable).parent)},
        ).stdout
    return text


if __name__ == "__main__":
    for name, text in twins().items():
        (TWIN / name).write_text(text, encoding="utf-8")
