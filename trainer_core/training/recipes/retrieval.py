"""How well vectors find the texts that belong together: recall and reciprocal ranks.

The definitions are those of sentence-transformers' InformationRetrievalEvaluator: a query is an
anchor, the corpus is all positives, and the same text counts once. Shapes: Q queries, N documents,
D dimensions, P pairs of a query and a document that belongs to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer_core.training.data.tokens import Array

Indexes = npt.NDArray[np.int64]

_MAX_SCORES = 2**24  # cosines kept at once: 64 MiB


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Where each query's documents came among all documents, by cosine."""

    num_queries: int
    queries: Indexes  # (P,)
    ranks: Indexes  # (P,), the first place is 1

    def recall_at(self, k: int) -> float:
        """Return the mean over the queries of the share of a query's documents in its first k."""
        num_own_Q = np.bincount(self.queries, minlength=self.num_queries)
        num_found_Q = np.bincount(self.queries, weights=self.ranks <= k, minlength=self.num_queries)
        return float((num_found_Q / num_own_Q).mean())

    def mean_reciprocal_rank(self) -> float:
        """Return the mean over the queries of 1 / the rank of a query's first own document."""
        first_Q = np.full(self.num_queries, np.iinfo(np.int64).max)
        np.minimum.at(first_Q, self.queries, self.ranks)
        return float((1 / first_Q).mean())


def retrieve(
    anchors: Sequence[bytes],
    positives: Sequence[bytes],
    anchors_BD: Array,
    positives_BD: Array,
    *,
    max_scores: int = _MAX_SCORES,
) -> tuple[Retrieval, Indexes]:
    """Return the ranks of all positives, and for each row that of its own.

    Args:
        anchors: what tells the text of a row's anchor from another, such as its tokens.
        positives: the same of its positive.
        anchors_BD: vectors, of any length, one a row.
        positives_BD: likewise.
        max_scores: cosines kept in memory at once.
    """
    query_of_B, first_Q = _numbered(anchors)
    document_of_B, first_N = _numbered(positives)
    rows_B2 = np.stack([query_of_B, document_of_B], axis=1)
    pairs_P2, pair_of_B = np.unique(rows_B2, axis=0, return_inverse=True)
    ranks_P = _ranks(
        _unit(anchors_BD[first_Q]), _unit(positives_BD[first_N]), pairs_P2, max_scores=max_scores
    )
    found = Retrieval(len(first_Q), queries=pairs_P2[:, 0], ranks=ranks_P)
    return found, ranks_P[pair_of_B.reshape(-1)]


def _numbered(texts: Sequence[bytes]) -> tuple[Indexes, Indexes]:
    """Return the number of each row's text, and the first row that has each text."""
    numbers: dict[bytes, int] = {}
    of_row = np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)
    return of_row, np.unique(of_row, return_index=True)[1].astype(np.int64)


def _ranks(queries_QD: Array, documents_ND: Array, pairs_P2: Indexes, *, max_scores: int) -> Array:
    places_N = np.arange(len(documents_ND))
    ranks = []
    size = max(1, max_scores // len(documents_ND))
    for start in range(0, len(pairs_P2), size):
        queries_P, own_P = pairs_P2[start : start + size].T
        scores_PN = queries_QD[queries_P] @ documents_ND.T
        own_P1 = scores_PN[np.arange(len(own_P)), own_P][:, None]
        is_before_PN = places_N < own_P[:, None]  # of equal ones the earlier goes first
        is_ahead_PN = (scores_PN > own_P1) | ((scores_PN == own_P1) & is_before_PN)
        ranks.append(1 + is_ahead_PN.sum(axis=1))
    return np.concatenate(ranks)


def _unit(vectors_BD: Array) -> Array:
    lengths_B1 = np.linalg.norm(vectors_BD, axis=1, keepdims=True)
    units_BD: Array = vectors_BD / np.maximum(lengths_B1, 1e-12)
    return units_BD
