"""Lists ordered by expected watch time (paper, 4): the ranker orders the first videos of each, the others follow.

lists of a bucket, its store files, ranker -> RankCandidates -> Parquet: user_id, video_ids (best first), scores

The scores of ranked videos are expected seconds, above 0; those of the others are minus their place, from 1. So scores
fall, and their sign tells whether a video was ranked.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core import files, progress
from transforms.core.bootstrap import weights
from transforms.core.files import FileEntry
from transforms.core.frames import concat, id_digests
from transforms.core.records import Counts
from transforms.core.threads import ThreadedMap
from transforms.logs.event_window import BucketFiles, Events, read_users
from transforms.logs.schemas import TIME
from transforms.ranking.features import ImpressionContext
from transforms.ranking.generator_features import GeneratorNight, generator_features
from transforms.ranking.ranker import Ranker, load_ranker
from transforms.ranking.records import Encoded, RankingBucket, RankingInputs, encode, read_shared
from transforms.ranking.timelines import Ints
from transforms.ranking.watch_time_recall import WatchTime, completed_seconds, seconds_in_lists
from transforms.search.neighbours import LISTS

LISTS_AT_ONCE = 8_192  # about 200 MB of features for 50 candidates each
LONGEST_SECONDS = 1e6  # upper limit of expected seconds


def list_candidates(lists: pl.DataFrame, count: int, time: dt.datetime) -> pl.DataFrame:
    """Return the first `count` videos of each of `LISTS` as impressions at a moment: list (row), user_id, video_id,
    time, score, rank (from 1)."""
    heads = lists.with_row_index("list").select(
        pl.col("list").cast(pl.Int64),
        "user_id",
        pl.col("video_ids").list.head(count),
        pl.col("scores").list.head(count),
        rank=pl.int_ranges(1, pl.col("video_ids").list.len().clip(upper_bound=count) + 1, dtype=pl.Int64),
    )
    rows = heads.explode("video_ids", "scores", "rank", empty_as_null=False, keep_nulls=False)
    return rows.rename({"video_ids": "video_id", "scores": "score"}).with_columns(
        pl.lit(time).cast(TIME).alias("time"), pl.col("rank").cast(pl.Float32)
    )


def reorder_lists(
    lists: pl.DataFrame, candidates: pl.DataFrame, seconds: NDArray[np.float32], count: int
) -> pl.DataFrame:
    """Return `LISTS` with their first `count` videos by falling expected seconds, ties by rank; the others follow.

    candidates: list, video_id, rank, in any order. seconds: expected watch time of each candidate.
    """
    row, rank = candidates["list"].to_numpy(), candidates["rank"].to_numpy()
    order = np.lexsort((rank, -seconds, row))
    offsets = np.searchsorted(row[order], np.arange(lists.height + 1))
    heads = _lists_frame(offsets, candidates["video_id"][order], seconds[order])
    place = pl.int_ranges(1, pl.col("video_ids").list.len() + 1, dtype=pl.Int64)
    others = lists.select(
        pl.col("video_ids").list.slice(count),
        scores=place.list.slice(count).list.eval(-pl.element().cast(pl.Float32)),
    )
    return lists.select(
        "user_id",
        video_ids=pl.concat_list(heads["video_ids"], others["video_ids"]),
        scores=pl.concat_list(heads["scores"], others["scores"]),
    ).match_to_schema(LISTS)


def _lists_frame(offsets: Ints, video_ids: pl.Series, seconds: NDArray[np.float32]) -> pl.DataFrame:
    starts = pa.array(offsets.astype(np.int64))
    values = {
        "video_ids": video_ids.cast(pl.String).to_arrow().cast(pa.large_string()),
        "scores": pa.array(seconds.astype(np.float32)),
    }
    return pl.DataFrame({name: pa.LargeListArray.from_arrays(starts, column) for name, column in values.items()})


@dataclass(frozen=True, kw_only=True)
class ScoredCandidates:
    """Encoded candidates and their expected watch times."""

    encoded: Encoded
    seconds: NDArray[np.float32]


def score_lists(
    lists: pl.DataFrame,
    bucket: RankingBucket,
    events: Events,
    ranker: Ranker,
    inputs: RankingInputs,
    *,
    count: int,
) -> Iterator[tuple[pl.DataFrame, ScoredCandidates]]:
    """Yield some lists at a time with the first `count` videos of each and their expected seconds if shown at the end
    of the window.

    events: of the bucket, in the window. The bucket has one night; the generator's score and rank are those of the
    lists.
    """
    time = inputs.window.end
    heads = list_candidates(lists, count, time).select("user_id", "video_id")
    context = ImpressionContext.from_events(events, read_users(bucket.files), read_shared(inputs).catalogue, [heads])
    for part in lists.iter_slices(LISTS_AT_ONCE):
        yield part, _score(list_candidates(part, count, time), context, bucket, ranker, inputs)


def _score(
    candidates: pl.DataFrame, context: ImpressionContext, bucket: RankingBucket, ranker: Ranker, inputs: RankingInputs
) -> ScoredCandidates:
    features, shared, spec = context.features(candidates, zone=inputs.zone), read_shared(inputs), ranker.spec
    generator = generator_features(features, context, bucket.nights, listed=True)
    used = {name: values for name, values in generator.items() if name in spec.numbers}
    encoded = encode(context, features, used, shared, spec)
    odds = ranker.score(encoded.request, encoded.query_arrays(spec), encoded.impressions)
    return ScoredCandidates(encoded=encoded, seconds=to_seconds(odds))


def to_seconds(log_odds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return e^(Wx + b), the expected seconds (paper, 4.2), above 0 and at most `LONGEST_SECONDS`."""
    return np.exp(np.clip(log_odds, -np.log(LONGEST_SECONDS), np.log(LONGEST_SECONDS))).astype(np.float32)


def rank_lists(
    lists: pl.DataFrame, bucket: RankingBucket, folder: str, inputs: RankingInputs, count: int
) -> pl.DataFrame:
    """Return `LISTS` of users of a bucket with their first `count` videos ranked by the ranker in a folder."""
    ranker, events = load_ranker(folder), inputs.window.events_with_impressions(bucket.files)
    scored = score_lists(lists, bucket, events, ranker, inputs, count=count)
    parts = (reorder_lists(part, found.encoded.shown, found.seconds, count) for part, found in scored)
    return concat([lists.clear(), *parts])


@dataclass
class RankCandidates(beam.PTransform):
    """Write a Parquet file of ranked lists per `RankingBucket`; return its `FileEntry` and `Counts` of candidates."""

    inputs: RankingInputs
    ranker: str  # folder
    count: int  # ranked videos of each list
    folder: str
    name: str  # pattern of a bucket's file
    threads: int = 1  # buckets processed at the same time

    def expand(self, buckets: beam.PCollection[RankingBucket]) -> beam.PCollection[FileEntry | Counts]:
        return (buckets | beam.Reshuffle() | ThreadedMap(self._rank, self.threads, (), "records")).records

    def _rank(self, bucket: RankingBucket) -> Iterator[FileEntry | Counts]:
        lists = pl.concat([files.read_parquet(path, LISTS.names()) for path in bucket.lists]).match_to_schema(
            LISTS, integer_cast="forbid"
        )
        rows = rank_lists(lists, bucket, self.ranker, self.inputs, self.count)
        yield files.write_parquet(rows, self.folder, self.name.format(bucket=bucket.files.bucket))
        candidates = int(lists["video_ids"].list.len().clip(upper_bound=self.count).sum())
        yield Counts({"users": rows.height, "candidates": candidates})
        progress.advance()


@dataclass(frozen=True, kw_only=True)
class HeldOutRanking:
    """Ranks the lists of held-out users."""

    inputs: RankingInputs  # its window ends where the held-out days begin
    ranker: str  # folder
    videos: str  # path of the model's video vectors
    count: int  # ranked videos of each list
    cut: int  # first videos whose watch time is compared

    def rank(self, lists: pl.DataFrame, bucket: BucketFiles) -> pl.DataFrame:
        """Return `LISTS` of users of a bucket, in their order, ranked as of the end of the window."""
        night = GeneratorNight(start=self.inputs.window.start, videos=self.videos)
        ranking_bucket = RankingBucket(files=bucket, nights=(night,))
        return rank_lists(lists, ranking_bucket, self.ranker, self.inputs, self.count)

    def watch_time(self, lists: pl.DataFrame, ranked: pl.DataFrame, watches: pl.DataFrame) -> WatchTime:
        """Compare `LISTS` of some users, and the same lists ranked, with what the users watched later.

        watches: user_id, video_id, completed, watch_seconds of the held-out days.
        """
        orders = {"neighbours": lists, "ranking": ranked}
        wanted = completed_seconds(watches.join(lists.select("user_id"), on="user_id", how="semi"))
        totals = lists.select("user_id").join(
            wanted.group_by("user_id").agg(pl.col("seconds").sum()), on="user_id", how="left", maintain_order="left"
        )
        columns = {"wanted": totals["seconds"].fill_null(0).to_numpy()}
        columns |= {order: seconds_in_lists(ordered, wanted, self.cut) for order, ordered in orders.items()}
        return WatchTime.from_columns(columns, weights(id_digests(lists["user_id"]).to_numpy()))


def explain_candidates(scored: ScoredCandidates, ranker: Ranker) -> NDArray[Any]:
    """Return the effect of each of the spec's features on each candidate's log-odds: [candidates, features]."""
    encoded = scored.encoded
    return ranker.explain(encoded.request, encoded.query_arrays(ranker.spec), encoded.impressions)
