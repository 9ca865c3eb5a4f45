"""Identifiers sort by time and don't repeat."""

import time

from jobs.identifiers import new_id


def test_later_identifiers_sort_after_earlier_ones():
    ids = []
    for _ in range(5):
        ids.append(new_id("job"))
        time.sleep(0.002)
    assert ids == sorted(ids)


def test_ten_thousand_identifiers_differ():
    assert len({new_id("ds") for _ in range(10_000)}) == 10_000
