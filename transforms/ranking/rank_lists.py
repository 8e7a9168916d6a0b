"""Lists ordered by expected watch time (paper, 4): the ranker orders the first videos of each, the others follow.

lists of a bucket, its store files, ranker -> RankCandidates -> Parquet: `RANKED_LISTS`

The score of a ranked video is that of `order`: of its expected seconds and the generator's score. The videos
after them were not ranked: their expected seconds are null, and each has a score 1 below that of the video before it.
So scores fall.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core import files, progress
from transforms.core.bootstrap import weights
from transforms.core.digests import concat, id_digests
from transforms.core.files import FileEntry
from transforms.core.records import Counts
from transforms.core.threads import ThreadedMap
from transforms.logs.event_window import BucketFiles, Events, Window, read_users
from transforms.logs.schemas import TIME
from transforms.ranking.calibration import load_calibration, user_halves
from transforms.ranking.features import ImpressionContext
from transforms.ranking.generator_features import GeneratorNight, generator_features
from transforms.ranking.order import OrderSums, order_scores
from transforms.ranking.ranker import Ranker, load_ranker
from transforms.ranking.records import Encoded, RankingBucket, RankingInputs, encode, read_shared
from transforms.ranking.watch_time_recall import WatchTime, completed_seconds, seconds_in_lists
from transforms.search.neighbours import LISTS

LISTS_AT_ONCE = 8_192  # about 200 MB of features for 50 candidates each
# Seconds are null for the videos that were not ranked. The lists have as many as videos.
RANKED_LISTS = pl.Schema({**LISTS, "expected_seconds": pl.List(pl.Float32())})


def list_candidates(lists: pl.DataFrame, count: int, time: dt.datetime) -> pl.DataFrame:
    """Return the first `count` videos of each of `LISTS` as impressions at a moment: list (row), user_id, video_id,
    time, score, rank (from 1), generator (the smallest score so far)."""
    heads = lists.with_row_index("list").select(
        pl.col("list").cast(pl.Int64),
        "user_id",
        pl.col("video_ids").list.head(count),
        pl.col("scores").list.head(count),
        generator=pl.col("scores").list.head(count).list.eval(pl.element().cum_min()),
        rank=pl.int_ranges(1, pl.col("video_ids").list.len().clip(upper_bound=count) + 1, dtype=pl.Int64),
    )
    rows = heads.explode("video_ids", "scores", "generator", "rank", empty_as_null=False, keep_nulls=False)
    return rows.rename({"video_ids": "video_id", "scores": "score"}).with_columns(
        pl.lit(time).cast(TIME).alias("time"), pl.col("rank").cast(pl.Float32)
    )


def reorder_lists(
    lists: pl.DataFrame,
    candidates: pl.DataFrame,
    scores: NDArray[np.float32],
    seconds: NDArray[np.float32],
    count: int,
) -> pl.DataFrame:
    """Return `RANKED_LISTS`: the first `count` videos of `LISTS` by falling scores, ties by rank; the others follow.

    candidates: list, video_id, rank, in any order. scores, seconds: those of each candidate.
    """
    row, rank = candidates["list"].to_numpy(), candidates["rank"].to_numpy()
    order = np.lexsort((rank, -scores, row))
    offsets = pa.array(np.searchsorted(row[order], np.arange(lists.height + 1)).astype(np.int64))
    columns = {
        "video_ids": candidates["video_id"][order].cast(pl.String).to_arrow().cast(pa.large_string()),
        "scores": pa.array(scores[order], pa.float32()),
        "expected_seconds": pa.array(seconds[order], pa.float32()),
    }
    heads = pl.DataFrame({n: pa.LargeListArray.from_arrays(offsets, values) for n, values in columns.items()})
    lowest = heads["scores"].list.last().fill_null(0.0)
    others = lists.select(pl.col("video_ids").list.slice(count)).with_columns(
        scores=(lowest - pl.int_ranges(1, pl.col("video_ids").list.len() + 1, dtype=pl.Int64)).cast(LISTS["scores"])
    )
    tails = others.with_columns(expected_seconds=pl.col("scores").list.eval(pl.lit(None, pl.Float32)))
    joined = {name: pl.concat_list(heads[name], tails[name]) for name in columns}
    return lists.select("user_id", **joined).match_to_schema(RANKED_LISTS)


@dataclass(frozen=True, kw_only=True)
class ListRanking:
    """How lists are ranked; all buckets share it."""

    inputs: RankingInputs  # candidates are shown at the end of its window
    ranker: str  # folder
    count: int  # ranked videos of each list
    weights: tuple[float, float, float]  # `ChosenOrder.weights`; small, because steps are pickled with it
    held_out: bool = False  # lists of held-out users: each half has the calibration and the weight of the other half


@dataclass(frozen=True, kw_only=True)
class ScoredCandidates:
    """Encoded candidates and their expected watch times."""

    encoded: Encoded
    seconds: NDArray[np.float32]  # calibrated, and at most what is possible
    scores: NDArray[np.float32]  # that lists are sorted by


def score_lists(
    lists: pl.DataFrame, bucket: RankingBucket, events: Events, ranking: ListRanking
) -> Iterator[tuple[pl.DataFrame, ScoredCandidates]]:
    """Yield some lists at a time with the first videos of each and their expected seconds if shown at the end of the
    window.

    events: of the bucket, in the window. The bucket has one night; the generator's score and rank are those of the
    lists.
    """
    inputs, time = ranking.inputs, ranking.inputs.window.end
    heads = list_candidates(lists, ranking.count, time).select("user_id", "video_id")
    context = ImpressionContext.from_events(events, read_users(bucket.files), read_shared(inputs).catalogue, [heads])
    for part in lists.iter_slices(LISTS_AT_ONCE):
        yield part, _score(list_candidates(part, ranking.count, time), context, bucket, ranking)


def _score(
    candidates: pl.DataFrame, context: ImpressionContext, bucket: RankingBucket, ranking: ListRanking
) -> ScoredCandidates:
    ranker, calibration = load_ranker(ranking.ranker), load_calibration(ranking.ranker)
    features, shared = context.features(candidates, zone=ranking.inputs.zone), read_shared(ranking.inputs)
    generator = generator_features(features, context, bucket.nights, listed=True)
    used = {name: values for name, values in generator.items() if name in ranker.spec.numbers}
    encoded = encode(context, features, used, shared, ranker.spec)
    odds = ranker.score(encoded.request, encoded.query_arrays(ranker.spec), encoded.impressions)
    lengths = context.videos["video_seconds"].cast(pl.Float64).fill_null(np.nan).to_numpy()[features.videos]
    half = user_halves(encoded.user_ids)[encoded.request] if ranking.held_out else None
    seconds = calibration.seconds(odds, lengths, half)
    weight = ranking.weights[0] if half is None else np.array(ranking.weights[1:])[half]
    shown = encoded.shown
    scores = order_scores(seconds, shown["generator"].to_numpy(), shown["rank"].to_numpy(), weight)
    return ScoredCandidates(encoded=encoded, seconds=seconds, scores=scores)


def rank_lists(lists: pl.DataFrame, bucket: RankingBucket, ranking: ListRanking) -> pl.DataFrame:
    """Return the `LISTS` of users of a bucket as `RANKED_LISTS`, in the same order of users."""
    events = ranking.inputs.window.events_with_impressions(bucket.files)
    parts = (
        reorder_lists(part, found.encoded.shown, found.scores, found.seconds, ranking.count)
        for part, found in score_lists(lists, bucket, events, ranking)
    )
    return concat([pl.DataFrame(schema=RANKED_LISTS), *parts])


@dataclass
class RankCandidates(beam.PTransform):
    """Write a Parquet file of ranked lists per `RankingBucket`; return its `FileEntry` and `Counts` of candidates."""

    ranking: ListRanking
    folder: str
    name: str  # pattern of a bucket's file
    threads: int = 1  # buckets processed at the same time

    def expand(self, buckets: beam.PCollection[RankingBucket]) -> beam.PCollection[FileEntry | Counts]:
        return (buckets | beam.Reshuffle() | ThreadedMap(self._rank, self.threads, (), "records")).records

    def _rank(self, bucket: RankingBucket) -> Iterator[FileEntry | Counts]:
        lists = pl.concat([files.read_parquet(path, LISTS.names()) for path in bucket.lists]).match_to_schema(
            LISTS, integer_cast="forbid"
        )
        rows = rank_lists(lists, bucket, self.ranking)
        yield files.write_parquet(rows, self.folder, self.name.format(bucket=bucket.files.bucket))
        candidates = int(lists["video_ids"].list.len().clip(upper_bound=self.ranking.count).sum())
        yield Counts({"users": rows.height, "candidates": candidates})
        progress.advance()


@dataclass(frozen=True, kw_only=True)
class HeldOutRanking:
    """Ranks the lists of held-out users."""

    ranking: ListRanking  # its window ends where the held-out days begin
    videos: str  # path of the model's video vectors
    trends: int = 0  # as in `GeneratorNight`
    cut: int  # first videos whose watch time is compared

    def rank(self, lists: pl.DataFrame, bucket: BucketFiles) -> pl.DataFrame:
        """Return the `LISTS` of users of a bucket as `RANKED_LISTS`, ranked as of the end of the window."""
        return rank_lists(lists, self._bucket(bucket), self.ranking)

    def _bucket(self, bucket: BucketFiles) -> RankingBucket:
        night = GeneratorNight(start=self.ranking.inputs.window.start, videos=self.videos, trends=self.trends)
        return RankingBucket(files=bucket, nights=(night,))

    def orders(self, lists: pl.DataFrame, bucket: BucketFiles, window: Window) -> Iterator[OrderSums]:
        """Yield what the users of `LISTS` completed later, in the order of each weight, some users at a time.

        window: that of the night, with the held-out days.
        """
        events, own = window.events_with_impressions(bucket), pl.col("user_id").is_in(lists["user_id"].implode())
        as_of = self.ranking.inputs.window.end
        later = events.watches.filter(own, pl.col("time") >= as_of)
        before = {
            table: getattr(events, table).filter(own, pl.col("time") < as_of)
            for table in ("watches", "searches", "impressions")
        }
        wanted = completed_seconds(later)
        for part, found in score_lists(lists, self._bucket(bucket), replace(events, **before), self.ranking):
            shown = found.encoded.shown
            yield OrderSums.from_candidates(part["user_id"], shown, found.seconds, wanted, cut=self.cut)

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
