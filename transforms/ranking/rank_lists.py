"""Lists by expected watch time (paper, 4): the first of each by the ranker, the rest behind them as it was.

lists of a bucket, its store files, ranker -> RankCandidates -> Parquet: user_id, video_ids (best first), scores

Scores of the first `candidates` are expected seconds, above 0; those behind them are minus their place, from 1: so
scores fall, and their sign tells which is which.
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
from transforms.logs.event_window import BucketFiles, read_users
from transforms.logs.robots import Events
from transforms.logs.schemas import TIME
from transforms.ranking.features import ImpressionContext
from transforms.ranking.generator_features import GeneratorNight, generator_features
from transforms.ranking.ranker import Ranker, load_ranker
from transforms.ranking.records import Encoded, RankingBucket, RankingInputs, encode, read_shared
from transforms.ranking.timelines import Ints
from transforms.ranking.watch_time_recall import WatchTime, seconds_found, wanted_of
from transforms.search.neighbours import LISTS

LISTS_AT_ONCE = 8_192  # with 50 candidates each some 200 MB of features
LONGEST_SECONDS = 1e6  # of an expectation: what nobody watches in one go


def candidates_of(lists: pl.DataFrame, count: int, at: dt.datetime) -> pl.DataFrame:
    """The first `count` of each of some `LISTS` as impressions at a moment: list (row), user_id, video_id, time, score,
    rank from 1."""
    heads = lists.with_row_index("list").select(
        pl.col("list").cast(pl.Int64),
        "user_id",
        pl.col("video_ids").list.head(count),
        pl.col("scores").list.head(count),
        rank=pl.int_ranges(1, pl.col("video_ids").list.len().clip(upper_bound=count) + 1, dtype=pl.Int64),
    )
    rows = heads.explode("video_ids", "scores", "rank", empty_as_null=False, keep_nulls=False)
    return rows.rename({"video_ids": "video_id", "scores": "score"}).with_columns(
        pl.lit(at).cast(TIME).alias("time"), pl.col("rank").cast(pl.Float32)
    )


def ranked(lists: pl.DataFrame, candidates: pl.DataFrame, seconds: NDArray[np.float32], count: int) -> pl.DataFrame:
    """`LISTS` with their first `count` by expected seconds, ties by rank; those behind them in their order.

    candidates: list, video_id, rank of each, in any order; seconds: what each is expected to be watched.
    """
    of, rank = candidates["list"].to_numpy(), candidates["rank"].to_numpy()
    order = np.lexsort((rank, -seconds, of))
    offsets = np.searchsorted(of[order], np.arange(lists.height + 1))
    heads = _lists(offsets, candidates["video_id"][order], seconds[order])
    place = pl.int_ranges(1, pl.col("video_ids").list.len() + 1, dtype=pl.Int64)
    behind = lists.select(
        pl.col("video_ids").list.slice(count),
        scores=place.list.slice(count).list.eval(-pl.element().cast(pl.Float32)),
    )
    return lists.select(
        "user_id",
        video_ids=pl.concat_list(heads["video_ids"], behind["video_ids"]),
        scores=pl.concat_list(heads["scores"], behind["scores"]),
    ).match_to_schema(LISTS)


def _lists(offsets: Ints, video_ids: pl.Series, seconds: NDArray[np.float32]) -> pl.DataFrame:
    starts = pa.array(offsets.astype(np.int64))
    values = {
        "video_ids": video_ids.cast(pl.String).to_arrow().cast(pa.large_string()),
        "scores": pa.array(seconds.astype(np.float32)),
    }
    return pl.DataFrame({name: pa.LargeListArray.from_arrays(starts, column) for name, column in values.items()})


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Candidates, encoded, with what the ranker expects of each."""

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
    at: dt.datetime,
) -> Iterator[tuple[pl.DataFrame, Scored]]:
    """Some lists at a time, with the first `count` videos of each and the seconds each is expected to be watched if
    shown at a moment.

    events: of the bucket, those before that moment are looked at. The generator's figures are those of the bucket's one
    night: score and rank as the lists have them.
    """
    heads = candidates_of(lists, count, at).select("user_id", "video_id")
    past = ImpressionContext.of(events, read_users(bucket.files), read_shared(inputs).catalogue, [heads])
    for part in lists.iter_slices(LISTS_AT_ONCE):
        yield part, _score(candidates_of(part, count, at), past, bucket, ranker, inputs)


def _score(
    candidates: pl.DataFrame, past: ImpressionContext, bucket: RankingBucket, ranker: Ranker, inputs: RankingInputs
) -> Scored:
    features, shared, spec = past.features(candidates, zone=inputs.zone), read_shared(inputs), ranker.spec
    said = generator_features(features, past, bucket.nights, listed=True)
    encoded = encode(past, features, {name: said[name] for name in said if name in spec.numbers}, shared, spec)
    odds = ranker.score(encoded.request, encoded.query_arrays(spec), encoded.impressions)
    return Scored(encoded=encoded, seconds=to_seconds(odds))


def to_seconds(log_odds: NDArray[np.float32]) -> NDArray[np.float32]:
    """e^(Wx + b), the expected seconds (paper, 4.2), above 0."""
    return np.exp(np.clip(log_odds, -np.log(LONGEST_SECONDS), np.log(LONGEST_SECONDS))).astype(np.float32)


@dataclass
class RankCandidates(beam.PTransform):
    """`RankingBucket`s -> one Parquet file of ranked lists each; gives its `FileEntry`, and `Counts` of candidates."""

    inputs: RankingInputs
    ranker: str  # folder
    count: int  # of each list that are ranked
    folder: str
    name: str  # pattern of a bucket's file
    threads: int = 1  # buckets at a time

    def expand(self, buckets: beam.PCollection[RankingBucket]) -> beam.PCollection[FileEntry | Counts]:
        return (buckets | beam.Reshuffle() | ThreadedMap(self._rank, self.threads, (), "records")).records

    def _rank(self, bucket: RankingBucket) -> Iterator[FileEntry | Counts]:
        lists = pl.concat([files.read_parquet(path, LISTS.names()) for path in bucket.lists]).match_to_schema(
            LISTS, integer_cast="forbid"
        )
        events, end = self.inputs.window.events_with_impressions(bucket.files), self.inputs.window.end
        ranker = load_ranker(self.ranker)
        parts, candidates = [lists.clear()], 0
        for part, scored in score_lists(lists, bucket, events, ranker, self.inputs, count=self.count, at=end):
            parts.append(ranked(part, scored.encoded.shown, scored.seconds, self.count))
            candidates += len(scored.seconds)
        rows = concat(parts)
        yield files.write_parquet(rows, self.folder, self.name.format(bucket=bucket.files.bucket))
        yield Counts({"users": rows.height, "candidates": candidates})
        progress.advance()


@dataclass(frozen=True, kw_only=True)
class HeldOutRanking:
    """What lists of held-out users are ranked with."""

    inputs: RankingInputs  # whose window ends where the held-out days begin
    ranker: str  # folder
    videos: str  # path of the model's video vectors
    count: int
    cut: int

    def measure(self, lists: pl.DataFrame, bucket: BucketFiles, then: pl.DataFrame) -> WatchTime:
        """`LISTS` of some users, as of that moment, against what they watched `then` (user_id, video_id, completed,
        watch_seconds)."""
        end = self.inputs.window.end
        given = RankingBucket(files=bucket, nights=(generator_night(self.inputs.window.start, (), self.videos),))
        events = self.inputs.window.events_with_impressions(bucket)
        ranker = load_ranker(self.ranker)
        scored = score_lists(lists, given, events, ranker, self.inputs, count=self.count, at=end)
        parts = [ranked(part, found.encoded.shown, found.seconds, self.count) for part, found in scored]
        orders = {"neighbours": lists, "ranking": concat([lists.clear(), *parts])}
        wanted = wanted_of(then.join(lists.select("user_id"), on="user_id", how="semi"))
        of_user = lists.select("user_id").join(
            wanted.group_by("user_id").agg(pl.col("seconds").sum()), on="user_id", how="left", maintain_order="left"
        )
        columns = {"wanted": of_user["seconds"].fill_null(0).to_numpy()}
        columns |= {order: seconds_found(of, wanted, self.cut) for order, of in orders.items()}
        return WatchTime.of(columns, weights(id_digests(lists["user_id"]).to_numpy()))


def generator_night(start: dt.datetime, vectors: tuple[str, ...], videos: str) -> GeneratorNight:
    """A night as the generator of candidates of its own lists: score and rank come with them."""
    return GeneratorNight(start=start, lists=(), vectors=vectors, videos=videos)


def moves_of(scored: Scored, ranker: Ranker) -> NDArray[Any]:
    """By how much each of the spec's features moved each candidate's log-odds: [candidates, features]."""
    encoded = scored.encoded
    return ranker.explain(encoded.request, encoded.query_arrays(ranker.spec), encoded.impressions)
