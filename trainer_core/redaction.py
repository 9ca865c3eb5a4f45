"""The one redactor: what is a secret is shown as `[redacted]`, in logs, events, errors and cards.

Two things are secrets: what looks like a key, and what this process was told is one. It is one for
the whole process, since whatever leaks a secret does not know whose it is.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

SHOWN = "[redacted]"
MIN_CHARACTERS = 8
"""What is shorter is no secret: to take it out would take words out."""

# What looks like a key, and what none is without: most texts are looked at for that alone.
_LOOKS = (
    (("luthier_",), r"luthier_[A-Za-z0-9_-]{43}"),  # our own keys
    (("hf_",), r"\bhf_[A-Za-z0-9]{20,}"),  # Hugging Face
    # OpenAI and others; words with hyphens, such as a file's name, are none.
    (("sk-",), r"\bsk-(?=[A-Za-z0-9_-]{0,200}[A-Za-z0-9]{16})[A-Za-z0-9_-]{20,}"),
    (("whsec_",), r"\bwhsec_[A-Za-z0-9+/=]{24,}"),  # Standard Webhooks
    (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"\b(?:gh[pousr]_|github_pat_)[A-Za-z0-9_]{20,}",
    ),
    (("://",), r"(?<=://)[^\s/@:]*:[^\s\"'<>]+(?=@)"),  # login of an address, to its last @
    (("earer ",), r"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}"),
    (
        ("key=", "token=", "secret=", "password="),
        r"(?<=[?&])(?:api_?key|key|token|secret|password)=[^\s&\"']{8,}",
    ),
)
_MARKS = tuple(mark for marks, _ in _LOOKS for mark in marks)
_PATTERN = re.compile("|".join(pattern for _, pattern in _LOOKS))
_FORMATTER = logging.Formatter()
_SECRET_NAMES = re.compile(r"(?:^|_)(?:KEY|TOKEN|PASSWORD|SECRET)(?:_|$)")


class Redactor:
    """Takes secrets out of texts."""

    def __init__(self) -> None:
        """Begin with what looks like a key."""
        self._known: frozenset[str] = frozenset()
        self._marks = _MARKS
        self._pattern = _PATTERN

    def learn(self, secrets: Iterable[str]) -> None:
        """Take these for secrets from now on."""
        known = self._known | {one for one in secrets if len(one) >= MIN_CHARACTERS}
        if known != self._known:
            # The longest first: one may be the beginning of another.
            forms = sorted({form for one in known for form in _forms(one)}, key=len, reverse=True)
            self._marks = (*forms, *_MARKS)
            self._pattern = re.compile("|".join([*map(re.escape, forms), _PATTERN.pattern]))
            self._known = known

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        if not any(mark in text for mark in self._marks):
            return text
        return self._pattern.sub(SHOWN, text)

    def value(self, value: Any) -> Any:
        """Return a JSON-ready value without secrets in its texts."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.value(key): self.value(item) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item) for item in value]
            case _:
                return value


REDACTOR = Redactor()
"""This process's."""


def secrets_in(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the secrets among environment variables, by their names, and in addresses."""
    for name, value in environment.items():
        if is_secret(name):
            yield value
            yield from value.split(",")
        elif "://" in value:
            yield from passwords_in(value)


def is_secret(variable: str) -> bool:
    """Return whether an environment variable holds a secret, by its name."""
    return _SECRET_NAMES.search(variable) is not None


def passwords_in(address: str) -> Iterator[str]:
    """Yield the password of an address, if it has one."""
    try:
        password = urlsplit(address).password
    except ValueError:
        return
    if password:
        yield password


def guard_process() -> None:
    """Keep the secrets of this process's environment, and all others, out of what it logs."""
    REDACTOR.learn(secrets_in(os.environ))
    if logging.getLogRecordFactory() is not _redacted_record:
        logging.setLogRecordFactory(_redacted_record)


def _redacted_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """Make a record whose words are redacted already, whichever handler writes it."""
    made = logging.LogRecord(*args, **kwargs)
    made.msg, made.args = REDACTOR.text(made.getMessage()), None
    if made.exc_info and made.exc_info[0] is not None:
        made.exc_text = REDACTOR.text(_FORMATTER.formatException(made.exc_info))
    return made


def _forms(secret: str) -> tuple[str, ...]:
    """Return a secret as it is, in an address, and in JSON."""
    return secret, quote(secret, safe=""), json.dumps(secret)[1:-1]
