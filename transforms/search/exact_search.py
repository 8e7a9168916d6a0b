"""Exact search for the largest dot products with numpy: the index of small catalogues and the oracle of ScaNN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MASKED_SCORE = np.float32(-np.inf)  # the score of a position that a search must not return
BLOCK = 2**24  # scores in memory at once (64 MiB)

Floats = NDArray[np.float32]
Positions = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The results of b queries, best first, equal scores by rising position.

    A row with fewer than k results is padded with position -1 and score -inf.
    """

    positions: Positions  # [b, k], rows of the index
    scores: Floats  # [b, k]

    @cached_property
    def lengths(self) -> NDArray[np.intp]:
        """The number of results of each row: [b]."""
        return np.count_nonzero(self.positions >= 0, axis=1)


@dataclass(frozen=True, kw_only=True)
class ExactInfo:
    """The size of an exact index."""

    kind: Literal["exact"] = "exact"
    rows: int
    dimension: int
    recall: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ExactIndex:
    """An index that computes every score, in blocks of bounded memory. Ties are exact, also at the k-th place."""

    vectors: Floats
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def info(self) -> ExactInfo:
        """Its size."""
        return ExactInfo(rows=self.vectors.shape[0], dimension=self.vectors.shape[1])

    def search(self, queries: Floats, k: int) -> Candidates:
        """Return the k best positions of each of queries [b, d]."""
        return self.search_masked(queries, k, mask=lambda scores, start: None)

    def search_masked(self, queries: Floats, k: int, *, mask: Callable[[Floats, int], None]) -> Candidates:
        """Return the k best positions of each query without those that `mask` sets to -inf.

        mask(scores, start) changes scores [rows, n] in place; the rows are the queries from `start` on.
        """
        queries, n = validate_queries(queries, self.vectors, k), len(self.vectors)
        rows = max(1, BLOCK // n)
        parts = [select_best(np.zeros((0, n), np.float32), k)]
        for start in range(0, len(queries), rows):
            scores = np.matmul(queries[start : start + rows], self.vectors.T)
            mask(scores, start)
            parts.append(select_best(scores, k))
        return Candidates(
            positions=np.concatenate([p.positions for p in parts]), scores=np.concatenate([p.scores for p in parts])
        )


def select_best(scores: Floats, k: int) -> Candidates:
    """Return the k largest of each row of scores [b, n], ignoring -inf.

    The scores at or above a threshold, which are few more than k, are gathered and sorted. The sort is stable and
    they are gathered by rising position, so ties stay in that order.
    """
    positions, values = _gather_at_least(scores, _score_threshold(scores, k))
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return pad_to_k(np.take_along_axis(positions, order, axis=1), np.take_along_axis(values, order, axis=1), k)


def _gather_at_least(scores: Floats, thresholds: Floats) -> tuple[Positions, Floats]:
    """Return (positions, values) of the scores [b, n] >= their row's threshold [b]: [b, longest row], by position.

    Shorter rows are padded with position -1 and score -inf.
    """
    found = np.flatnonzero(scores >= thresholds[:, None])
    row, position = np.divmod(found, max(1, scores.shape[1]))
    counts = np.bincount(row, minlength=len(scores))
    slot = np.arange(len(found)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = np.full((len(scores), max(1, counts.max(initial=0))), MASKED_SCORE, np.float32)
    positions = np.full(values.shape, -1, np.int32)
    values[row, slot], positions[row, slot] = scores.reshape(-1)[found], position
    return positions, values


def _score_threshold(scores: Floats, k: int) -> Floats:
    """Return a finite score that at least k of each row reach, if the row has that many finite scores: [b].

    It is the k-th largest maximum of 4k disjoint groups: each of the k groups has at least one score as large. About
    1.15 k scores of a row reach it, so that a million scores need not be sorted or partitioned.
    """
    groups = 4 * k
    lowest = np.finfo(np.float32).min  # excludes -inf
    if scores.shape[1] < 2 * groups:
        return np.full(len(scores), lowest, np.float32)
    whole = scores.shape[1] // groups * groups
    maxima = scores[:, :whole].reshape(len(scores), whole // groups, groups).max(axis=1)
    return np.maximum(np.partition(maxima, groups - k, axis=1)[:, groups - k], lowest)


def pad_to_k(positions: Positions, scores: Floats, k: int) -> Candidates:
    """Return positions and scores [b, at most k], padded to k columns."""
    missing = ((0, 0), (0, k - positions.shape[1]))
    return Candidates(
        positions=np.pad(positions, missing, constant_values=-1),
        scores=np.pad(scores, missing, constant_values=MASKED_SCORE),
    )


def validate_queries(queries: Floats, vectors: Floats, k: int) -> Floats:
    """Return the queries as contiguous float32. Raises ValueError if they or k do not fit the vectors."""
    if k < 1:
        raise ValueError(f"k must be positive, but is {k}")
    if queries.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"queries must be [b, {vectors.shape[1]}] like the vectors, but are {queries.shape}")
    if not np.isfinite(queries).all():
        raise ValueError("queries must be finite numbers, but some are not: did training diverge?")
    return np.ascontiguousarray(queries, np.float32)
