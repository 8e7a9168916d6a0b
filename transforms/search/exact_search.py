"""Exact search for the largest dot products, with numpy: the index of small catalogues, the oracle of large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MASKED_SCORE = np.float32(-np.inf)  # the score of what must not be found
BLOCK = 2**24  # scores in memory at once (64 MiB)

Floats = NDArray[np.float32]
Positions = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Best first, equal scores by rising position. Where there are fewer than k, the rest is -1 with score -inf."""

    positions: Positions  # [b, k], rows of the index
    scores: Floats  # [b, k]


@dataclass(frozen=True, kw_only=True)
class ExactIndex:
    """Every score is computed, in blocks of bounded memory. Ties are exact, also between the k-th and the next."""

    vectors: Floats
    info: dict[str, Any] = field(default_factory=lambda: {"kind": "exact"})
    timings: dict[str, float] = field(default_factory=dict)

    def search(self, queries: Floats, k: int) -> Candidates:
        return self.search_without(queries, k, hide=lambda scores, start: None)

    def search_without(self, queries: Floats, k: int, *, hide: Callable[[Floats, int], None]) -> Candidates:
        """The same, less what `hide(scores [rows, n], start)` sets to -inf in the scores of the queries from start
        on."""
        queries, n = checked(queries, self.vectors, k), len(self.vectors)
        rows = max(1, BLOCK // n)
        parts = [best(np.zeros((0, n), np.float32), k)]
        for start in range(0, len(queries), rows):
            scores = np.matmul(queries[start : start + rows], self.vectors.T)
            hide(scores, start)
            parts.append(best(scores, k))
        return Candidates(
            positions=np.concatenate([p.positions for p in parts]), scores=np.concatenate([p.scores for p in parts])
        )


def best(scores: Floats, k: int) -> Candidates:
    """The k best of each row of scores [b, n], without those that are -inf."""
    floor = _floor(scores, k)
    found = np.flatnonzero(scores >= floor[:, None])
    row, position = np.divmod(found, max(1, scores.shape[1]))
    counts = np.bincount(row, minlength=len(scores))
    slot = np.arange(len(found)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = np.full((len(scores), max(1, counts.max(initial=0))), MASKED_SCORE, np.float32)
    positions = np.full(values.shape, -1, np.int32)
    values[row, slot], positions[row, slot] = scores.reshape(-1)[found], position
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]  # found in order of position: ties stay in it
    return padded(np.take_along_axis(positions, order, axis=1), np.take_along_axis(values, order, axis=1), k)


def _floor(scores: Floats, k: int) -> Floats:
    """A score that at least k of each row reach: [b].

    The k-th largest maximum of 4k disjoint groups: there are k groups with one score at least as large. About 1.15 k
    scores of a row are, which spares sorting or partitioning a million of them.
    """
    groups = 4 * k
    lowest = np.finfo(np.float32).min  # never reached by -inf
    if scores.shape[1] < 2 * groups:
        return np.full(len(scores), lowest, np.float32)
    whole = scores.shape[1] // groups * groups
    maxima = scores[:, :whole].reshape(len(scores), whole // groups, groups).max(axis=1)
    return np.maximum(np.partition(maxima, groups - k, axis=1)[:, groups - k], lowest)


def padded(positions: Positions, scores: Floats, k: int) -> Candidates:
    """Filled up to k columns."""
    missing = ((0, 0), (0, k - positions.shape[1]))
    return Candidates(
        positions=np.pad(positions, missing, constant_values=-1),
        scores=np.pad(scores, missing, constant_values=MASKED_SCORE),
    )


def checked(queries: Floats, vectors: Floats, k: int) -> Floats:
    """Queries as ScaNN and numpy want them; ValueError where they or k do not fit the vectors."""
    if k < 1:
        raise ValueError(f"k must be positive, but is {k}")
    if queries.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"queries must be [b, {vectors.shape[1]}] like the vectors, but are {queries.shape}")
    if not np.isfinite(queries).all():
        raise ValueError("queries must be finite numbers, but some are not: did training diverge?")
    return np.ascontiguousarray(queries, np.float32)
