"""How long to wait before something that failed is tried again."""

_GROWTH = 6
_MOST_SECONDS = 3600.0


def pause_seconds(num_tries: int, *, first_seconds: float) -> float:
    """Return the pause after so many tries: six times as long each time, and an hour at most."""
    pause = first_seconds
    for _ in range(1, num_tries):
        if pause >= _MOST_SECONDS:
            break
        pause *= _GROWTH
    return min(pause, _MOST_SECONDS)
