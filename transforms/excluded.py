"""What each query must not find, as sorted keys (query * n + position): all queries are filtered at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.exact_search import NEVER, Candidates, Positions


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """What not to find: positions[offsets[i]:offsets[i + 1]] for query i, in any order, repeats allowed; and whatever
    `unavailable` (bool [n]) says for all of them."""

    offsets: NDArray[np.int64]  # [b + 1]
    positions: Positions
    unavailable: NDArray[np.bool_] | None = None

    @classmethod
    def nothing(cls, queries: int) -> Excluded:
        return cls(offsets=np.zeros(queries + 1, np.int64), positions=np.zeros(0, np.int32))


def leave_out(
    found: Candidates, k: int, keys: NDArray[np.int64], n: int, unavailable: NDArray[np.bool_] | None
) -> Candidates:
    """The first k of each row that are neither in keys nor unavailable."""
    pairs = np.arange(len(found.positions), dtype=np.int64)[:, None] * n + found.positions
    at = np.searchsorted(keys, pairs)
    keep = found.positions >= 0
    if len(keys):
        keep &= keys[np.minimum(at, len(keys) - 1)] != pairs
    if unavailable is not None:
        keep &= ~unavailable[found.positions]
    rank = np.cumsum(keep, axis=1)
    row, column = np.nonzero(keep & (rank <= k))
    positions = np.full((len(keep), k), -1, np.int32)
    scores = np.full((len(keep), k), NEVER, np.float32)
    slot = rank[row, column] - 1
    positions[row, slot], scores[row, slot] = found.positions[row, column], found.scores[row, column]
    return Candidates(positions=positions, scores=scores)


def excluded_keys(excluded: Excluded, b: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct excluded pairs as query * n + position, sorted, and how many positions each query has left."""
    offsets, positions, unavailable = excluded.offsets, excluded.positions, excluded.unavailable
    if len(offsets) != b + 1 or offsets[0] != 0 or offsets[-1] != len(positions):
        raise ValueError(f"excluded.offsets must go from 0 to {len(positions)} in {b} steps, but are {offsets!r:.200}")
    if len(positions) and not 0 <= positions.min() <= positions.max() < n:
        raise ValueError(f"excluded.positions must lie in [0, {n}), but reach {positions.min()} to {positions.max()}")
    if unavailable is not None and unavailable.shape != (n,):
        raise ValueError(f"excluded.unavailable must be [{n}], but is {unavailable.shape}")
    keys = np.unique(np.repeat(np.arange(b, dtype=np.int64) * n, np.diff(offsets)) + positions)
    if unavailable is not None:
        keys = keys[~unavailable[keys % n]]
    gone = 0 if unavailable is None else int(unavailable.sum())
    return keys, n - gone - np.bincount(keys // n, minlength=b)


def keys_of(keys: NDArray[np.int64], rows: NDArray[np.int64], b: int, n: int) -> NDArray[np.int64]:
    """The keys of some rows (ascending), renumbered as if there were no others."""
    number = np.full(b, -1, np.int64)
    number[rows] = np.arange(len(rows))
    row = number[keys // n]
    return (row * n + keys % n)[row >= 0]
