"""Identifiers that sort by time: a prefix and a ULID (48 bits of milliseconds, 80 random bits)."""

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case
_NUM_DIGITS = 26
_RANDOM_BITS = 80


def new_id(prefix: str) -> str:
    """Return a new identifier, such as `job_01k9…`."""
    return _written(prefix, time.time_ns() // 1_000_000, secrets.randbits(_RANDOM_BITS))


def first_id(prefix: str, seconds: float) -> str:
    """Return the identifier that sorts before all that are made from a Unix time on."""
    return _written(prefix, max(0, int(seconds * 1000)), 0)


def _written(prefix: str, milliseconds: int, random: int) -> str:
    number = milliseconds << _RANDOM_BITS | random
    digits = [_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_NUM_DIGITS))]
    return f"{prefix}_{''.join(digits)}"


def sibling(identifier: str, *, prefix: str) -> str:
    """Return the identifier under which the same thing goes by elsewhere: `file-X` of `ds_X`."""
    return prefix + identifier[_num_characters_of_prefix(identifier) :]


def _num_characters_of_prefix(identifier: str) -> int:
    return next((place + 1 for place, c in enumerate(identifier) if c in "_-"), 0)
