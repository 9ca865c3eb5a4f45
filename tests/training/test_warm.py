"""What a process does before it has a job."""

import gc
from collections.abc import Iterator

import pytest

from trainer_core.training.warm import import_everything


@pytest.fixture
def thawing() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawing")
def test_a_job_does_not_collect_what_was_imported_before_it() -> None:
    import_everything()
    assert gc.get_freeze_count() > 100_000
    assert len(gc.get_objects()) < 10_000
