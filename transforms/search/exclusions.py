"""What each query must not find: pairs of its own, whole groups of videos, and more of one channel than is wanted.

Pairs are sorted keys (query * n + position), so that all queries of a batch are filtered at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from transforms.search.exact_search import MASKED_SCORE, Candidates, Floats, Positions

Bools = NDArray[np.bool_]

_FEW = 64  # pairs a query that are compared one after the other sooner than looked up


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """What not to find: positions[offsets[i]:offsets[i + 1]] for query i, in any order, repeats allowed; and whatever
    hidden[group[i]] says. Without `group`, all queries are of the first and only row of `hidden`."""

    offsets: NDArray[np.int64]  # [b + 1]
    positions: Positions
    hidden: Bools | None = None  # [g, n]
    group: NDArray[np.int32] | None = None  # [b], rows of hidden

    @classmethod
    def nothing(cls, queries: int) -> Excluded:
        return cls(offsets=np.zeros(queries + 1, np.int64), positions=np.zeros(0, np.int32))


@dataclass(frozen=True, kw_only=True)
class Cap:
    """At most `most` videos of one channel in a list, the best of them. Channel -1 is none, and not limited."""

    channel: NDArray[np.int32]  # [n]
    most: int

    @cached_property
    def room(self) -> int:
        """How long a list can be at most."""
        counts = np.bincount(self.channel + 1)
        return int(counts[:1].sum() + np.minimum(counts[1:], self.most).sum())

    def within(self, positions: Positions, keep: Bools) -> Bools:
        """`keep` [b, m], best first, without those that have `most` of their channel kept before them."""
        depth = positions.shape[1]
        bits = depth.bit_length()
        channel = np.where(keep, self.channel[positions], -1).astype(np.int64)
        ordered = np.sort((channel << bits) | np.arange(depth), axis=1)  # numbers sort faster than places do
        channel, column = ordered >> bits, ordered & ((1 << bits) - 1)
        first = np.zeros(channel.shape, np.int64)  # where the run of a channel begins
        first[:, 1:] = np.where(channel[:, 1:] != channel[:, :-1], np.arange(1, depth), 0)
        rank = np.arange(depth) - np.maximum.accumulate(first, axis=1)
        kept = np.zeros(keep.shape, np.bool_)
        np.put_along_axis(kept, column, (rank < self.most) | (channel < 0), axis=1)
        return kept & keep


@dataclass(frozen=True, kw_only=True)
class QueryRules:
    """`Excluded` and `Cap`, checked, of a batch of queries: made by `query_rules`."""

    n: int
    keys: NDArray[np.int64]  # distinct excluded pairs as query * n + position, sorted, less what is hidden anyway
    left: NDArray[np.int64]  # [b], how many positions are neither excluded nor hidden
    hidden: Bools | None
    group: NDArray[np.int32]  # [b]
    cap: Cap | None

    @property
    def most(self) -> NDArray[np.int64]:
        """No list is longer: [b]."""
        return self.left if self.cap is None else np.minimum(self.left, self.cap.room)

    @property
    def excluded(self) -> NDArray[np.int64]:
        """How many pairs each query has: [b]."""
        return np.bincount(self.keys // self.n, minlength=len(self.left))

    def of(self, rows: NDArray[np.int64]) -> QueryRules:
        """The rules of some queries (ascending), numbered as if there were no others."""
        number = np.full(len(self.left), -1, np.int64)
        number[rows] = np.arange(len(rows))
        row = number[self.keys // self.n]
        keys = (row * self.n + self.keys % self.n)[row >= 0]
        left, group = self.left[rows], self.group[rows]
        return QueryRules(n=self.n, keys=keys, left=left, hidden=self.hidden, group=group, cap=self.cap)

    def hide(self, scores: Floats, start: int) -> None:
        """Sets those of scores [rows, n], of the queries from `start` on, that are excluded or hidden to -inf."""
        rows = len(scores)
        low, high = np.searchsorted(self.keys, (start * self.n, (start + rows) * self.n))
        scores.reshape(-1)[self.keys[low:high] - start * self.n] = MASKED_SCORE
        if self.hidden is not None:
            hidden = self.hidden[0] if len(self.hidden) == 1 else self.hidden[self.group[start : start + rows]]
            np.copyto(scores, MASKED_SCORE, where=hidden)

    def best(self, found: Candidates, k: int) -> Candidates:
        """The first k of each row that keep to all rules; filled up like `Candidates`."""
        return first_kept(found, self._kept(found.positions), k)

    def capped(self, found: Candidates, k: int) -> Candidates:
        """The first k of each row that keep to the cap."""
        keep = found.positions >= 0
        return first_kept(found, keep if self.cap is None else self.cap.within(found.positions, keep), k)

    def _kept(self, positions: Positions) -> Bools:
        keep: Bools = positions >= 0
        counts = self.excluded
        most = int(counts.max(initial=0))
        if most <= _FEW:
            own = np.full((len(counts), most), -1, np.int32)
            own[np.arange(most) < counts[:, None]] = self.keys % self.n
            for column in range(most):
                keep &= positions != own[:, column : column + 1]
        else:
            pairs = np.arange(len(positions), dtype=np.int64)[:, None] * self.n + positions
            at = np.searchsorted(self.keys, pairs)
            keep &= self.keys[np.minimum(at, len(self.keys) - 1)] != pairs
        if self.hidden is not None:
            keep &= ~self.hidden[self.group[:, None], positions]
        return keep if self.cap is None else self.cap.within(positions, keep)


def first_kept(found: Candidates, keep: Bools, k: int) -> Candidates:
    """The first k of each row that are to be kept; filled up like `Candidates`."""
    rank = np.cumsum(keep, axis=1, dtype=np.int32)
    first = keep & (rank <= k)
    slots = np.arange(k) < first.sum(axis=1)[:, None]  # as many in each row, so the two are filled in the same order
    positions = np.full((len(keep), k), -1, np.int32)
    scores = np.full((len(keep), k), MASKED_SCORE, np.float32)
    positions[slots], scores[slots] = found.positions[first], found.scores[first]
    return Candidates(positions=positions, scores=scores)


def query_rules(excluded: Excluded, cap: Cap | None, b: int, n: int) -> QueryRules:
    """Rules of b queries on n positions; ValueError where the arrays do not fit them."""
    offsets, positions, hidden = excluded.offsets, excluded.positions, excluded.hidden
    if len(offsets) != b + 1 or offsets[0] != 0 or offsets[-1] != len(positions):
        raise ValueError(f"excluded.offsets must go from 0 to {len(positions)} in {b} steps, but are {offsets!r:.200}")
    if len(positions) and not 0 <= positions.min() <= positions.max() < n:
        raise ValueError(f"excluded.positions must lie in [0, {n}), but reach {positions.min()} to {positions.max()}")
    if cap is not None and (cap.most < 1 or cap.channel.shape != (n,)):
        raise ValueError(f"cap must have a channel for each of {n}, and most >= 1: {cap.channel.shape}, {cap.most}")
    group = _checked_group(excluded, b, n)
    keys = np.sort(np.repeat(np.arange(b, dtype=np.int64) * n, np.diff(offsets)) + positions)
    keys = keys[np.diff(keys, prepend=-1) > 0]  # np.unique hashes, which takes ten times as long
    left = np.full(b, n, np.int64)
    if hidden is not None:
        keys = keys[~hidden[group[keys // n], keys % n]]
        used, of_used = np.unique(group, return_inverse=True)
        left -= np.array([np.count_nonzero(hidden[row]) for row in used], np.int64)[of_used]
    left -= np.bincount(keys // n, minlength=b)
    return QueryRules(n=n, keys=keys, left=left, hidden=hidden, group=group, cap=cap)


def _checked_group(excluded: Excluded, b: int, n: int) -> NDArray[np.int32]:
    hidden, group = excluded.hidden, excluded.group
    if hidden is not None and (hidden.ndim != 2 or hidden.shape[1] != n):
        raise ValueError(f"excluded.hidden must be [groups, {n}], but is {hidden.shape}")
    if group is None:
        if hidden is not None and len(hidden) != 1:
            raise ValueError(f"excluded.hidden has {len(hidden)} rows: excluded.group must say which is each query's")
        return np.zeros(b, np.int32)
    rows = 1 if hidden is None else len(hidden)
    if group.shape != (b,) or (b and not 0 <= group.min() <= group.max() < rows):
        raise ValueError(f"excluded.group must be [{b}], each in [0, {rows}), but is {group!r:.200}")
    return group
