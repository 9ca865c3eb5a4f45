"""Pauses between tries."""

from jobs.retrying import pause_seconds


def test_pause_grows_up_to_an_hour_however_many_tries_there_were():
    pauses = [pause_seconds(number, first_seconds=10) for number in (1, 2, 3, 4, 5, 1_000)]
    assert pauses == [10, 60, 360, 2160, 3600, 3600]


def test_pause_is_as_long_as_was_asked_for_and_an_hour_at_most():
    pauses = [pause_seconds(1, first_seconds=10, at_least=asked) for asked in (5, 120, 86_400)]
    assert pauses == [10, 120, 3600]
