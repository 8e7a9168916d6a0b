"""The search in an index of several shards, which together are too large for one worker's memory.

A slice of buckets is searched in one shard after the other, each loaded once, and what was found in all of them is
merged. Vectors and what each shard gave lie on the worker's disk meanwhile, so memory holds one shard and a batch of
users for each thread. Elements of one shard and a slice would load shards as often and shuffle what each gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core import files
from transforms.core.threads import side_by_side
from transforms.search.exclusions import first_kept
from transforms.search.index_files import POSITIONS, to_matrix
from transforms.search.top_k import Candidates, Cap, Index, TopK, load_index
from transforms.search.tower import load_tower, vectors_frame
from transforms.search.user_limits import BucketRecords, Limits, SearchInputs, SearchResult

Finish = Callable[[BucketRecords, Iterator[SearchResult]], Iterable[Any]]


def search_shards(
    buckets: Sequence[BucketRecords], inputs: SearchInputs, finish: Finish, threads: int, scratch: Path
) -> Iterator[Any]:
    """`finish` of each bucket, of an index of several shards, one of them in memory at a time."""
    list(side_by_side(buckets, partial(_save_vectors, inputs=inputs, scratch=scratch), threads))
    for shard, folder in enumerate(inputs.index):
        local = Path(_local_copy(folder))
        index, positions = load_index(local), np.load(local / POSITIONS).astype(np.int64)
        save = partial(_save_partials, inputs=inputs, index=index, positions=positions, shard=shard, scratch=scratch)
        list(side_by_side(buckets, save, threads))
        del index, save
    yield from side_by_side(buckets, lambda one: finish(one, _merged(one, inputs, scratch)), threads)


@cache
def _local_copy(folder: str) -> str:
    """A shard's folder on this machine, copied once a process: the names of folders are unique to their index."""
    return files.local_copy(folder)


def _save_vectors(bucket: BucketRecords, *, inputs: SearchInputs, scratch: Path) -> tuple[()]:
    folder = scratch / f"{bucket.files.bucket:05d}"
    folder.mkdir()
    if bucket.records:
        for batch, (user_ids, vectors) in enumerate(load_tower(inputs.tower).users(bucket.records)):
            vectors_frame(user_ids, vectors).write_ipc(folder / f"{batch:06d}")
    return ()


def _saved(bucket: BucketRecords, scratch: Path) -> Iterator[tuple[Path, list[str], NDArray[np.float32]]]:
    for path in sorted((scratch / f"{bucket.files.bucket:05d}").glob("[0-9]" * 6)):
        rows = pl.read_ipc(path)
        yield path, rows["user_id"].to_list(), to_matrix(rows["vector"])


def _save_partials(
    bucket: BucketRecords,
    *,
    inputs: SearchInputs,
    index: Index,
    positions: NDArray[np.int64],
    shard: int,
    scratch: Path,
) -> tuple[()]:
    limits = Limits.of(bucket, inputs, positions)
    for path, user_ids, vectors in _saved(bucket, scratch):
        save_partial(limits.search(index, user_ids, vectors, inputs.k).top, positions, path, shard)
    return ()


def _merged(bucket: BucketRecords, inputs: SearchInputs, scratch: Path) -> Iterator[SearchResult]:
    limits = Limits.of(bucket, inputs)
    for path, user_ids, vectors in _saved(bucket, scratch):
        top = merge(read_partials(path), inputs.k, limits.rules.cap)
        yield SearchResult(user_ids=user_ids, vectors=vectors, excluded=limits.excluded(user_ids), top=top)


def save_partial(top: TopK, positions: NDArray[np.int64], path: Path, shard: int) -> None:
    """Keep what a shard gave for a batch of queries, as positions of all shards together, beside `path`."""
    of_all = np.where(top.positions >= 0, positions[top.positions], -1).astype(np.int32)
    np.savez(f"{path}.{shard:05d}.npz", positions=of_all, scores=top.scores)


def read_partials(path: Path) -> list[Candidates]:
    """What `save_partial` kept beside `path`, of all shards."""
    parts = [np.load(part) for part in sorted(path.parent.glob(f"{path.name}.*.npz"))]
    return [Candidates(positions=part["positions"], scores=part["scores"]) for part in parts]


def merge(parts: Sequence[Candidates], k: int, cap: Cap | None) -> TopK:
    """The k best of what the shards gave for the same queries, under the cap, ties by position.

    Each part holds the k best of its shard under the cap. That is deep enough: a video of the whole list has as many or
    more of each channel before it in the whole than in its shard, so in its shard's list fewer than k are before it.
    """
    positions = np.concatenate([part.positions for part in parts], axis=1)
    scores = np.concatenate([part.scores for part in parts], axis=1)
    order = np.lexsort((positions, -scores), axis=1)
    found = Candidates(
        positions=np.take_along_axis(positions, order, axis=1), scores=np.take_along_axis(scores, order, axis=1)
    )
    keep = found.positions >= 0
    best = first_kept(found, keep if cap is None else cap.within(found.positions, keep), k)
    lengths = (best.positions >= 0).sum(axis=1).astype(np.int32)
    return TopK(positions=best.positions, scores=best.scores, lengths=lengths)
