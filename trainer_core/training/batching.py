"""Which rows share a batch, in which order, and how they are padded.

Rows of like length share a batch, so that little is padded: random batches of short texts are two
thirds padding. The number of rows in an optimizer step stays what the spec says.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from trainer_core.training.tokens import Array, TokenizedRows, TokenRow

Indexes = npt.NDArray[np.int64]
Draw = Callable[[TokenRow, np.random.Generator], TokenRow]

# Rows of a group are sorted together: larger groups pad less (100 batches twice as much as 1000 on
# long tails), and with fewer than four the same rows would meet in a batch in every epoch.
_BATCHES_PER_GROUP = 1000
_MIN_GROUPS = 4


class GroupedSampler(Sampler[int]):
    """Each row once an epoch, in batches of like length, or of any if they are not grouped.

    The order is a function of the seed and the epoch alone, so that a resumed run can skip to
    where it was.
    """

    def __init__(
        self, lengths: Indexes, *, batch_size: int, seed: int, is_grouped: bool = True
    ) -> None:
        self.lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._is_grouped = is_grouped
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; accelerate calls it."""
        self.epoch = epoch

    def order(self, epoch: int) -> Indexes:
        """Return the rows in the order of an epoch; the shorter batch, if any, comes last."""
        chance = np.random.default_rng((self._seed, epoch))
        rows = chance.permutation(len(self.lengths))
        if not self._is_grouped:
            return rows
        num_full = len(rows) // self._batch_size
        whole, rest = np.split(rows, [num_full * self._batch_size])
        batches = [
            group[np.argsort(-self.lengths[group], kind="stable")].reshape(-1, self._batch_size)
            for group in self._groups(whole)
        ]
        if not batches:
            return rest
        shuffled = chance.permutation(np.concatenate(batches))
        if epoch == 0:
            shuffled = self._longest_first(shuffled)
        return np.concatenate([shuffled.reshape(-1), rest])

    def _groups(self, rows: Indexes) -> list[Indexes]:
        num_batches = len(rows) // self._batch_size
        num_groups = max(min(_MIN_GROUPS, num_batches), -(-num_batches // _BATCHES_PER_GROUP), 1)
        batches = rows.reshape(num_batches, self._batch_size)
        return [part.reshape(-1) for part in np.array_split(batches, num_groups) if len(part)]

    def _longest_first(self, batches: Indexes) -> Indexes:
        """Put the longest batch first: memory that does not suffice shows at once."""
        longest = int(self.lengths[batches[:, 0]].argmax())
        return np.concatenate([batches[longest : longest + 1], np.delete(batches, longest, axis=0)])

    def num_tokens_until(self, step: int) -> int:
        """Return how many tokens, padding not counted, the first `step` optimizer steps see."""
        steps_per_epoch = -(-len(self.lengths) // self._batch_size)
        epoch, steps = divmod(step, steps_per_epoch)
        begun = self.lengths[self._order_of(epoch)[: steps * self._batch_size]].sum()
        return int(epoch * self.lengths.sum() + begun)

    def _order_of(self, epoch: int) -> Indexes:
        if getattr(self, "_known_epoch", None) != epoch:
            self._known_epoch, self._known_order = epoch, self.order(epoch)
        return self._known_order

    def __iter__(self) -> Iterator[int]:
        return iter(self._order_of(self.epoch).tolist())

    def __len__(self) -> int:
        return len(self.lengths)


class LongestFirstSampler(Sampler[int]):
    """Each row once, the longest first: for measuring, where the order does not matter."""

    def __init__(self, lengths: Indexes) -> None:
        self.order = np.argsort(-np.asarray(lengths), kind="stable")

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())

    def __len__(self) -> int:
        return len(self.order)


class DrawnRows(Dataset[TokenRow]):
    """Rows of which a part is drawn anew each epoch, such as the tokens that are masked.

    A draw is a function of the seed, the epoch and the row, so that it is the same in a resumed
    run, in any loader worker, and in every evaluation.
    """

    def __init__(
        self, rows: TokenizedRows, *, draw: Draw, seed: int, sampler: Sampler[int]
    ) -> None:
        self._rows = rows
        self._draw = draw
        self._seed = seed
        # Whoever sets an epoch reaches the sampler. A data set is passed over by accelerate when
        # it skips the batches before a checkpoint.
        self._sampler = sampler

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> TokenRow:
        epoch = getattr(self._sampler, "epoch", 0)
        chance = np.random.default_rng((self._seed, epoch, row))
        return self._draw(self._rows[row], chance)


def padding_share(lengths: Indexes, *, order: Indexes, batch_size: int) -> float:
    """Return the share of positions that are padding when rows are batched in this order."""
    ordered = np.asarray(lengths)[order]
    padded = sum(
        int(batch.max()) * len(batch)
        for start in range(0, len(ordered), batch_size)
        for batch in [ordered[start : start + batch_size]]
    )
    return 1 - int(ordered.sum()) / padded if padded else 0.0


def pad_rows(rows: Sequence[Array], *, value: int) -> torch.Tensor:
    """Return rows as one (B, T) tensor of int64, filled up on the right."""
    padded_BT = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for number, row in enumerate(rows):
        padded_BT[number, : len(row)] = row
    return torch.from_numpy(padded_BT)


def attention_mask(rows: Sequence[Array]) -> torch.Tensor:
    """Return a (B, T) tensor with 1 where a row has a token and 0 where it is filled up."""
    lengths_B1 = np.array([[len(row)] for row in rows])
    positions_T = np.arange(lengths_B1.max())
    return torch.from_numpy((positions_T < lengths_B1).astype(np.int64))
