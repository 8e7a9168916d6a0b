"""Validate raw frames: convert columns to the table's schema, and reject rows, each with one reason.

Each `parse_*` function takes a raw frame of `readers` (columns as text or in Parquet's types, and `row`) and returns
`Parsed`: the valid rows in the table's schema, and `row` and `reason` of the rejected ones. Every row is in exactly one
of the two. A row with an unreadable value is rejected; a missing value is null.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from transforms.core import files
from transforms.core.event_order import sort_events
from transforms.logs import countries, plausible
from transforms.logs.columns import RawColumns, Reason
from transforms.logs.schemas import (
    HIDDEN_SCHEMA,
    IMPRESSION_SCHEMA,
    SEARCH_SCHEMA,
    STORED_WATCH_SCHEMA,
    USER_SCHEMA,
    VIDEO_SCHEMA,
)


@dataclass(frozen=True, kw_only=True)
class CompletionRule:
    """When a watch counts as completed."""

    fraction: float = 0.5  # of the video's length
    seconds: float = 30.0  # if the length is unknown

    def is_met(self, length: pl.Expr) -> pl.Expr:
        """Return whether `watch_seconds` are enough for a video of a length in seconds; a length of 0 is unknown."""
        return pl.col("watch_seconds") >= pl.coalesce(length.replace(0.0, None) * self.fraction, self.seconds)


@dataclass(frozen=True, kw_only=True)
class ParseRules:
    """The settings that determine whether rows are valid and watches completed."""

    before: dt.datetime  # events at or after this time are in the future
    time_zone: str = "UTC"  # of times without an offset
    completed_fraction: float = 0.5
    completed_seconds: float = 30.0
    catalogue: str | None = None  # path of the catalogue's file, for the lengths of videos


@dataclass(frozen=True)
class Parsed:
    """Valid rows, `row` and `reason` of rejected rows, and the numbers of rows that were dropped."""

    valid: pl.DataFrame
    rejected: pl.DataFrame
    forgotten: int = 0  # dropped rows of users to forget
    other_days: int = 0  # dropped rows of days that are not ingested
    forgotten_ids: tuple[int, ...] = ()  # positions in the forget list of users with dropped rows, if tracked


def parse_watches(raw: pl.DataFrame, rules: ParseRules) -> Parsed:
    """Parse watches to `STORED_WATCH_SCHEMA`, with `completed` decided (never null) and `completed_given` as logged.

    A watch is completed according to the first of these rules that applies: `completed` of the log;
    `watch_seconds` >= `completed_fraction` x the video's length in the log, or else in the catalogue;
    `watch_seconds` >= `completed_seconds`; else it is not.
    """
    columns = RawColumns(raw)
    events = ("user_id", "time", "video_id", "completed", "watch_seconds", "video_seconds")
    read = raw.select("row", *columns.convert(*events, "country", "device", "signed_in", zone=rules.time_zone))
    read = read.join(_catalogue_seconds(rules.catalogue), on="video_id", how="left", maintain_order="left")
    reasons: list[Reason] = [
        *columns.reasons(read),
        *_out_of_time(rules),
        *plausible.seconds_reasons(read, "watch_seconds", "video_seconds"),
    ]
    decided = read.with_columns(completed_given="completed", completed=_completed(pl.col("completed"), rules))
    return _split(decided, reasons, STORED_WATCH_SCHEMA)


def recompute_completed(watches: pl.DataFrame, *, rules: ParseRules) -> pl.DataFrame:
    """Return stored watches (`STORED_WATCH_SCHEMA`) with `completed` recomputed by these rules, sorted."""
    read = watches.join(_catalogue_seconds(rules.catalogue), on="video_id", how="left", maintain_order="left")
    decided = read.with_columns(completed=_completed(pl.col("completed_given"), rules))
    return sort_events(decided.select(watches.columns))


def _completed(logged: pl.Expr, rules: ParseRules) -> pl.Expr:
    """Return whether watches are completed, never null. logged: `completed` of the log.

    The expression uses the columns watch_seconds, video_seconds and catalogue_seconds.
    """
    length = pl.coalesce(pl.col("video_seconds", "catalogue_seconds").replace(0.0, None))
    rule = CompletionRule(fraction=rules.completed_fraction, seconds=rules.completed_seconds)
    return pl.coalesce(logged, rule.is_met(length), False)


def _out_of_time(rules: ParseRules) -> list[Reason]:
    return [
        (pl.col("time") >= rules.before, f"time lies in the future: not before {rules.before:%Y-%m-%d %H:%M %Z}"),
        (pl.col("time") < plausible.FIRST_TIME, "time lies before 1990"),
    ]


def parse_searches(raw: pl.DataFrame, rules: ParseRules) -> Parsed:
    """Parse searches to `SEARCH_SCHEMA`."""
    columns = RawColumns(raw)
    read = raw.select("row", *columns.convert(*SEARCH_SCHEMA, zone=rules.time_zone))
    reasons: list[Reason] = [
        *columns.reasons(read),
        (pl.col("query").is_null(), "query is null"),
        *_out_of_time(rules),
    ]
    return _split(read, reasons, SEARCH_SCHEMA)


def parse_impressions(raw: pl.DataFrame, rules: ParseRules) -> Parsed:
    """Parse impressions to `IMPRESSION_SCHEMA`. `watch_seconds` is required for clicks and becomes 0 without one."""
    columns = RawColumns(raw)
    read = raw.select("row", *columns.convert(*IMPRESSION_SCHEMA, zone=rules.time_zone))
    reasons: list[Reason] = [
        *columns.reasons(read),
        *_out_of_time(rules),
        (pl.col("clicked").is_null(), "clicked is null"),
        *plausible.seconds_reasons(read, "watch_seconds"),
        (pl.col("clicked") & pl.col("watch_seconds").is_null(), "watch_seconds of a click is null"),
        (pl.col("position") < 1, "position is below 1"),
    ]
    seconds = pl.when("clicked").then("watch_seconds").otherwise(0.0).alias("watch_seconds")
    return _split(read.with_columns(seconds), reasons, IMPRESSION_SCHEMA)


def parse_videos(raw: pl.DataFrame, time_zone: str = "UTC", before: dt.datetime | None = None) -> Parsed:
    """Parse the catalogue to `VIDEO_SCHEMA`.

    A video is available unless its row says otherwise, or its `upload_time` is `before` or later (a future premiere).
    """
    columns = RawColumns(raw)
    read = raw.select("row", *columns.convert(*VIDEO_SCHEMA, zone=time_zone)).with_columns(_available(before))
    reasons: list[Reason] = [
        *columns.reasons(read),
        *plausible.seconds_reasons(read, "video_seconds"),
        *plausible.upload_reasons(time_zone, before),
        (pl.col("countries").str.contains(r"[;|/]"), "countries must be separated by commas"),
    ]
    return _split(read.with_columns(countries.normalise_codes(pl.col("countries"))), reasons, VIDEO_SCHEMA)


def _available(before: dt.datetime | None) -> pl.Expr:
    available = pl.col("available").fill_null(True)
    return available if before is None else available & (pl.col("upload_time") < before).fill_null(True)


def parse_users(raw: pl.DataFrame, categories: tuple[str, ...] = (), before: dt.datetime | None = None) -> Parsed:
    """Parse the users table to `USER_SCHEMA` and a text column for each further name in `categories`.

    A `birth_year` that is not between 1900 and the year of `before` becomes null.
    """
    columns = RawColumns(raw)
    extra = [name for name in categories if name not in USER_SCHEMA]
    read = raw.select("row", *columns.convert(*USER_SCHEMA), *(columns.text(name) for name in extra))
    years, reasons = plausible.birth_years(read, before)
    reasons = [*columns.reasons(read), *reasons]
    return _split(read.with_columns(years), reasons, pl.Schema({**USER_SCHEMA, **dict.fromkeys(extra, pl.String())}))


def parse_hidden(raw: pl.DataFrame) -> Parsed:
    """Parse pairs of users and videos that must never be shown to them, to `HIDDEN_SCHEMA`."""
    columns = RawColumns(raw)
    read = raw.select("row", *columns.convert(*HIDDEN_SCHEMA))
    return _split(read, columns.reasons(read), HIDDEN_SCHEMA)


@lru_cache(maxsize=2)
def _catalogue_seconds(path: str | None) -> pl.DataFrame:
    """Return `video_id` and `catalogue_seconds` of the videos with a known length. Each process reads them once."""
    if path is None:
        return pl.DataFrame(schema={"video_id": pl.String, "catalogue_seconds": pl.Float32})
    lengths = files.read_parquet(path, ["video_id", "video_seconds"]).drop_nulls()
    return lengths.rename({"video_seconds": "catalogue_seconds"})


def _split(read: pl.DataFrame, reasons: list[Reason], schema: pl.Schema) -> Parsed:
    """Reject each row to which a reason applies, with the first such reason."""
    first_reason = pl.lit(None, pl.String)
    for mask, reason in reversed(reasons):
        first_reason = pl.when(mask).then(pl.lit(reason)).otherwise(first_reason)
    read = read.with_columns(reason=first_reason)
    rejected = read.filter(pl.col("reason").is_not_null()).select("row", "reason")
    valid = read.filter(pl.col("reason").is_null()).select(schema.names()).cast(schema)
    return Parsed(valid, rejected)
