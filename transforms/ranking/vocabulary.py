"""The ranker's vocabularies and features: the most clicked videos and channels, and the features that the logs have.

store, catalogue -> CountImpressions -> WriteVocabulary -> ranked/{videos,channels}.parquet
                                     -> ImpressionCounts -> build_spec -> RankingSpec
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.contracts.ranking_spec import RankingSpec
from transforms.core import progress
from transforms.core.threads import ThreadedMap
from transforms.examples.draw_examples import BIRTH_YEAR
from transforms.examples.vocabulary import MAX_VALUES, count_tokens, most_frequent, top_n
from transforms.logs.event_window import BucketFiles, Holdout, Window, read_users
from transforms.logs.parsing import CompletionRule
from transforms.ranking.features import (
    HOUR,
    NUMBERS,
    POSITION,
    QUERY_NUMBERS,
    USER_LANGUAGE,
    VIDEO_LANGUAGE,
    page_starts,
)
from transforms.ranking.generator_features import GENERATOR_NUMBERS
from transforms.ranking.outcome_features import OUTCOME_NUMBERS
from transforms.ranking.outcomes import count_outcomes
from transforms.ranking.records import read_catalogue
from transforms.ranking.written import NOTHING, WrittenImpressions

_CHANNEL_NUMBERS = ("channel_watches", "seconds_since_channel", "channel_unclicked")


@dataclass(frozen=True, kw_only=True)
class ImpressionCounts:
    """Training impressions in some buckets, and rows with a value in the columns that features are computed from."""

    birth_year: int  # users
    clicked: int  # impressions
    covered: int  # impressions that a night's generator precedes
    impressions: int
    longest_seconds: float  # watch seconds of one impression
    positions: int  # impressions with a position
    upload_time: int  # clicked impressions
    video_seconds: int  # clicked impressions
    watch_seconds: float  # sum over impressions
    watches_with_seconds: int
    values: dict[str, dict[str, int]]  # category -> value -> number of rows

    @property
    def can_be_learned(self) -> bool:
        """Whether some impressions were clicked and others not."""
        return 0 < self.clicked < self.impressions


@dataclass(frozen=True, kw_only=True)
class CountedDays:
    """The days whose outcomes are counted, and the rule for completed clicks."""

    days: tuple[dt.date, ...]
    rule: CompletionRule


@dataclass
class CountImpressions(beam.PTransform):
    """Count the impressions of each of `BucketFiles` except those of held-out users on held-out days.

    Return {`videos`, `channels`: frames of partial `COUNTS` of clicked impressions, `shown`: `ImpressionCounts`,
    `outcomes`: frames of `count_outcomes`, which count held-out impressions too}.
    """

    window: Window
    holdout: Holdout
    catalogue: str  # path, "" for none
    first_night: dt.datetime | None  # 00:00 of the first night with a generator, None: there is none
    outcomes: CountedDays
    threads: int = 1  # buckets processed at the same time
    written: WrittenImpressions = NOTHING  # by earlier nights: not counted

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> dict[str, beam.PCollection]:
        count = ThreadedMap(self._count, self.threads, ("channels", "shown", "outcomes"), "videos")
        found = buckets | beam.Reshuffle() | count
        found.videos.element_type = found.channels.element_type = found.outcomes.element_type = pl.DataFrame
        return {name: found[name] for name in ("videos", "channels", "shown", "outcomes")}

    def _count(self, bucket: BucketFiles) -> Iterator[Any]:
        events = self.window.events_with_impressions(bucket)
        shown = self.written.drop(self.holdout.learnable(events.impressions))
        catalogue = read_catalogue(self.catalogue)
        clicked = shown.filter("clicked").select("video_id")
        known = clicked.join(catalogue, on="video_id")
        yield count_tokens(clicked["video_id"])
        yield beam.pvalue.TaggedOutput("channels", count_tokens(known["channel"].drop_nulls()))
        every_user, counted = read_users(bucket), self.outcomes
        outcomes = count_outcomes(
            events, every_user, catalogue, days_counted=counted.days, zone=self.window.time_zone, rule=counted.rule
        )
        if outcomes.height:
            yield beam.pvalue.TaggedOutput("outcomes", outcomes)
        users = every_user.join(shown.select("user_id").unique(), on="user_id", how="semi")
        covered = int((page_starts(shown, events.impressions) >= self.first_night).sum()) if self.first_night else 0
        counts = ImpressionCounts(
            impressions=shown.height,
            clicked=clicked.height,
            watch_seconds=float(shown["watch_seconds"].cast(pl.Float64).sum()),
            longest_seconds=float(shown["watch_seconds"].cast(pl.Float64).to_numpy().max(initial=0.0)),
            covered=covered,
            positions=shown[POSITION].count(),
            watches_with_seconds=events.watches["watch_seconds"].count(),
            birth_year=users[BIRTH_YEAR].count() if BIRTH_YEAR in users.columns else 0,
            upload_time=known["upload_time"].count(),
            video_seconds=known["video_seconds"].count(),
            values={VIDEO_LANGUAGE: _values(known, "language"), USER_LANGUAGE: _values(users, USER_LANGUAGE)},
        )
        yield beam.pvalue.TaggedOutput("shown", counts)
        progress.advance()


def _values(rows: pl.DataFrame, column: str) -> dict[str, int]:
    return dict(rows[column].drop_nulls().value_counts().iter_rows()) if column in rows.columns else {}


def merge_counts(parts: Sequence[ImpressionCounts]) -> ImpressionCounts:
    """Return the counts of all buckets as one."""
    values: dict[str, Counter[str]] = {VIDEO_LANGUAGE: Counter(), USER_LANGUAGE: Counter()}
    for part in parts:
        for name, counts in part.values.items():
            values[name].update(counts)
    numbers = [field.name for field in fields(ImpressionCounts) if field.name not in ("values", "longest_seconds")]
    return ImpressionCounts(
        **{name: sum(getattr(part, name) for part in parts) for name in numbers},
        longest_seconds=max((part.longest_seconds for part in parts), default=0.0),
        values={name: dict(counts) for name, counts in values.items()},
    )


def extend_vocabulary(earlier: pl.DataFrame, counts: pl.DataFrame, n: int) -> pl.DataFrame:
    """Return the earlier vocabulary with the new tokens behind it, the most frequent first, up to `n` in all.

    earlier, counts: `COUNTS`, in the order of their ids. The ids of the earlier tokens stay; counts are added.
    """
    known = earlier.join(counts, on="token", how="left", maintain_order="left", suffix="_new")
    known = known.select("token", pl.col("count") + pl.col("count_new").fill_null(0))
    new = top_n(counts.join(earlier, on="token", how="anti"), max(0, n - earlier.height))
    return pl.concat([known, new])


def covered_share(vocabulary: pl.DataFrame, counts: pl.DataFrame, total: int) -> float:
    """Return the share of `total` occurrences that are of tokens in vocabulary; 1 if there are none.

    counts: `COUNTS` of the occurrences, or of the most frequent tokens.
    """
    covered = int(counts.join(vocabulary, on="token", how="semi")["count"].sum())
    return covered / total if total else 1.0


def extend_spec(spec: RankingSpec, earlier: RankingSpec) -> RankingSpec:
    """Return the spec with all features of an earlier one: new values of a category come after the earlier ones.

    A feature that has no values any more stays, so that the earlier ranker can be continued; it is unknown.
    """
    categories = {name: list(values) for name, values in earlier.categories.items()}
    for name, values in spec.categories.items():
        known = categories.setdefault(name, [])
        new = [value for value in values if value not in set(known)]
        known += new[: max(0, MAX_VALUES - len(known))]
    return replace(
        spec,
        categories=categories,
        numbers=list(dict.fromkeys([*earlier.numbers, *spec.numbers])),
        query=list(dict.fromkeys([*earlier.query, *spec.query])),
    )


def build_spec(
    found: ImpressionCounts,
    *,
    videos: int,
    channels: int,
    tokens: int,
    outcomes: Collection[str],
    watch_history: int,
    search_history: int,
    categories: Mapping[str, Sequence[str]],
) -> RankingSpec:
    """Return the spec of the features that have values in the logs.

    found: counts of all buckets. videos, channels, tokens: rows of the vocabularies. outcomes: those `OUTCOME_NUMBERS`
    that impressions can have. categories: those of the generator, name -> values, most frequent first.
    """
    query_categories: dict[str, list[str]] = {name: list(values) for name, values in categories.items()}
    query_categories[HOUR] = [str(hour) for hour in range(24)]
    languages = {name: most_frequent(counts) for name, counts in found.values.items() if counts}
    if USER_LANGUAGE in languages:
        query_categories.setdefault(USER_LANGUAGE, languages[USER_LANGUAGE])
    video_categories = {name: values for name, values in languages.items() if name == VIDEO_LANGUAGE}
    known_rows = {
        "video_age_seconds": found.upload_time,
        "video_seconds": found.video_seconds,
        "age": found.birth_year,
        POSITION: found.positions,
        "user_mean_watch_seconds": found.watches_with_seconds,
        **dict.fromkeys(_CHANNEL_NUMBERS, channels),
        **{name: int(name in outcomes) for name in OUTCOME_NUMBERS},
    }
    numbers = (*(GENERATOR_NUMBERS if found.covered else ()), *NUMBERS, POSITION, *OUTCOME_NUMBERS, *QUERY_NUMBERS)
    return RankingSpec(
        videos=videos,
        channels=channels,
        tokens=tokens,
        watch_history=watch_history,
        search_history=search_history,
        categories=query_categories | video_categories,
        numbers=[name for name in numbers if known_rows.get(name, 1)],
        query=[*query_categories, *QUERY_NUMBERS],
    )
