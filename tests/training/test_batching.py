import numpy as np
import pytest

from trainer_core.training.batching import (
    GroupedSampler,
    LongestFirstSampler,
    attention_mask,
    pad_rows,
    padding_share,
)

pytestmark = pytest.mark.slow


def _lengths(count: int) -> np.ndarray:
    drawn = np.random.default_rng(3).lognormal(3.4, 0.72, count).astype(np.int64) + 1
    return np.minimum(drawn, 128)


def test_every_row_comes_once_an_epoch() -> None:
    sampler = GroupedSampler(_lengths(1003), batch_size=16, seed=1)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(1003))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    one, two = (GroupedSampler(_lengths(500), batch_size=8, seed=7) for _ in range(2))
    list(one)  # drawing from it changes nothing
    assert one.order(2).tolist() == two.order(2).tolist()
    assert one.order(1).tolist() != one.order(2).tolist()
    other = GroupedSampler(_lengths(500), batch_size=8, seed=8)
    assert one.order(1).tolist() != other.order(1).tolist()


def test_batches_waste_little_on_padding() -> None:
    lengths = _lengths(6000)
    sampler = GroupedSampler(lengths, batch_size=32, seed=1)
    assert padding_share(lengths, order=sampler.order(1), batch_size=32) < 0.04
    shuffled = np.random.default_rng(0).permutation(6000)
    assert padding_share(lengths, order=shuffled, batch_size=32) > 0.5


@pytest.mark.parametrize(("count", "batch_size"), [(300, 16), (1000, 16), (6000, 32)])
def test_other_rows_share_a_batch_in_the_next_epoch(count: int, batch_size: int) -> None:
    sampler = GroupedSampler(_lengths(count), batch_size=batch_size, seed=1)
    number_of = np.empty((2, count), dtype=np.int64)  # of the batch of each row, an epoch
    for epoch in range(2):
        number_of[epoch, sampler.order(epoch)] = np.arange(count) // batch_size
    first, second = (numbers[:, None] == numbers for numbers in number_of)
    pairs = np.triu(first, k=1)
    assert (pairs & second).sum() < 0.3 * pairs.sum()


def test_rows_that_are_not_grouped_come_at_random() -> None:
    lengths = _lengths(500)
    samplers = [
        GroupedSampler(lengths, batch_size=10, seed=7, is_grouped=is_grouped)
        for is_grouped in (True, False)
    ]
    grouped, random = (sampler.order(0).tolist() for sampler in samplers)
    assert sorted(random) == sorted(grouped) == list(range(500))
    spreads = [
        np.mean([np.ptp(lengths[order[start : start + 10]]) for start in range(0, 500, 10)])
        for order in (grouped, random)
    ]
    assert spreads[0] < spreads[1] / 3
    assert samplers[1].order(1).tolist() != random


def test_the_longest_row_comes_first_so_that_lack_of_memory_shows_at_once() -> None:
    lengths = _lengths(640)
    lengths[123] = 10_000
    assert 123 in GroupedSampler(lengths, batch_size=32, seed=1).order(0)[:32]


def test_fewer_rows_than_a_batch_are_one_batch() -> None:
    assert sorted(GroupedSampler(_lengths(5), batch_size=32, seed=1)) == [0, 1, 2, 3, 4]


def test_tokens_seen_are_those_of_the_rows_seen() -> None:
    lengths = _lengths(100)
    sampler = GroupedSampler(lengths, batch_size=16, seed=1)
    assert sampler.num_tokens_until(0) == 0
    assert sampler.num_tokens_until(7) == lengths.sum()  # 6 batches of 16 and one of 4
    assert sampler.num_tokens_until(9) == lengths.sum() + lengths[sampler.order(1)[:32]].sum()


def test_measuring_goes_from_long_to_short() -> None:
    order = list(LongestFirstSampler(np.array([3, 9, 5, 9])))
    assert order == [1, 3, 2, 0]


def test_rows_are_padded_on_the_right() -> None:
    rows = [np.array([5, 6]), np.array([7])]
    assert pad_rows(rows, value=9).tolist() == [[5, 6], [7, 9]]
    assert attention_mask(rows).tolist() == [[1, 1], [1, 0]]
