"""The videos that each query must not return: excluded pairs, hidden groups of videos, and a limit per channel.

Pairs are sorted keys (query * n + position), so that all queries of a batch are filtered in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from transforms.core.runs import run_indices
from transforms.search.exact_search import MASKED_SCORE, Candidates, Floats, Positions

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_FEW_PAIRS = 64  # pairs per query up to which comparing them one by one is faster than a binary search


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """The positions that each of b queries must not return.

    Query i excludes positions[offsets[i]:offsets[i + 1]], in any order, repeats allowed, and the positions that are
    true in hidden[group[i]]. Without `group`, all queries use the only row of `hidden`.
    """

    offsets: Ints  # [b + 1]
    positions: Positions
    hidden: Bools | None = None  # [groups, n]
    group: NDArray[np.int32] | None = None  # [b], rows of hidden

    @classmethod
    def empty(cls, queries: int) -> Excluded:
        """Return exclusions that exclude nothing."""
        return cls(offsets=np.zeros(queries + 1, np.int64), positions=np.zeros(0, np.int32))

    def select(self, rows: Ints) -> Excluded:
        """Return the exclusions of some queries, in the order given."""
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        positions = self.positions[run_indices(self.offsets[rows], counts)]
        group = None if self.group is None else self.group[rows]
        return Excluded(offsets=offsets, positions=positions, hidden=self.hidden, group=group)

    def restrict(self, positions: Ints) -> Excluded:
        """Return the exclusions restricted to some positions (ascending), renumbered from 0."""
        queries = len(self.offsets) - 1
        index = np.minimum(np.searchsorted(positions, self.positions), len(positions) - 1)
        inside = positions[index] == self.positions
        query = np.repeat(np.arange(queries), np.diff(self.offsets))[inside]
        return Excluded(
            offsets=np.concatenate([[0], np.cumsum(np.bincount(query, minlength=queries))]),
            positions=index[inside].astype(np.int32),
            hidden=None if self.hidden is None else self.hidden[:, positions],
            group=self.group,
        )


@dataclass(frozen=True, kw_only=True)
class ChannelCap:
    """At most `limit` videos of one channel in a list, the best of them. Channel -1 means none, and has no limit."""

    channel: NDArray[np.int32]  # [n]
    limit: int

    def restrict(self, positions: Ints) -> ChannelCap:
        """Return the cap of some positions, renumbered from 0."""
        return ChannelCap(channel=self.channel[positions], limit=self.limit)

    @cached_property
    def max_list_length(self) -> int:
        """The length of the longest list that the cap allows."""
        counts = np.bincount(self.channel + 1)
        return int(counts[:1].sum() + np.minimum(counts[1:], self.limit).sum())

    def apply(self, positions: Positions, keep: Bools) -> Bools:
        """Return `keep` without the positions that have `limit` kept ones of their channel before them in the row.

        positions, keep: [b, m], best first.
        """
        channel = np.where(keep, self.channel[positions], -1).astype(np.int64)
        channel, column = _sort_rows(channel)
        kept = np.zeros(keep.shape, np.bool_)
        np.put_along_axis(kept, column, (_rank_in_runs(channel) < self.limit) | (channel < 0), axis=1)
        return kept & keep


def _sort_rows(values: Ints) -> tuple[Ints, Ints]:
    """Return (each row of values [b, m] sorted, the columns they come from), equal values by column.

    Values and columns share one integer, because numpy sorts integers faster than it argsorts.
    """
    columns = values.shape[1]
    bits = columns.bit_length()
    ordered = np.sort((values << bits) | np.arange(columns), axis=1)
    return ordered >> bits, ordered & ((1 << bits) - 1)


def _rank_in_runs(values: Ints) -> Ints:
    """Return the rank, from 0, of each element in its run of equal values in a row of values [b, m]."""
    columns = np.arange(values.shape[1])
    run_start = np.zeros(values.shape, np.int64)
    run_start[:, 1:] = np.where(values[:, 1:] != values[:, :-1], columns[1:], 0)
    return columns - np.maximum.accumulate(run_start, axis=1)


@dataclass(frozen=True, kw_only=True)
class QueryRules:
    """The validated `Excluded` and `ChannelCap` of a batch of queries, as `build_query_rules` returns them."""

    n: int
    keys: Ints  # distinct excluded pairs as query * n + position, sorted, without those that are hidden as well
    allowed_counts: Ints  # [b], number of positions that are neither excluded nor hidden
    hidden: Bools | None
    group: NDArray[np.int32]  # [b]
    cap: ChannelCap | None

    @property
    def max_lengths(self) -> Ints:
        """The length that each query's list cannot exceed: [b]."""
        return self.allowed_counts if self.cap is None else np.minimum(self.allowed_counts, self.cap.max_list_length)

    @property
    def excluded_counts(self) -> Ints:
        """The number of excluded pairs of each query: [b]."""
        return np.bincount(self.keys // self.n, minlength=len(self.allowed_counts))

    def select(self, rows: Ints) -> QueryRules:
        """Return the rules of some queries, renumbered from 0. rows: the queries, ascending."""
        number = np.full(len(self.allowed_counts), -1, np.int64)
        number[rows] = np.arange(len(rows))
        row = number[self.keys // self.n]
        return QueryRules(
            n=self.n,
            keys=(row * self.n + self.keys % self.n)[row >= 0],
            allowed_counts=self.allowed_counts[rows],
            hidden=self.hidden,
            group=self.group[rows],
            cap=self.cap,
        )

    def mask_scores(self, scores: Floats, start: int) -> None:
        """Set the excluded and hidden scores to -inf, in place. scores: [rows, n], of the queries from `start` on."""
        rows = len(scores)
        low, high = np.searchsorted(self.keys, (start * self.n, (start + rows) * self.n))
        scores.reshape(-1)[self.keys[low:high] - start * self.n] = MASKED_SCORE
        if self.hidden is not None:
            hidden = self.hidden[0] if len(self.hidden) == 1 else self.hidden[self.group[start : start + rows]]
            np.copyto(scores, MASKED_SCORE, where=hidden)

    def first_allowed(self, candidates: Candidates, k: int) -> Candidates:
        """Return the first k of each row that all rules allow, padded like `Candidates`."""
        keep: Bools = candidates.positions >= 0
        keep &= self._not_excluded(candidates.positions)
        if self.hidden is not None:
            keep &= ~self.hidden[self.group[:, None], candidates.positions]
        return first_kept(candidates, keep, k, self.cap)

    def _not_excluded(self, positions: Positions) -> Bools:
        """Return whether each position is not one of its query's excluded pairs: [b, m]."""
        counts = self.excluded_counts
        longest = int(counts.max(initial=0))
        if longest <= _FEW_PAIRS:
            keep = np.ones(positions.shape, np.bool_)
            excluded = np.full((len(counts), longest), -1, np.int32)
            excluded[np.arange(longest) < counts[:, None]] = self.keys % self.n
            for column in range(longest):
                keep &= positions != excluded[:, column : column + 1]
            return keep
        pairs = np.arange(len(positions), dtype=np.int64)[:, None] * self.n + positions
        nearest = np.minimum(np.searchsorted(self.keys, pairs), len(self.keys) - 1)
        return np.asarray(self.keys[nearest] != pairs)


def first_kept(candidates: Candidates, keep: Bools, k: int, cap: ChannelCap | None) -> Candidates:
    """Return the first k of each row for which `keep` is true and that the cap allows, padded like `Candidates`."""
    keep = keep if cap is None else cap.apply(candidates.positions, keep)
    rank = np.cumsum(keep, axis=1, dtype=np.int32)
    first = keep & (rank <= k)
    slots = np.arange(k) < first.sum(axis=1)[:, None]  # as many per row as in `first`: both select in the same order
    positions = np.full((len(keep), k), -1, np.int32)
    scores = np.full((len(keep), k), MASKED_SCORE, np.float32)
    positions[slots], scores[slots] = candidates.positions[first], candidates.scores[first]
    return Candidates(positions=positions, scores=scores)


def build_query_rules(excluded: Excluded, cap: ChannelCap | None, b: int, n: int) -> QueryRules:
    """Return the rules of b queries on n positions. Raises ValueError if the arrays do not have these shapes."""
    _validate_pairs(excluded, b, n)
    if cap is not None and (cap.limit < 1 or cap.channel.shape != (n,)):
        raise ValueError(
            f"cap must have a channel for each of {n} positions and a limit >= 1, but has channels of shape"
            f" {cap.channel.shape} and limit {cap.limit}"
        )
    group = _validate_group(excluded, b, n)
    keys = _distinct_keys(excluded, b, n)
    allowed_counts = np.full(b, n, np.int64)
    if excluded.hidden is not None:
        keys = keys[~excluded.hidden[group[keys // n], keys % n]]
        allowed_counts -= _hidden_counts(excluded.hidden, group)
    allowed_counts -= np.bincount(keys // n, minlength=b)
    return QueryRules(n=n, keys=keys, allowed_counts=allowed_counts, hidden=excluded.hidden, group=group, cap=cap)


def _distinct_keys(excluded: Excluded, b: int, n: int) -> Ints:
    """Return the excluded pairs as distinct keys query * n + position, sorted."""
    first_key = np.repeat(np.arange(b, dtype=np.int64) * n, np.diff(excluded.offsets))
    keys = np.sort(first_key + excluded.positions)
    return keys[np.diff(keys, prepend=-1) > 0]  # np.unique hashes, which takes ten times as long


def _hidden_counts(hidden: Bools, group: NDArray[np.int32]) -> Ints:
    """Return the number of hidden positions of each query: [b]."""
    used, place = np.unique(group, return_inverse=True)
    return np.array([np.count_nonzero(hidden[row]) for row in used], np.int64)[place]


def _validate_pairs(excluded: Excluded, b: int, n: int) -> None:
    offsets, positions = excluded.offsets, excluded.positions
    if len(offsets) != b + 1 or offsets[0] != 0 or offsets[-1] != len(positions):
        raise ValueError(f"excluded.offsets must go from 0 to {len(positions)} in {b} steps, but are {offsets!r:.200}")
    if len(positions) and not 0 <= positions.min() <= positions.max() < n:
        raise ValueError(
            f"excluded.positions must lie in [0, {n}), but range from {positions.min()} to {positions.max()}"
        )


def _validate_group(excluded: Excluded, b: int, n: int) -> NDArray[np.int32]:
    """Return the row of `hidden` of each query: [b]."""
    hidden, group = excluded.hidden, excluded.group
    if hidden is not None and (hidden.ndim != 2 or hidden.shape[1] != n):
        raise ValueError(f"excluded.hidden must be [groups, {n}], but is {hidden.shape}")
    if group is None:
        if hidden is not None and len(hidden) != 1:
            raise ValueError(f"excluded.hidden has {len(hidden)} rows, so excluded.group must give each query's row")
        return np.zeros(b, np.int32)
    rows = 1 if hidden is None else len(hidden)
    if group.shape != (b,) or (b and not 0 <= group.min() <= group.max() < rows):
        raise ValueError(f"excluded.group must be [{b}], each in [0, {rows}), but is {group!r:.200}")
    return group
