"""The optimizer step as a batch of micro-batches: where its rows are cut, and how they are loaded.

The loss of a step is a sum over its rows divided by one number, so that where the rows are cut
changes speed and memory only. They are cut where padding would cost more than another pass. With
several processes each takes its share of every micro-batch, so that all do as many passes.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from trainer_core.training.data.batching import Indexes, RowOrder, longest_first
from trainer_core.training.data.tokens import TokenRow

_MAX_ROWS_CUT_AT_ONCE = 256  # the search is quadratic
# What a forward and backward pass costs beside its tokens, in tokens: a coarse fit. On a CPU mostly
# the gradient of the embeddings, on a GPU the launches of kernels while little is computed.
_PASS_TOKENS = 48
_PASS_WEIGHT_TOKENS = {"cpu": 4e7, "mps": 1e11, "cuda": 1.3e12}  # over the number of weights


class Place(NamedTuple):
    """A row of a step, as a loader asks for it."""

    micro_batch: int
    row: int
    is_ballast: bool  # its loss does not count: this process has no row of its own here


class MicroBatch(NamedTuple):
    """What goes through the model at once."""

    inputs: dict[str, torch.Tensor]
    is_ballast: bool


@dataclass(frozen=True, slots=True)
class Cutting:
    """By which rule the rows of a step are cut into micro-batches."""

    max_tokens: int  # of a micro-batch, padding counted; a single row may have more
    pass_tokens: float  # as much padding is worth another pass

    def sizes(self, lengths: Sequence[int]) -> list[int]:
        """Return how many rows go into each micro-batch, in the order given.

        Args:
            lengths: tokens of each row, the longest first.
        """
        num_padded = len(lengths) * lengths[0]
        is_full_enough = num_padded - sum(lengths) <= self.pass_tokens
        if is_full_enough and num_padded <= self.max_tokens:
            return [len(lengths)]
        parts = range(0, len(lengths), _MAX_ROWS_CUT_AT_ONCE)
        return [
            size
            for start in parts
            for size in self._cheapest(lengths[start : start + _MAX_ROWS_CUT_AT_ONCE])
        ]

    def _cheapest(self, lengths: Sequence[int]) -> list[int]:
        """Return the sizes with the least tokens and passes in all, by dynamic programming."""
        cost = [0.0]  # of the first n rows
        begin = [0]  # of the last micro-batch of the first n rows
        for end in range(1, len(lengths) + 1):
            best, best_start = float("inf"), end - 1
            for start in range(end - 1, -1, -1):
                num_tokens = (end - start) * lengths[start]
                if num_tokens > self.max_tokens and end - start > 1:
                    break
                if cost[start] + num_tokens < best:
                    best, best_start = cost[start] + num_tokens, start
            cost.append(best + self.pass_tokens)
            begin.append(best_start)
        sizes = []
        end = len(lengths)
        while end:
            sizes.append(end - begin[end])
            end = begin[end]
        return sizes[::-1]


def pass_tokens(*, num_weights: int, device: str) -> float:
    """Return how many tokens' time a pass costs beside its tokens; the same wherever it is asked.

    Args:
        num_weights: of the model.
        device: torch's name of its kind.
    """
    return _PASS_TOKENS + _PASS_WEIGHT_TOKENS.get(device, 1.3e12) / max(1, num_weights)


class StepSampler(Sampler[list[Place]]):
    """The rows of one optimizer step after another: this process's share of each micro-batch."""

    def __init__(
        self, order: RowOrder, *, cutting: Cutting, process_index: int = 0, num_processes: int = 1
    ) -> None:
        self._order = order
        self._cutting = cutting
        self._process_index = process_index
        self._num_processes = num_processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose steps come next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Place]]:
        for rows in self._order.steps(self.epoch):
            yield list(self._places(rows.tolist()))

    def _places(self, rows: Sequence[int]) -> Iterator[Place]:
        lengths = self._order.lengths[rows]
        by_length = [rows[place] for place in (-lengths).argsort(kind="stable")]
        start = 0
        for number, size in enumerate(self._cutting.sizes(sorted(lengths.tolist(), reverse=True))):
            micro_batch = by_length[start : start + size]
            start += size
            share = micro_batch[self._process_index :: self._num_processes]
            for row in share or micro_batch[:1]:
                yield Place(number, row, is_ballast=not share)

    def __len__(self) -> int:
        return self._order.num_steps


class EvaluationSampler(Sampler[list[int]]):
    """The rows to measure on, the longest first, in batches that are cut as steps are.

    Args:
        lengths: tokens of each row.
        batch_size: rows of a batch at most; memory suffices for as many of the longest.
        cutting: says how much padding is worth another pass.
    """

    def __init__(self, lengths: Indexes, *, batch_size: int, cutting: Cutting) -> None:
        cutting = replace(cutting, max_tokens=sys.maxsize)
        order = longest_first(lengths)
        self._batches: list[list[int]] = []
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            for size in cutting.sizes(lengths[rows].tolist()):
                batch, rows = np.split(rows, [size])
                self._batches.append(batch.tolist())

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class StepLoader(DataLoader[Any]):
    """Loads optimizer steps as lists of micro-batches.

    accelerate's own loaders deal out whole batches to processes; here each step is shared.
    """

    def __init__(
        self,
        rows: Dataset[TokenRow],
        *,
        sampler: StepSampler,
        collate: Callable[[Sequence[TokenRow]], dict[str, torch.Tensor]],
        **options: Any,
    ) -> None:
        super().__init__(
            _PlacedRows(rows),
            batch_sampler=sampler,
            collate_fn=_StepCollator(collate),
            **options,
        )
        self._steps = sampler

    def __iter__(self) -> Any:
        # What the stock one does around it takes 2 % of a small model's step.
        if self.num_workers or self.pin_memory:
            return super().__iter__()
        return (self.collate_fn(list(map(self.dataset.__getitem__, step))) for step in self._steps)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose steps come next; the Trainer calls it."""
        self._steps.set_epoch(epoch)


class _PlacedRows(Dataset[tuple[Place, TokenRow]]):
    def __init__(self, rows: Dataset[TokenRow]) -> None:
        self._rows = rows

    def __getitem__(self, place: Place) -> tuple[Place, TokenRow]:
        return place, self._rows[place.row]

    def __len__(self) -> int:
        return len(self._rows)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _StepCollator:
    collate: Callable[[Sequence[TokenRow]], dict[str, torch.Tensor]]

    def __call__(self, rows: Sequence[tuple[Place, TokenRow]]) -> list[MicroBatch]:
        parts = [list(part) for _, part in groupby(rows, key=lambda item: item[0].micro_batch)]
        return [
            MicroBatch(self.collate([row for _, row in part]), is_ballast=part[0][0].is_ballast)
            for part in parts
        ]


def padding_share(order: RowOrder, *, cutting: Cutting, num_steps: int = 500) -> float:
    """Return the share of positions that are padding, measured on up to `num_steps` steps."""
    num_real = num_padded = 0
    every = max(1, order.num_steps // num_steps)
    for number, rows in enumerate(order.steps(1)):
        if number % every:
            continue
        lengths = sorted(order.lengths[rows].tolist(), reverse=True)
        start = 0
        for size in cutting.sizes(lengths):
            num_padded += size * lengths[start]
            start += size
        num_real += sum(lengths)
    return 1 - num_real / num_padded if num_padded else 0.0
