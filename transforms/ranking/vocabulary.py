"""What the ranker has embeddings and numbers for: the videos and channels most often clicked, what the logs know.

store, catalogue -> CountShown -> WriteVocabulary -> ranked/{videos,channels}.parquet
                               -> ImpressionCounts -> spec_of -> RankingSpec
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.contracts.ranking_spec import RankingSpec
from transforms.core import progress
from transforms.core.threads import ThreadedMap
from transforms.examples.draw_examples import BIRTH_YEAR
from transforms.examples.vocabulary import COUNTS, MOST_VALUES
from transforms.logs.event_window import BucketFiles, Holdout, Window, read_users
from transforms.ranking.features import HOUR, NUMBERS, QUERY_NUMBERS, USER_LANGUAGE, VIDEO_LANGUAGE, page_starts
from transforms.ranking.generator_features import GENERATOR_NUMBERS
from transforms.ranking.records import read_catalogue

_OF_CHANNELS = ("channel_watches", "seconds_since_channel", "channel_unclicked")


@dataclass(frozen=True, kw_only=True)
class ImpressionCounts:
    """How much there is to learn from in some buckets, and how many rows have the columns that features are made of."""

    birth_year: int  # users
    clicked: int  # impressions
    covered: int  # impressions for which there is a generator to ask
    impressions: int
    upload_time: int  # clicked impressions
    video_seconds: int  # clicked impressions
    watch_seconds: float  # sum over the impressions
    watches_with_seconds: int
    values: dict[str, dict[str, int]]  # category -> value -> how often it occurs


@dataclass
class CountShown(beam.PTransform):
    """Bucket files -> {`videos`, `channels`: frames of partial `COUNTS` of clicked impressions, `shown`:
    `ImpressionCounts`}. Impressions of held-out users on held-out days count for nothing.

    starts: of the nights whose generator may be asked, in order.
    """

    window: Window
    holdout: Holdout
    catalogue: str  # path, "" for none
    first_night: dt.datetime | None  # from here on there is a generator to ask
    threads: int = 1  # buckets at a time

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> dict[str, beam.PCollection]:
        count = ThreadedMap(self._count, self.threads, ("channels", "shown"), "videos")
        found = buckets | beam.Reshuffle() | count
        found.videos.element_type = found.channels.element_type = pl.DataFrame
        return {"videos": found.videos, "channels": found.channels, "shown": found.shown}

    def _count(self, bucket: BucketFiles) -> Iterator[Any]:
        events = self.window.events_with_impressions(bucket)
        shown = self.holdout.learnable(events.impressions)
        clicked = shown.filter("clicked").select("video_id")
        known = clicked.join(read_catalogue(self.catalogue), on="video_id")
        yield _counts(clicked["video_id"])
        yield beam.pvalue.TaggedOutput("channels", _counts(known["channel"].drop_nulls()))
        users = read_users(bucket).join(shown.select("user_id").unique(), on="user_id", how="semi")
        covered = int((page_starts(shown, events.impressions) >= self.first_night).sum()) if self.first_night else 0
        counts = ImpressionCounts(
            impressions=shown.height,
            clicked=clicked.height,
            watch_seconds=float(shown["watch_seconds"].cast(pl.Float64).sum()),
            covered=covered,
            watches_with_seconds=events.watches["watch_seconds"].count(),
            birth_year=users[BIRTH_YEAR].count() if BIRTH_YEAR in users.columns else 0,
            upload_time=known["upload_time"].count(),
            video_seconds=known["video_seconds"].count(),
            values={VIDEO_LANGUAGE: _values(known, "language"), USER_LANGUAGE: _values(users, USER_LANGUAGE)},
        )
        yield beam.pvalue.TaggedOutput("shown", counts)
        progress.advance()


def _counts(tokens: pl.Series) -> pl.DataFrame:
    counts = tokens.to_frame("token").group_by("token").agg(count=pl.len().cast(pl.Int64))
    return counts.match_to_schema(COUNTS)


def _values(rows: pl.DataFrame, column: str) -> dict[str, int]:
    return dict(rows[column].drop_nulls().value_counts().iter_rows()) if column in rows.columns else {}


def add_shown(parts: Sequence[ImpressionCounts]) -> ImpressionCounts:
    """Return the counts of all buckets as one."""
    values: dict[str, Counter[str]] = {VIDEO_LANGUAGE: Counter(), USER_LANGUAGE: Counter()}
    for part in parts:
        for name, counts in part.values.items():
            values[name].update(counts)
    numbers = [field.name for field in fields(ImpressionCounts) if field.name != "values"]
    return ImpressionCounts(
        **{name: sum(getattr(part, name) for part in parts) for name in numbers},
        values={name: dict(counts) for name, counts in values.items()},
    )


def spec_of(
    found: ImpressionCounts,
    *,
    videos: int,
    channels: int,
    tokens: int,
    watch_history: int,
    search_history: int,
    categories: Mapping[str, Sequence[str]],
) -> RankingSpec:
    """The features there is something to say of. found: of all buckets; videos, channels, tokens: rows of
    the vocabularies; categories: of the generator, name -> values, most frequent first."""
    of_request: dict[str, list[str]] = {name: list(values) for name, values in categories.items()}
    of_request[HOUR] = [str(hour) for hour in range(24)]
    of_request |= (
        _most_frequent({USER_LANGUAGE: found.values[USER_LANGUAGE]}) if USER_LANGUAGE not in categories else {}
    )
    of_video = _most_frequent({VIDEO_LANGUAGE: found.values[VIDEO_LANGUAGE]})
    rows_of = {
        "video_age_seconds": found.upload_time,
        "video_seconds": found.video_seconds,
        "age": found.birth_year,
        "user_mean_watch_seconds": found.watches_with_seconds,
        **dict.fromkeys(_OF_CHANNELS, channels),
    }
    numbers = (*(GENERATOR_NUMBERS if found.covered else ()), *NUMBERS, *QUERY_NUMBERS)
    return RankingSpec(
        videos=videos,
        channels=channels,
        tokens=tokens,
        watch_history=watch_history,
        search_history=search_history,
        categories=of_request | of_video,
        numbers=[name for name in numbers if rows_of.get(name, 1)],
        query=[*of_request, *QUERY_NUMBERS],
    )


def _most_frequent(values: Mapping[str, Mapping[str, int]]) -> dict[str, list[str]]:
    """Of each category that has values, the most frequent first, ties by value."""
    return {
        name: sorted(counts, key=lambda value: (-counts[value], value))[:MOST_VALUES]
        for name, counts in values.items()
        if counts
    }
