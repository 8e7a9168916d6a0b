"""The search in an index of several shards, which together do not fit one worker's memory.

A slice of buckets is searched in one shard after the other, each loaded once, and the results are merged. User vectors
and the results of each shard are kept on the worker's disk, so memory holds one shard, and one batch of users per
thread. Beam elements of a shard and a slice would load shards as often, and would shuffle the results.
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
from transforms.core.threads import threaded_map
from transforms.search.diversity import ShardVectors, VideoVectors
from transforms.search.exact_search import Candidates, ExactIndex, Floats
from transforms.search.exclusions import ChannelCap, Excluded, first_kept
from transforms.search.index_files import POSITIONS, to_matrix
from transforms.search.top_k import Index, load_index, load_vectors, top_k
from transforms.search.tower import UserBatch, load_tower, vectors_frame
from transforms.search.user_limits import BucketRecords, SearchInputs, UserLimits
from transforms.search.user_lists import SearchResult, UserLists

_local_copy = cache(files.local_copy)  # once per process: a shard's folder has a unique name, and does not change
Finish = Callable[[BucketRecords, Iterator[SearchResult]], Iterable[Any]]


def search_shards(
    buckets: Sequence[BucketRecords], inputs: SearchInputs, finish: Finish, threads: int, scratch: Path
) -> Iterator[Any]:
    """Search an index of several shards, one of them in memory at a time; yield the results of `finish`."""
    list(threaded_map(buckets, partial(_save_users, inputs=inputs, scratch=scratch), threads))
    for shard, folder in enumerate(inputs.index):
        local = Path(_local_copy(folder))
        index, positions = load_index(local), np.load(local / POSITIONS).astype(np.int64)
        save = partial(_save_partials, inputs=inputs, index=index, positions=positions, shard=shard, scratch=scratch)
        list(threaded_map(buckets, save, threads))
        del index, save
    video_vectors = ShardVectors(tuple(Path(_local_copy(folder)) for folder in inputs.index))  # read only if needed
    yield from threaded_map(
        buckets, lambda one: finish(one, _merge_partials(one, inputs, video_vectors, scratch)), threads
    )


def _save_users(bucket: BucketRecords, *, inputs: SearchInputs, scratch: Path) -> tuple[()]:
    folder = scratch / f"{bucket.files.bucket:05d}"
    folder.mkdir()
    if bucket.records:
        for batch, users in enumerate(load_tower(inputs.tower).users(bucket.records)):
            recent = pl.Series("recent", users.recent, pl.Array(pl.Int32, users.recent.shape[1]))
            vectors_frame(users.user_ids, users.vectors).with_columns(recent).write_ipc(folder / f"{batch:06d}")
    return ()


def _read_saved_users(bucket: BucketRecords, scratch: Path) -> Iterator[tuple[Path, UserBatch]]:
    for path in sorted((scratch / f"{bucket.files.bucket:05d}").glob("[0-9]" * 6)):
        rows = pl.read_ipc(path)
        user_ids, recent = rows["user_id"].to_list(), rows["recent"].to_numpy()
        yield path, UserBatch(user_ids=user_ids, vectors=to_matrix(rows["vector"]), recent=recent)


def _save_partials(
    bucket: BucketRecords,
    *,
    inputs: SearchInputs,
    index: Index,
    positions: NDArray[np.int64],
    shard: int,
    scratch: Path,
) -> tuple[()]:
    limits = UserLimits.from_bucket(bucket, inputs, positions)
    for path, users in _read_saved_users(bucket, scratch):
        found = limits.candidates(index, users.vectors, limits.excluded(users.user_ids), inputs.depth)
        save_partial(found, positions, path, shard)
    return ()


def _merge_partials(
    bucket: BucketRecords, inputs: SearchInputs, video_vectors: VideoVectors, scratch: Path
) -> Iterator[SearchResult]:
    lists = UserLists.from_bucket(bucket, inputs)
    for path, users in _read_saved_users(bucket, scratch):
        found = merge_shards(read_partials(path), inputs.depth, lists.limits.rules.cap)
        excluded = lists.limits.excluded(users.user_ids)
        yield lists.build(found, video_vectors, users=users, excluded=excluded)


def save_partial(top: Candidates, positions: NDArray[np.int64], path: Path, shard: int) -> None:
    """Write the results of one shard for a batch of queries next to `path`, with positions of the whole index.

    positions: of the shard's rows in the whole index.
    """
    part = _global_candidates(top, positions)
    np.savez(f"{path}.{shard:05d}.npz", positions=part.positions, scores=part.scores)


def read_partials(path: Path) -> list[Candidates]:
    """Return the results of all shards that `save_partial` wrote next to `path`."""
    parts = [np.load(part) for part in sorted(path.parent.glob(f"{path.name}.*.npz"))]
    return [Candidates(positions=part["positions"], scores=part["scores"]) for part in parts]


def _global_candidates(top: Candidates, positions: NDArray[np.int64]) -> Candidates:
    """Return the results of a shard with positions of the whole index."""
    global_positions = np.where(top.positions >= 0, positions[top.positions], -1).astype(np.int32)
    return Candidates(positions=global_positions, scores=top.scores)


def merge_shards(parts: Sequence[Candidates], k: int, cap: ChannelCap | None) -> Candidates:
    """Return the k best of the shards' results for the same queries, under the cap, ties by position.

    Each part holds the k best of its shard under the cap, which is deep enough: before a video of the merged list there
    are at least as many videos of each channel in the whole index as in its shard, so fewer than k precede it there.
    """
    positions = np.concatenate([part.positions for part in parts], axis=1)
    scores = np.concatenate([part.scores for part in parts], axis=1)
    order = np.lexsort((positions, -scores), axis=1)
    found = Candidates(
        positions=np.take_along_axis(positions, order, axis=1), scores=np.take_along_axis(scores, order, axis=1)
    )
    return first_kept(found, found.positions >= 0, k, cap)


def exact_lists(
    folders: Sequence[str], vectors: Floats, excluded: Excluded, cap: ChannelCap | None, *, k: int
) -> Candidates:
    """Return the true lists of users with vectors [b, d] from the shards of an index, which are read one at a time.

    Exact search reads every vector, so it is meant for a sample of users.
    """
    parts = []
    for folder in folders:
        local = Path(files.local_copy(folder))
        index, positions = ExactIndex(vectors=load_vectors(local)), np.load(local / POSITIONS).astype(np.int64)
        shard_cap = None if cap is None else cap.restrict(positions)
        found = top_k(index, vectors, k=k, excluded=excluded.restrict(positions), cap=shard_cap)
        parts.append(_global_candidates(found, positions))
    return merge_shards(parts, k, cap)
