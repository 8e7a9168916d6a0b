"""Item to item: videos watched by the users who watched the same videos. A baseline, not part of serving.

The last `LAST` completed videos of a sample of users -> counts of pairs -> the `NEAREST` videos of each, by the cosine
of their users (Linden, Smith, York: Amazon.com recommendations, IEEE Internet Computing 2003). A user's score of a
video is the sum over their own last videos. A user has at most `LAST` videos and the sample at most `MOST_USERS`
users, which bounds the work. Sums are of integers, so they do not depend on the order of their parts.

    pairs = count_pairs(recent_videos(watches, vocabulary))
    near = CoWatched.from_frame(nearest_videos(mirror_pairs(pairs), count_watchers(pairs)), videos=vocabulary.height)
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
from transforms.core.runs import run_indices, sum_by_key
from transforms.core.user_sampling import UserSample
from transforms.logs.event_window import COMPLETED_COLUMNS, BucketFiles, Holdout, Window
from transforms.search.exact_search import MASKED_SCORE, Candidates, Positions

LAST, NEAREST, MOST_USERS = 20, 50, 50_000
UNIT = 2**-30  # unit of weights
_SHARDS = 32  # keeps the frames that workers exchange small
Ints = NDArray[np.int64]
PAIRS = pl.Schema({"id": pl.Int32(), "other": pl.Int32(), "count": pl.Int64()})
NEAR = pl.Schema({"id": pl.Int32(), "other": pl.Int32(), "weight": pl.Int64()})


def recent_videos(watches: pl.DataFrame, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """Return user_id, id (Int32) of each user's last `LAST` distinct completed videos, by user, newest first.

    watches: user_id, time, video_id, completed, in any order. vocabulary: token, id. Of equal times the lower id counts
    as newer.
    """
    completed = watches.filter("completed").join(vocabulary, left_on="video_id", right_on="token")
    distinct = completed.group_by("user_id", pl.col("id").cast(pl.Int32)).agg(pl.col("time").max())
    ordered = distinct.sort("user_id", "time", "id", descending=[False, True, False])
    return ordered.group_by("user_id", maintain_order=True).head(LAST).select("user_id", "id")


def count_pairs(recent: pl.DataFrame) -> pl.DataFrame:
    """Return `PAIRS` with id <= other: the number of users of `recent` who have both; of equal ids, who have the
    video."""
    rows = recent.with_columns(
        user=(pl.col("user_id") != pl.col("user_id").shift(1)).fill_null(True).cum_sum() - 1,
        place=pl.int_range(pl.len()).over("user_id"),
    )
    user, place, ids = (rows[name].to_numpy() for name in ("user", "place", "id"))
    table = np.zeros((int(user[-1]) + 1 if len(user) else 0, LAST), np.int64)
    table[user, place] = ids
    table.sort(axis=1)
    left, right = np.triu_indices(LAST)
    pairs = (table[:, left] << 32 | table[:, right])[table[:, left] > 0]
    pairs, counts = sum_by_key(pairs, np.ones(len(pairs), np.int64))
    return _pairs(pairs, counts)


def _pairs(pairs: Ints, counts: Ints) -> pl.DataFrame:
    columns = {"id": (pairs >> 32).astype(np.int32), "other": pairs.astype(np.int32), "count": counts}
    return pl.DataFrame(columns, schema=PAIRS)


def _rank_in_groups(groups: Ints, weights: Ints) -> tuple[Ints, Ints]:
    """Return the indexes of rows by group and falling weight, ties in the given order, and their ranks in a group."""
    order = np.argsort((groups << 36) - weights, kind="stable")
    counts = np.bincount(groups)
    return order, np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)


def mirror_pairs(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return the `PAIRS` of different videos, each in both directions."""
    different = pairs.filter(pl.col("id") != pl.col("other"))
    return pl.concat([different, different.select(id="other", other="id", count="count")])


def count_watchers(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return id, users: the number of users of the sample who have each video."""
    same = pairs.filter(pl.col("id") == pl.col("other"))
    return same.group_by("id").agg(users=pl.col("count").sum())


def nearest_videos(pairs: pl.DataFrame, watchers: pl.DataFrame) -> pl.DataFrame:
    """Return `NEAR`: the `NEAREST` others of each id, by falling weight, ties by id.

    pairs: `mirror_pairs`, which may be in parts with repeated pairs. watchers: `count_watchers`. A weight is the
    cosine, count / sqrt(users of one * users of the other), in units of `UNIT`.
    """
    keys = pairs["id"].to_numpy().astype(np.int64) << 32 | pairs["other"].to_numpy()
    keys, counts = sum_by_key(keys, pairs["count"].to_numpy())
    ids, others = keys >> 32, keys & 0xFFFFFFFF
    users = np.zeros(watchers["id"].to_numpy().max(initial=0) + 1, np.int64)
    users[watchers["id"].to_numpy()] = watchers["users"].to_numpy()
    weights = np.rint(counts / np.sqrt(users[ids] * users[others]) / UNIT).astype(np.int64)
    order, place = _rank_in_groups(ids, weights)
    kept = order[place < NEAREST]
    columns = {"id": ids[kept].astype(np.int32), "other": others[kept].astype(np.int32), "weight": weights[kept]}
    return pl.DataFrame(columns, schema=NEAR)


@dataclass(frozen=True, kw_only=True)
class CoWatched:
    """`NEAR` by video: the nearest videos of id i are others[offsets[i]:offsets[i + 1]]."""

    offsets: NDArray[np.int64]  # [videos + 2]; ids start at 1
    others: NDArray[np.int32]
    weights: NDArray[np.int32]

    @classmethod
    def from_frame(cls, near: pl.DataFrame, *, videos: int) -> CoWatched:
        """Build it from `NEAR`, in any order of ids, and the number of videos in the vocabulary."""
        ordered = near.sort("id", maintain_order=True)
        counts = np.bincount(ordered["id"].to_numpy(), minlength=videos + 1)
        return cls(
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            others=ordered["other"].to_numpy(),
            weights=ordered["weight"].cast(pl.Int32).to_numpy(),
        )

    def scores(self, recent: pl.DataFrame, position_of: NDArray[np.int32]) -> tuple[Ints, Ints]:
        """Return the candidates of users as ascending keys, row << 32 | position, and their summed weights.

        recent: row, id of the users' last videos. position_of: position of each id in the index, -1: not in the index.
        Weights are in units of `UNIT`.
        """
        row, ids = (recent[name].to_numpy().astype(np.int64) for name in ("row", "id"))
        counts = self.offsets[ids + 1] - self.offsets[ids]
        index = run_indices(self.offsets[ids], counts)
        position = position_of[self.others[index]]
        known = position >= 0
        return sum_by_key((np.repeat(row, counts) << 32 | position)[known], self.weights[index[known]].astype(np.int64))

    def candidates(
        self, recent: pl.DataFrame, *, users: int, position_of: NDArray[np.int32], fallback: Positions
    ) -> Candidates:
        """Return candidates of users, best first: all with a score, then those of the fallback, with score 0.

        recent, position_of: as for `scores`. fallback: [users, k], padded with -1. No rules are applied.
        """
        keys, sums = self.scores(recent, position_of)
        row = keys >> 32
        order, column = _rank_in_groups(row, sums)
        shape = (users, int(column.max(initial=-1)) + 1)
        positions, scores = np.full(shape, -1, np.int32), np.full(shape, MASKED_SCORE, np.float32)
        positions[row, column], scores[row, column] = keys[order] & 0xFFFFFFFF, sums[order] * UNIT
        wanted = np.arange(users, dtype=np.int64)[:, None] << 32 | np.maximum(fallback, 0)
        scored = keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted if len(keys) else False
        others = np.where(scored, np.int32(-1), fallback)
        return Candidates(
            positions=np.concatenate([positions, others], axis=1),
            scores=np.concatenate([scores, np.where(others < 0, MASKED_SCORE, np.float32(0))], axis=1),
        )


@dataclass
class WriteCoWatches(beam.PTransform):
    """Write a Parquet file of `NEAR`; return its `FileEntry`, or none if no user of the sample has two videos.

    window, holdout: the watches to count. counts: path of the video vocabulary. shown: path of the candidates (`id`);
    only these are near others. sample: the users to count, whose buckets are given.
    """

    window: Window
    holdout: Holdout
    counts: str
    shown: str
    sample: UserSample
    folder: str
    name: str

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> beam.PCollection[FileEntry]:
        pairs = buckets | beam.Reshuffle() | beam.Map(self._count).with_output_types(pl.DataFrame)
        watchers = pairs | "Watchers" >> beam.Map(count_watchers).with_output_types(pl.DataFrame) | GatherFrames()
        sharded = pairs | beam.FlatMap(self._by_video).with_output_types(KeyedFrame) | "Of videos" >> GroupFrames()
        near = sharded | beam.Map(_nearest_of_shard, beam.pvalue.AsList(watchers)).with_output_types(pl.DataFrame)
        return near | "Near" >> GatherFrames() | beam.Map(self._write)

    def _count(self, bucket: BucketFiles) -> pl.DataFrame:
        watches = self.window.unordered_events(bucket, COMPLETED_COLUMNS, ("user_id", "time")).watches
        vocabulary = files.read_parquet(self.counts, ["token"]).with_row_index("id", 1)
        progress.advance()
        learnable = self.holdout.learnable(watches)
        return count_pairs(recent_videos(learnable.filter(self.sample.contains(learnable["user_id"])), vocabulary))

    def _by_video(self, pairs: pl.DataFrame) -> Iterator[KeyedFrame]:
        shown = files.read_parquet(self.shown, ["id"]).select(other=pl.col("id").cast(pl.Int32))
        found = mirror_pairs(pairs).join(shown, on="other", how="semi")
        parts = found.with_columns(shard=pl.col("id") % _SHARDS).partition_by("shard", as_dict=True, include_key=False)
        yield from ((int(key), part) for (key,), part in parts.items())

    def _write(self, near: pl.DataFrame) -> FileEntry:
        ordered = near.sort("id", "weight", "other", descending=[False, True, False])
        return files.write_parquet(ordered, self.folder, self.name)


def _nearest_of_shard(shard: KeyedFrame, watchers: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return nearest_videos(shard[1], pl.concat(watchers).group_by("id").agg(pl.col("users").sum()))
