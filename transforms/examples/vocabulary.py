"""Count and write the vocabularies: the most often completed videos and the most frequent search tokens (paper, 3.5).

bucket files -> CountTokens -> partial counts -> WriteVocabulary -> a file with the most frequent tokens
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.core import files, progress
from transforms.core.digests import concat, id_digests
from transforms.core.files import FileEntry
from transforms.core.frames import GatherFrames, GroupFrames, KeyedFrame
from transforms.core.threads import ThreadedMap
from transforms.examples.draw_examples import BIRTH_YEAR, active_users, category_counts
from transforms.examples.histories import WATCH_CATEGORIES
from transforms.examples.tokens import tokenize
from transforms.logs.event_window import BucketFiles, Holdout, Window, read_users

COUNTS = pl.Schema({"token": pl.String(), "count": pl.Int64()})
SHARDS = 16
MAX_VALUES = 10_000  # of a category; rarer values count as unknown


def count_videos(watches: pl.DataFrame) -> pl.DataFrame:
    """Count completed watches by video: `COUNTS`, unsorted."""
    return count_tokens(watches.select("video_id", "completed").filter("completed")["video_id"])


def count_tokens(tokens: pl.Series) -> pl.DataFrame:
    """Count the occurrences of each token (String): `COUNTS`, unsorted."""
    counts = tokens.to_frame("token").group_by("token").agg(count=pl.len().cast(pl.Int64))
    return counts.match_to_schema(COUNTS)


def count_search_tokens(searches: pl.DataFrame) -> pl.DataFrame:
    """Count search tokens: `COUNTS`, unsorted. Each distinct query is tokenized once."""
    queries = searches.group_by("query").agg(times=pl.len().cast(pl.Int64)).with_row_index("at")
    tokens = tokenize(queries["query"]).join(queries.select("at", "times"), on="at")
    return tokens.group_by("token").agg(count=pl.col("times").sum()).match_to_schema(COUNTS)


def add_counts(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Sum partial `COUNTS` to one row per token. Sums of integers do not depend on the order of parts."""
    return concat(parts).group_by("token").agg(pl.col("count").sum())


def top_n(counts: pl.DataFrame, n: int) -> pl.DataFrame:
    """Return the `n` most frequent tokens, sorted, ties by token. A token's id is its row number from 1."""
    return counts.sort(["count", "token"], descending=[True, False]).head(n)


@dataclass(frozen=True, kw_only=True)
class WindowSums:
    """Numbers of learnable events in the window and of their users, and of excluded watches."""

    watches: int
    robot_watches: int  # excluded
    held_out_watches: int  # excluded
    completed: int
    searches: int
    users: int
    birth_years: int  # users with a birth year


@dataclass(frozen=True, kw_only=True)
class WindowCounts(WindowSums):
    """The counts of one bucket."""

    newest: str  # ISO time of the newest completed watch, empty if there is none
    categories: dict[str, dict[str, int]]  # category -> value -> count


@dataclass(frozen=True, kw_only=True)
class WindowSummary(WindowSums):
    """The sum of the `WindowCounts` of all buckets; the values of each category are sorted by descending count."""

    newest: str
    categories: dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class VocabularyFile:
    """The file of a vocabulary, the number of distinct tokens counted, and the occurrences in all and in vocabulary."""

    file: FileEntry
    distinct: int
    occurrences: int
    occurrences_kept: int


def count_window(
    watches: pl.DataFrame,
    searches: pl.DataFrame,
    users: pl.DataFrame,
    user_categories: tuple[str, ...],
    *,
    robot_watches: int = 0,
    held_out_watches: int = 0,
) -> WindowCounts:
    """Count the learnable events of a bucket in the window; `merge_window_counts` adds those of several buckets.

    robot_watches, held_out_watches: the numbers of watches that were excluded from `watches`.
    """
    completed = watches.select("time", "completed").filter("completed")
    return WindowCounts(
        watches=watches.height,
        robot_watches=robot_watches,
        held_out_watches=held_out_watches,
        completed=completed.height,
        searches=searches.height,
        users=pl.concat([watches["user_id"], searches["user_id"]]).n_unique(),
        birth_years=active_users(watches, users)[BIRTH_YEAR].count() if BIRTH_YEAR in users.columns else 0,
        newest=_newest(completed),
        categories=category_counts(watches, users, user_categories),
    )


def _newest(events: pl.DataFrame) -> str:
    newest = events["time"].max()
    return newest.isoformat() if isinstance(newest, dt.datetime) else ""


def merge_window_counts(parts: Sequence[WindowCounts]) -> WindowSummary:
    """Merge the counts of all buckets: sums, the newest time, and the values of each category."""
    values: dict[str, Counter[str]] = {}
    for part in parts:
        for name, counts in part.categories.items():
            values.setdefault(name, Counter()).update(counts)
    return WindowSummary(
        **{name: sum(getattr(part, name) for part in parts) for name in _SUMS},
        newest=max((part.newest for part in parts), default=""),
        categories={name: most_frequent(counts) for name, counts in sorted(values.items())},
    )


def most_frequent(counts: Mapping[str, int]) -> list[str]:
    """Return the `MAX_VALUES` most frequent values of a category, ties by value. A value's id is its row from 1."""
    return sorted(counts, key=lambda value: (-counts[value], value))[:MAX_VALUES]


@dataclass
class CountTokens(beam.PTransform):
    """Count tokens of bucket files -> {`videos`, `search_tokens`: frames of `COUNTS`, `window`: `WindowCounts`}."""

    window: Window
    holdout: Holdout
    user_categories: tuple[str, ...]
    threads: int = 1  # buckets processed concurrently

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> dict[str, beam.PCollection]:
        count = ThreadedMap(self._count, self.threads, ("search_tokens", "window"), "videos")
        counted = buckets | beam.Reshuffle() | count
        counted.videos.element_type = counted.search_tokens.element_type = pl.DataFrame
        return {"videos": counted.videos, "search_tokens": counted.search_tokens, "window": counted.window}

    def _count(self, bucket: BucketFiles) -> Iterator[Any]:
        events = self.window.unordered_events(bucket, _COUNTED)
        watches, searches = (self.holdout.learnable(part) for part in (events.watches, events.searches))
        yield count_videos(watches)
        yield beam.pvalue.TaggedOutput("search_tokens", count_search_tokens(searches))
        window_counts = count_window(
            watches,
            searches,
            read_users(bucket),
            self.user_categories,
            robot_watches=events.robot_watches,
            held_out_watches=events.watches.height - watches.height,
        )
        yield beam.pvalue.TaggedOutput("window", window_counts)
        progress.advance()


@dataclass
class WriteVocabulary(beam.PTransform):
    """Write the `n` most frequent tokens of partial `COUNTS` to a Parquet file, and return one `VocabularyFile`.

    Counts are summed in shards by digest of the token, so that no worker holds all of them in memory.
    """

    n: int
    folder: str
    name: str

    def expand(self, counts: beam.PCollection[pl.DataFrame]) -> beam.PCollection[VocabularyFile]:
        return (
            counts
            | beam.FlatMap(_by_token).with_output_types(KeyedFrame)
            | GroupFrames()
            | beam.MapTuple(lambda _, shard: shard_top_n(shard, self.n)).with_output_types(pl.DataFrame)
            | GatherFrames()
            | beam.Map(write_vocabulary, self.n, self.folder, self.name)
        )


def shard_top_n(counts: pl.DataFrame, n: int) -> pl.DataFrame:
    """Return the `n` most frequent tokens of a shard, after a row without token: the sum and number of all tokens."""
    sums = add_counts([counts])
    total = pl.DataFrame({"token": None, "count": sums["count"].sum(), "distinct": sums.height}, _SHARD)
    return pl.concat([total, top_n(sums, n).with_columns(distinct=pl.lit(None, pl.Int64))])


def write_vocabulary(shards: pl.DataFrame, n: int, folder: str, name: str) -> VocabularyFile:
    """Write the `n` most frequent tokens of all shards (`shard_top_n`) to a Parquet file (`COUNTS`)."""
    totals = shards.filter(pl.col("token").is_null())
    top = top_n(shards.filter(pl.col("token").is_not_null()).select(COUNTS.names()), n)
    return VocabularyFile(
        file=files.replace_parquet(top, folder, name),
        distinct=int(totals["distinct"].sum()),
        occurrences=int(totals["count"].sum()),
        occurrences_kept=int(top["count"].sum()),
    )


_SUMS = [field.name for field in fields(WindowSums)]
_COUNTED = ("user_id", "time", "video_id", "completed", *WATCH_CATEGORIES)  # columns of watches to read
_SHARD = pl.Schema({**COUNTS, "distinct": pl.Int64()})


def _by_token(counts: pl.DataFrame) -> Iterator[KeyedFrame]:
    if counts.height:
        shard = (id_digests(counts["token"]) % SHARDS).cast(pl.Int32)
        parts = counts.with_columns(shard.alias("shard")).partition_by("shard", as_dict=True, include_key=False)
        yield from ((int(key), part) for (key,), part in parts.items())
