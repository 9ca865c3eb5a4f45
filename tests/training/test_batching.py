import numpy as np
import pytest

from trainer_core.training.data.batching import (
    RowOrder,
    attention_mask,
    longest_first,
    pad_rows,
)

pytestmark = pytest.mark.slow


def _lengths(count: int) -> np.ndarray:
    drawn = np.random.default_rng(3).lognormal(3.4, 0.72, count).astype(np.int64) + 1
    return np.minimum(drawn, 128)


def test_every_row_comes_once_an_epoch() -> None:
    order = RowOrder(_lengths(1003), batch_size=16, seed=1)
    for epoch in range(3):
        steps = list(order.steps(epoch))
        assert [len(rows) for rows in steps] == [16] * 62 + [11]
        assert sorted(np.concatenate(steps)) == list(range(1003))
    assert order.num_steps == 63


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    one, two = (RowOrder(_lengths(500), batch_size=8, seed=7) for _ in range(2))
    list(one.steps(0))  # drawing from it changes nothing
    assert one.order(2).tolist() == two.order(2).tolist()
    assert one.order(1).tolist() != one.order(2).tolist()
    other = RowOrder(_lengths(500), batch_size=8, seed=8)
    assert one.order(1).tolist() != other.order(1).tolist()


@pytest.mark.parametrize(("is_grouped", "expected"), [(True, 0.06), (False, 0.9)])
def test_rows_of_like_length_share_a_step(is_grouped: bool, expected: float) -> None:
    lengths = _lengths(6000)
    order = RowOrder(lengths, batch_size=32, seed=1, is_grouped=is_grouped)
    spreads = [np.ptp(lengths[rows]) / lengths[rows].max() for rows in order.steps(1)]
    assert np.median(spreads) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("count", "batch_size"), [(300, 16), (1000, 16), (6000, 32)])
def test_other_rows_share_a_batch_in_the_next_epoch(count: int, batch_size: int) -> None:
    order = RowOrder(_lengths(count), batch_size=batch_size, seed=1)
    number_of = np.empty((2, count), dtype=np.int64)  # of the batch of each row, an epoch
    for epoch in range(2):
        number_of[epoch, order.order(epoch)] = np.arange(count) // batch_size
    first, second = (numbers[:, None] == numbers for numbers in number_of)
    pairs = np.triu(first, k=1)
    assert (pairs & second).sum() < 0.3 * pairs.sum()


def test_the_longest_row_comes_first_so_that_lack_of_memory_shows_at_once() -> None:
    lengths = _lengths(640)
    lengths[123] = 10_000
    assert 123 in RowOrder(lengths, batch_size=32, seed=1).order(0)[:32]


def test_fewer_rows_than_a_batch_are_one_batch() -> None:
    order = RowOrder(_lengths(5), batch_size=32, seed=1)
    assert [sorted(rows) for rows in order.steps(0)] == [[0, 1, 2, 3, 4]]


def test_tokens_seen_are_those_of_the_rows_seen() -> None:
    lengths = _lengths(100)
    order = RowOrder(lengths, batch_size=16, seed=1)
    assert order.num_tokens_until(0) == 0
    assert order.num_tokens_until(7) == lengths.sum()  # 6 batches of 16 and one of 4
    assert order.num_tokens_until(9) == lengths.sum() + lengths[order.order(1)[:32]].sum()


def test_measuring_goes_from_long_to_short() -> None:
    assert longest_first(np.array([3, 9, 5, 9])).tolist() == [1, 3, 2, 0]


def test_rows_are_padded_on_the_right() -> None:
    rows = [np.array([5, 6]), np.array([7])]
    assert pad_rows(rows, value=9).tolist() == [[5, 6], [7, 9]]
    assert attention_mask(rows).tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize(("num_steps", "is_sorted"), [(19, False), (20, True)])
def test_only_an_epoch_of_many_steps_is_sorted_by_length(num_steps: int, is_sorted: bool) -> None:
    lengths = np.random.default_rng(3).integers(5, 500, num_steps * 8)
    order = RowOrder(lengths, batch_size=8, seed=1)
    spread = np.mean([np.ptp(lengths[rows]) for rows in order.steps(1)])
    at_random = np.mean([np.ptp(rows) for rows in lengths.reshape(-1, 8)])
    assert bool(spread < at_random / 2) is is_sorted
    assert sorted(order.order(1)) == list(range(len(lengths)))
