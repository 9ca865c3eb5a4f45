"""How long to wait before something that failed is tried again."""

_GROWTH = 6.0
_MOST_TIMES = 10  # as it grows: beyond, any pause is longer than the longest
_MOST_SECONDS = 3600.0


def pause_seconds(num_tries: int, *, first_seconds: float, at_least: float = 0.0) -> float:
    """Return the pause after so many tries: six times as long each time, and an hour at most.

    Args:
        num_tries: from 1.
        first_seconds: the pause after the first.
        at_least: what was asked for, if that is longer.
    """
    grown = first_seconds * _GROWTH ** min(num_tries - 1, _MOST_TIMES)
    return min(max(grown, at_least), _MOST_SECONDS)
