"""Exact lists of users, under the same rules, to measure the loss of approximate search.

Exact search reads every vector, so it is done for a sample of users: those of some buckets, many at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transforms.core import files
from transforms.search.exact_search import ExactIndex
from transforms.search.exclusions import ChannelCap, Excluded
from transforms.search.index_files import POSITIONS
from transforms.search.shard_search import merge_shards
from transforms.search.top_k import Candidates, TopK, load_vectors, top_k

Floats = NDArray[np.float32]


def exact_lists(folders: Sequence[str], vectors: Floats, excluded: Excluded, cap: ChannelCap | None, *, k: int) -> TopK:
    """Return the true lists of users with vectors [b, d] from the shards of an index, which are read one at a time."""
    parts = []
    for folder in folders:
        local = Path(files.local_copy(folder))
        index, positions = ExactIndex(vectors=load_vectors(local)), np.load(local / POSITIONS).astype(np.int64)
        shard_cap = None if cap is None else ChannelCap(channel=cap.channel[positions], limit=cap.limit)
        found = top_k(index, vectors, k=k, excluded=restrict_exclusions(excluded, positions), cap=shard_cap)
        global_positions = np.where(found.positions >= 0, positions[found.positions], -1).astype(np.int32)
        parts.append(Candidates(positions=global_positions, scores=found.scores))
    return merge_shards(parts, k, cap)


def select_queries(excluded: Excluded, rows: NDArray[np.int64]) -> Excluded:
    """Return the exclusions of some queries, in the order given."""
    counts = np.diff(excluded.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    index = np.repeat(excluded.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
    group = None if excluded.group is None else excluded.group[rows]
    return Excluded(offsets=offsets, positions=excluded.positions[index], hidden=excluded.hidden, group=group)


def restrict_exclusions(excluded: Excluded, positions: NDArray[np.int64]) -> Excluded:
    """Return the exclusions restricted to some positions (ascending), renumbered from 0."""
    index = np.minimum(np.searchsorted(positions, excluded.positions), len(positions) - 1)
    inside = positions[index] == excluded.positions
    query = np.repeat(np.arange(len(excluded.offsets) - 1), np.diff(excluded.offsets))[inside]
    counts = np.bincount(query, minlength=len(excluded.offsets) - 1)
    return Excluded(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        positions=index[inside].astype(np.int32),
        hidden=None if excluded.hidden is None else excluded.hidden[:, positions],
        group=excluded.group,
    )
