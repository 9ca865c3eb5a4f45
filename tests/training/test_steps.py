"""Where the rows of a step are cut, and that cutting and sharing lose no row."""

import numpy as np
import pytest

from trainer_core.training.data.batching import RowOrder
from trainer_core.training.loop.steps import (
    Cutting,
    EvaluationSampler,
    StepLoader,
    StepSampler,
    padding_share,
    pass_tokens,
)

pytestmark = pytest.mark.slow


def _cost(lengths: list[int], sizes: list[int], *, pass_tokens: float) -> float:
    starts = np.cumsum([0, *sizes[:-1]])
    return sum(
        size * lengths[start] + pass_tokens for size, start in zip(sizes, starts, strict=True)
    )


def _all_cuts(count: int) -> list[list[int]]:
    if not count:
        return [[]]
    return [[size, *rest] for size in range(1, count + 1) for rest in _all_cuts(count - size)]


@pytest.mark.parametrize("seed", range(5))
def test_cutting_costs_least_of_all_ways_to_cut(seed: int) -> None:
    chance = np.random.default_rng(seed)
    lengths = sorted(chance.integers(1, 60, 10).tolist(), reverse=True)
    cutting = Cutting(max_tokens=120, pass_tokens=20)
    allowed = [
        sizes
        for sizes in _all_cuts(len(lengths))
        for starts in [np.cumsum([0, *sizes[:-1]])]
        if all(
            size == 1 or size * lengths[start] <= 120
            for size, start in zip(sizes, starts, strict=True)
        )
    ]
    best = min(_cost(lengths, sizes, pass_tokens=20) for sizes in allowed)
    assert _cost(lengths, cutting.sizes(lengths), pass_tokens=20) == pytest.approx(best)


def test_rows_are_not_cut_where_a_pass_costs_more_than_padding() -> None:
    assert Cutting(max_tokens=10_000, pass_tokens=500).sizes([90, 50, 20, 10]) == [4]
    assert Cutting(max_tokens=10_000, pass_tokens=5).sizes([90, 50, 20, 10]) == [1, 1, 1, 1]


def test_no_micro_batch_holds_more_tokens_than_allowed_but_a_single_row() -> None:
    lengths = sorted(np.random.default_rng(1).integers(1, 500, 700).tolist(), reverse=True)
    sizes = Cutting(max_tokens=400, pass_tokens=1000).sizes(lengths)
    assert sum(sizes) == 700
    starts = np.cumsum([0, *sizes[:-1]])
    assert all(
        size == 1 or size * lengths[start] <= 400 for size, start in zip(sizes, starts, strict=True)
    )


def test_a_small_model_s_steps_are_cut_less() -> None:
    small = pass_tokens(num_weights=50_000, device="cpu")
    large = pass_tokens(num_weights=22_000_000, device="cpu")
    assert small > 10 * large
    assert pass_tokens(num_weights=22_000_000, device="cuda") > 100 * large


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_processes_share_each_step_and_do_as_many_passes(num_processes: int) -> None:
    lengths = np.random.default_rng(2).integers(1, 100, 101)
    order = RowOrder(lengths, batch_size=8, seed=1)
    cutting = Cutting(max_tokens=200, pass_tokens=10)
    shares = [
        list(StepSampler(order, cutting=cutting, process_index=n, num_processes=num_processes))
        for n in range(num_processes)
    ]
    assert {len(share) for share in shares} == {13}
    for steps, rows in zip(zip(*shares, strict=True), order.steps(0), strict=True):
        counted = [place.row for places in steps for place in places if not place.is_ballast]
        assert sorted(counted) == sorted(rows)
        passes = {tuple(sorted({place.micro_batch for place in places})) for places in steps}
        assert len(passes) == 1


def test_a_loader_yields_steps_of_micro_batches_of_like_rows() -> None:
    rows = [{"input_ids": np.arange(length)} for length in [9, 2, 9, 2, 2, 9]]
    order = RowOrder(np.array([9, 2, 9, 2, 2, 9]), batch_size=6, seed=1)
    sampler = StepSampler(order, cutting=Cutting(max_tokens=100, pass_tokens=5))
    loader = StepLoader(
        rows,  # type: ignore[arg-type]
        sampler=sampler,
        collate=lambda part: {"lengths": [len(row["input_ids"]) for row in part]},  # type: ignore[dict-item]
    )
    (step,) = loader
    assert [part.inputs["lengths"] for part in step] == [[9, 9, 9], [2, 2, 2]]
    assert not any(part.is_ballast for part in step)


def test_little_is_padded() -> None:
    drawn = np.random.default_rng(3).lognormal(3.4, 0.72, 6000).astype(int) + 1
    order = RowOrder(np.minimum(drawn, 128), batch_size=32, seed=1)
    cutting = Cutting(
        max_tokens=32 * 128, pass_tokens=pass_tokens(num_weights=22_000_000, device="cpu")
    )
    assert padding_share(order, cutting=cutting) < 0.03
    uncut = Cutting(max_tokens=32 * 128, pass_tokens=1e9)
    assert padding_share(order, cutting=uncut) > padding_share(order, cutting=cutting)


def test_rows_are_measured_once_each_in_batches_that_are_hardly_padded() -> None:
    lengths = np.random.default_rng(2).integers(1, 128, 100)
    lengths[7] = 4000
    batches = list(EvaluationSampler(lengths, batch_size=32, cutting=Cutting(200, pass_tokens=50)))
    assert sorted(row for batch in batches for row in batch) == list(range(100))
    assert batches[0] == [7]
    assert max(map(len, batches)) <= 32
    num_padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert num_padded < 1.15 * lengths.sum()
    whole = EvaluationSampler(lengths, batch_size=32, cutting=Cutting(200, pass_tokens=1e9))
    assert [len(batch) for batch in whole] == [32, 32, 32, 4]
