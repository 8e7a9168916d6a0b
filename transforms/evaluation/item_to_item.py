"""Item to item: what was watched by the people who watched what a user watched. A baseline, no part of serving.

The last `LAST` completed videos of a sample of users -> pairs, counted -> the `NEAREST` videos of each, by the cosine
of who watched them (Linden, Smith, York: Amazon.com recommendations, IEEE Internet Computing 2003). A user's score of
a video is the sum over their own last videos. A user counts `LAST` videos at most and the sample has at most
`MOST_USERS`, so the work grows with neither; a sum is of integers, so it does not depend on the order of its parts.

    pairs = count_pairs(recent_videos(watches, vocabulary))
    near = CoWatched.of(nearest(pairs, watchers(pairs)), videos=vocabulary.height)
    candidates = near.candidates(own, users=len(user_ids), position_of=position_of, fallback=most_popular.positions)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core import files, progress
from transforms.core.files import FileEntry
from transforms.core.frames import GatherFrames, GroupFrames, KeyedFrame
from transforms.core.user_sampling import UserSample
from transforms.logs.event_window import BucketFiles, Holdout, Window
from transforms.search.exact_search import MASKED_SCORE, Candidates, Positions

LAST, NEAREST, MOST_USERS = 20, 50, 50_000
UNIT = 2**-30  # of weights
_SHARDS = 32  # frames that cross the wire stay small
_COLUMNS = ("user_id", "time", "video_id", "completed")
Ints = NDArray[np.int64]
PAIRS = pl.Schema({"id": pl.Int32(), "other": pl.Int32(), "count": pl.Int64()})
NEAR = pl.Schema({"id": pl.Int32(), "other": pl.Int32(), "weight": pl.Int64()})


def recent_videos(watches: pl.DataFrame, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """user_id, id (Int32) of each user's last `LAST` distinct completed videos in vocabulary, by user, newest first.

    watches: user_id, time, video_id, completed, in any order; vocabulary: token, id. Of equal times the lower id is
    the newer.
    """
    completed = watches.filter("completed").join(vocabulary, left_on="video_id", right_on="token")
    distinct = completed.group_by("user_id", pl.col("id").cast(pl.Int32)).agg(pl.col("time").max())
    ordered = distinct.sort("user_id", "time", "id", descending=[False, True, False])
    return ordered.group_by("user_id", maintain_order=True).head(LAST).select("user_id", "id")


def count_pairs(recent: pl.DataFrame) -> pl.DataFrame:
    """`recent_videos` -> `PAIRS`, id <= other: how many users had both; of a video with itself, how many had it."""
    rows = recent.with_columns(
        user=(pl.col("user_id") != pl.col("user_id").shift(1)).fill_null(True).cum_sum() - 1,
        at=pl.int_range(pl.len()).over("user_id"),
    )
    user, at, ids = (rows[name].to_numpy() for name in ("user", "at", "id"))
    table = np.zeros((int(user[-1]) + 1 if len(user) else 0, LAST), np.int64)
    table[user, at] = ids
    table.sort(axis=1)
    left, right = np.triu_indices(LAST)
    pairs = (table[:, left] << 32 | table[:, right])[table[:, left] > 0]
    pairs, counts = _sums(pairs, np.ones(len(pairs), np.int64))
    return _pairs(pairs, counts)


def _pairs(pairs: Ints, counts: Ints) -> pl.DataFrame:
    columns = {"id": (pairs >> 32).astype(np.int32), "other": pairs.astype(np.int32), "count": counts}
    return pl.DataFrame(columns, schema=PAIRS)


def _sums(keys: Ints, values: Ints) -> tuple[Ints, Ints]:
    """The distinct keys in order, and the sum of the values of each. Sorting beats grouping by hashes where most keys
    are rare."""
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    return keys[starts], np.add.reduceat(values[order], starts) if len(keys) else values


def _best(groups: Ints, weights: Ints) -> tuple[Ints, Ints]:
    """Rows by group, weights falling, ties in the given order: their indices, and the place of each in its group."""
    order = np.argsort((groups << 36) - weights, kind="stable")
    counts = np.bincount(groups)
    return order, np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)


def both_ways(pairs: pl.DataFrame) -> pl.DataFrame:
    """`PAIRS` of different videos, each from both sides."""
    apart = pairs.filter(pl.col("id") != pl.col("other"))
    return pl.concat([apart, apart.select(id="other", other="id", count="count")])


def watchers(pairs: pl.DataFrame) -> pl.DataFrame:
    """`PAIRS` -> id, users: how many of the sample had each video."""
    same = pairs.filter(pl.col("id") == pl.col("other"))
    return same.group_by("id").agg(users=pl.col("count").sum())


def nearest(pairs: pl.DataFrame, watchers: pl.DataFrame) -> pl.DataFrame:
    """`both_ways` pairs in parts, and `watchers` -> `NEAR`: the `NEAREST` others of each id, weights falling, ties by
    id. A weight is the cosine, count / sqrt(users of one * users of the other), in units of `UNIT`."""
    keys = pairs["id"].to_numpy().astype(np.int64) << 32 | pairs["other"].to_numpy()
    keys, counts = _sums(keys, pairs["count"].to_numpy())
    ids, others = keys >> 32, keys & 0xFFFFFFFF
    users = np.zeros(watchers["id"].to_numpy().max(initial=0) + 1, np.int64)
    users[watchers["id"].to_numpy()] = watchers["users"].to_numpy()
    weights = np.rint(counts / np.sqrt(users[ids] * users[others]) / UNIT).astype(np.int64)
    order, place = _best(ids, weights)
    kept = order[place < NEAREST]
    columns = {"id": ids[kept].astype(np.int32), "other": others[kept].astype(np.int32), "weight": weights[kept]}
    return pl.DataFrame(columns, schema=NEAR)


@dataclass(frozen=True, kw_only=True)
class CoWatched:
    """`NEAR` of all videos: the others of video i are others[offsets[i]:offsets[i + 1]]."""

    offsets: NDArray[np.int64]  # [videos + 2]: ids begin at 1
    others: NDArray[np.int32]
    weights: NDArray[np.int32]

    @classmethod
    def of(cls, near: pl.DataFrame, *, videos: int) -> CoWatched:
        """From `NEAR` in any order of ids, and the number of videos in vocabulary."""
        ordered = near.sort("id", maintain_order=True)
        counts = np.bincount(ordered["id"].to_numpy(), minlength=videos + 1)
        return cls(
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            others=ordered["other"].to_numpy(),
            weights=ordered["weight"].cast(pl.Int32).to_numpy(),
        )

    def scores(self, recent: pl.DataFrame, position_of: NDArray[np.int32]) -> tuple[Ints, Ints]:
        """row, id of users' last videos -> keys, row << 32 | position, in order, and their weights: the sums, in units
        of `UNIT`. position_of: of each id in the index, -1 for no candidate."""
        row, ids = (recent[name].to_numpy().astype(np.int64) for name in ("row", "id"))
        counts = self.offsets[ids + 1] - self.offsets[ids]
        first = np.repeat(self.offsets[ids] - (np.cumsum(counts) - counts), counts)
        at = first + np.arange(int(counts.sum()))
        position = position_of[self.others[at]]
        known = position >= 0
        return _sums((np.repeat(row, counts) << 32 | position)[known], self.weights[at[known]].astype(np.int64))

    def candidates(
        self, recent: pl.DataFrame, *, users: int, position_of: NDArray[np.int32], fallback: Positions
    ) -> Candidates:
        """What the users might get, best first: all that their last videos lead to, then the fallback, score 0.

        recent, position_of: as `scores` takes them; fallback: [users, k], filled up with -1. Rules are not applied yet.
        """
        keys, sums = self.scores(recent, position_of)
        row = keys >> 32
        order, column = _best(row, sums)
        shape = (users, int(column.max(initial=-1)) + 1)
        positions, scores = np.full(shape, -1, np.int32), np.full(shape, MASKED_SCORE, np.float32)
        positions[row, column], scores[row, column] = keys[order] & 0xFFFFFFFF, sums[order] * UNIT
        asked = np.arange(users, dtype=np.int64)[:, None] << 32 | np.maximum(fallback, 0)
        there = keys[np.minimum(np.searchsorted(keys, asked), len(keys) - 1)] == asked if len(keys) else False
        others = np.where(there, np.int32(-1), fallback)
        return Candidates(
            positions=np.concatenate([positions, others], axis=1),
            scores=np.concatenate([scores, np.where(others < 0, MASKED_SCORE, np.float32(0))], axis=1),
        )


@dataclass(frozen=True)
class CoWatchesFile:
    """The file of `NEAR`."""

    file: FileEntry


@dataclass
class WriteCoWatches(beam.PTransform):
    """Bucket files -> a Parquet file of `NEAR`, and its `CoWatchesFile`; none if nobody of the sample has two videos.

    window, holdout: what may be learned from. counts: path of the video vocabulary. shown: path of the candidates
    (`id`), which alone are others. sample: of the users; the buckets are those it names.
    """

    window: Window
    holdout: Holdout
    counts: str
    shown: str
    sample: UserSample
    folder: str
    name: str

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> beam.PCollection[CoWatchesFile]:
        pairs = buckets | beam.Reshuffle() | beam.Map(self._count).with_output_types(pl.DataFrame)
        alone = pairs | "Watchers" >> beam.Map(watchers).with_output_types(pl.DataFrame) | GatherFrames()
        sharded = pairs | beam.FlatMap(self._by_video).with_output_types(KeyedFrame) | "Of videos" >> GroupFrames()
        near = sharded | beam.Map(_nearest_of_shard, beam.pvalue.AsList(alone)).with_output_types(pl.DataFrame)
        return near | "Near" >> GatherFrames() | beam.Map(self._write)

    def _count(self, bucket: BucketFiles) -> pl.DataFrame:
        watches = self.window.unordered_events(bucket, _COLUMNS, ("user_id", "time")).watches
        vocabulary = files.read_parquet(self.counts, ["token"]).with_row_index("id", 1)
        progress.advance()
        learnable = self.holdout.learnable(watches)
        return count_pairs(recent_videos(learnable.filter(self.sample.contains(learnable["user_id"])), vocabulary))

    def _by_video(self, pairs: pl.DataFrame) -> Iterator[KeyedFrame]:
        shown = files.read_parquet(self.shown, ["id"]).select(other=pl.col("id").cast(pl.Int32))
        found = both_ways(pairs).join(shown, on="other", how="semi")
        parts = found.with_columns(shard=pl.col("id") % _SHARDS).partition_by("shard", as_dict=True, include_key=False)
        yield from ((int(key), part) for (key,), part in parts.items())

    def _write(self, near: pl.DataFrame) -> CoWatchesFile:
        ordered = near.sort("id", "weight", "other", descending=[False, True, False])
        return CoWatchesFile(files.write_parquet(ordered, self.folder, self.name))


def _nearest_of_shard(shard: KeyedFrame, alone: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return nearest(shard[1], pl.concat(alone).group_by("id").agg(pl.col("users").sum()))
