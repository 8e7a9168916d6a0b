"""Artificial vectors and exclusions, and a brute-force oracle, for tests of the search."""

from __future__ import annotations

from collections import Counter

import numpy as np

from transforms.search.exact_search import Candidates
from transforms.search.exclusions import ChannelCap, Excluded


def oracle(
    vectors: np.ndarray, queries: np.ndarray, k: int, excluded: Excluded, cap: ChannelCap | None = None
) -> list[list[int]]:
    """Return the lists of one query at a time: sort all allowed positions by falling score, then apply the cap."""
    lists = []
    for i, query in enumerate(queries):
        gone = set(excluded.positions[excluded.offsets[i] : excluded.offsets[i + 1]].tolist())
        if excluded.hidden is not None:
            group = 0 if excluded.group is None else excluded.group[i]
            gone |= {p for p in range(len(vectors)) if excluded.hidden[group][p]}
        left = sorted((-float(vectors[p] @ query), p) for p in range(len(vectors)) if p not in gone)
        lists.append(apply_cap([p for _, p in left], cap)[:k])
    return lists


def apply_cap(positions: list[int], cap: ChannelCap | None) -> list[int]:
    """Return the positions, best first, that have fewer than `limit` of their channel before them."""
    taken: Counter[int] = Counter()
    kept = []
    for position in positions:
        channel = -1 if cap is None else int(cap.channel[position])
        if channel < 0 or cap is None or taken[channel] < cap.limit:
            kept.append(position)
            taken[channel] += 1
    return kept


def excluding(lists: list[list[int]], hidden: np.ndarray | None = None, group: np.ndarray | None = None) -> Excluded:
    return Excluded(
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64),
        positions=np.array([p for row in lists for p in row], np.int32),
        hidden=hidden,
        group=group,
    )


def rows(top: Candidates) -> list[list[int]]:
    """Return the lists of positions; assert that they are padded with -1 and that their scores fall."""
    for positions, scores, length in zip(top.positions, top.scores, top.lengths, strict=True):
        assert (positions[length:] == -1).all()
        assert (scores[length:] == -np.inf).all()
        assert (np.diff(scores[:length]) <= 0).all()
    return [row[:length].tolist() for row, length in zip(top.positions, top.lengths, strict=True)]


def clustered(n: int, d: int, users: int, *, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((60, d))
    vectors = centres[rng.integers(60, size=n)] + 0.6 * rng.standard_normal((n, d))
    queries = centres[rng.integers(60, size=users)] + 0.8 * rng.standard_normal((users, d))
    return vectors.astype(np.float32), queries.astype(np.float32)
