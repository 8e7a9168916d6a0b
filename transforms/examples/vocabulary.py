"""Vocabularies: the videos most often completed and the search tokens most often searched (paper, 3.5; long tail).

bucket files -> count_tokens -> partial counts, by digest of the token -> sums -> top_n -> one frame, the vocabulary
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.core import files, progress
from transforms.core.files import FileEntry
from transforms.core.frames import GatherFrames, GroupFrames, KeyedFrame, concat, id_digests
from transforms.core.threads import ThreadedMap
from transforms.examples.draw_examples import BIRTH_YEAR, active_users, category_counts
from transforms.examples.histories import WATCH_CATEGORIES
from transforms.examples.tokens import tokenize
from transforms.logs.event_window import BucketFiles, Holdout, Window, read_users

COUNTS = pl.Schema({"token": pl.String(), "count": pl.Int64()})
SHARDS = 16
_SUMMED = ("watches", "robot_watches", "held_out_watches", "completed", "searches", "users", "birth_years")
MOST_VALUES = 10_000  # of a category; the rarer ones count as unknown


def count_videos(watches: pl.DataFrame) -> pl.DataFrame:
    """Completed watches by video: `COUNTS`, in no particular order."""
    completed = watches.select("video_id", "completed").filter("completed")
    return completed.group_by(token="video_id").agg(count=pl.len().cast(pl.Int64)).match_to_schema(COUNTS)


def count_search_tokens(searches: pl.DataFrame) -> pl.DataFrame:
    """Search tokens by how often they occur: `COUNTS`, in no particular order. Each distinct query is cut once."""
    queries = searches.group_by("query").agg(times=pl.len().cast(pl.Int64)).with_row_index("at")
    found = tokenize(queries["query"]).join(queries.select("at", "times"), on="at")
    return found.group_by("token").agg(count=pl.col("times").sum()).match_to_schema(COUNTS)


def add_counts(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Partial `COUNTS` -> one row a token; sums of integers, so that the order of the parts does not matter."""
    return concat(parts).group_by("token").agg(pl.col("count").sum())


def top_n(counts: pl.DataFrame, n: int) -> pl.DataFrame:
    """The `n` largest counts, most frequent first, ties by token. A token's id is its row number, from 1."""
    return counts.sort(["count", "token"], descending=[True, False]).head(n)


@dataclass(frozen=True, kw_only=True)
class WindowCounts:
    """What the learnable window of one bucket holds, and the watches that are left out of it."""

    watches: int
    robot_watches: int  # left out
    held_out_watches: int  # left out
    completed: int
    searches: int
    users: int
    birth_years: int  # users with a birth year
    newest: str  # ISO time of the newest completed watch, empty if there is none
    categories: dict[str, dict[str, int]]  # category -> value -> how often it occurs


@dataclass(frozen=True, kw_only=True)
class WindowSummary:
    """The `WindowCounts` of all buckets, added up; the values of categories are ordered by how often they occur."""

    watches: int
    robot_watches: int
    held_out_watches: int
    completed: int
    searches: int
    users: int
    birth_years: int
    newest: str
    categories: dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class VocabularyFile:
    """The file of a vocabulary, and how much of what was counted it covers."""

    file: FileEntry
    distinct: int
    occurrences: int
    occurrences_kept: int


def describe_window(
    watches: pl.DataFrame,
    searches: pl.DataFrame,
    users: pl.DataFrame,
    user_categories: tuple[str, ...],
    *,
    robot_watches: int = 0,
    held_out_watches: int = 0,
) -> WindowCounts:
    """What a bucket's learnable window holds; those of several buckets are added up by `add_descriptions`.

    robot_watches, held_out_watches: watches of the window that are not among `watches`, by the reason.
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


def add_descriptions(parts: Sequence[WindowCounts]) -> WindowSummary:
    """Counts summed, the newest time, and each category's values; from `describe_window` of all buckets."""
    values: dict[str, Counter[str]] = {}
    for part in parts:
        for name, counts in part.categories.items():
            values.setdefault(name, Counter()).update(counts)
    return WindowSummary(
        **{name: sum(getattr(part, name) for part in parts) for name in _SUMMED},
        newest=max((part.newest for part in parts), default=""),
        categories={name: _most_frequent(counts) for name, counts in sorted(values.items())},
    )


def _most_frequent(counts: Counter[str]) -> list[str]:
    """A category's values, most frequent first, ties by value: a value's id is its place, from 1."""
    return sorted(counts, key=lambda value: (-counts[value], value))[:MOST_VALUES]


@dataclass
class CountTokens(beam.PTransform):
    """Bucket files -> {`videos`, `search_tokens`: frames of partial `COUNTS`, `window`: `WindowCounts`}."""

    window: Window
    holdout: Holdout
    user_categories: tuple[str, ...]
    threads: int = 1  # buckets at a time

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> dict[str, beam.PCollection]:
        count = ThreadedMap(self._count, self.threads, ("search_tokens", "window"), "videos")
        found = buckets | beam.Reshuffle() | count
        found.videos.element_type = found.search_tokens.element_type = pl.DataFrame
        return {"videos": found.videos, "search_tokens": found.search_tokens, "window": found.window}

    def _count(self, bucket: BucketFiles) -> Iterator[Any]:
        events = self.window.unordered_events(bucket, _COUNTED)
        watches, searches = (self.holdout.learnable(part) for part in (events.watches, events.searches))
        yield count_videos(watches)
        yield beam.pvalue.TaggedOutput("search_tokens", count_search_tokens(searches))
        described = describe_window(
            watches,
            searches,
            read_users(bucket),
            self.user_categories,
            robot_watches=events.robot_watches,
            held_out_watches=events.watches.height - watches.height,
        )
        yield beam.pvalue.TaggedOutput("window", described)
        progress.advance()


@dataclass
class WriteVocabulary(beam.PTransform):
    """Frames of partial `COUNTS` -> the Parquet file of the `n` largest; gives one `VocabularyFile`.

    Counts are added up by digest of the token first, so that no worker ever holds all of them.
    """

    n: int
    folder: str
    name: str

    def expand(self, counts: beam.PCollection[pl.DataFrame]) -> beam.PCollection[VocabularyFile]:
        return (
            counts
            | beam.FlatMap(_by_token).with_output_types(KeyedFrame)
            | GroupFrames()
            | beam.MapTuple(lambda _, shard: largest(shard, self.n)).with_output_types(pl.DataFrame)
            | GatherFrames()
            | beam.Map(write_vocabulary, self.n, self.folder, self.name)
        )


def largest(counts: pl.DataFrame, n: int) -> pl.DataFrame:
    """One shard's partial counts -> its `n` largest sums; a first row without token says how many and how much in
    all."""
    total = add_counts([counts])
    everything = pl.DataFrame({"token": None, "count": total["count"].sum(), "distinct": total.height}, _SHARD)
    return pl.concat([everything, top_n(total, n).with_columns(distinct=pl.lit(None, pl.Int64))])


def write_vocabulary(shards: pl.DataFrame, n: int, folder: str, name: str) -> VocabularyFile:
    """The overall top `n` of all shards -> a Parquet file (`COUNTS`), and how much it covers."""
    everything = shards.filter(pl.col("token").is_null())
    top = top_n(shards.filter(pl.col("token").is_not_null()).select(COUNTS.names()), n)
    return VocabularyFile(
        file=files.replace_parquet(top, folder, name),
        distinct=int(everything["distinct"].sum()),
        occurrences=int(everything["count"].sum()),
        occurrences_kept=int(top["count"].sum()),
    )


_COUNTED = ("user_id", "time", "video_id", "completed", *WATCH_CATEGORIES)  # columns of the watches
_SHARD = pl.Schema({**COUNTS, "distinct": pl.Int64()})


def _by_token(counts: pl.DataFrame) -> Iterator[KeyedFrame]:
    if counts.height:
        shard = (id_digests(counts["token"]) % SHARDS).cast(pl.Int32)
        parts = counts.with_columns(shard.alias("shard")).partition_by("shard", as_dict=True, include_key=False)
        yield from ((int(key), part) for (key,), part in parts.items())
