"""Raw frames to checked frames: one type a column, one reason a row that is refused.

Each `parse_*` takes a raw frame of `logs` (columns as strings or in Parquet's own types, and `row`) and gives `Parsed`:
the valid rows under the table's schema, and the refused rows as (`row`, `reason`). Every row is in exactly one of the
two. A value that is there but cannot be read refuses its row; a value that is not there is null.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from transforms.core import files
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
class ParseRules:
    """What decides whether a row is valid and a watch completed."""

    before: dt.datetime  # events at or after this time lie in the future
    time_zone: str = "UTC"  # of times without an offset
    completed_fraction: float = 0.5
    completed_seconds: float = 30.0
    catalogue: str | None = None  # path of the catalogue's file, for the lengths of videos


@dataclass(frozen=True)
class Parsed:
    """Valid rows, and for each refused one its `row` and `reason`; and how many rows are in neither, by why."""

    valid: pl.DataFrame
    refused: pl.DataFrame
    forgotten: int = 0  # of users who are to be forgotten
    other_days: int = 0  # of days that are not read again
    forgotten_ids: tuple[int, ...] = ()  # whose rows these are: places in the list of users to forget, if tracked


def parse_watches(raw: pl.DataFrame, rules: ParseRules) -> Parsed:
    """Watch events, `STORED_WATCH_SCHEMA`, with `completed` decided (never null) and `completed_given` as in the log.

    Completed: `completed` where not null; else `watch_seconds` >= `completed_fraction` x the video's seconds, the row's
    or else the catalogue's; else `watch_seconds` >= `completed_seconds`; else false.
    """
    columns = RawColumns(raw)
    read = raw.select(
        "row",
        columns.ident("user_id"),
        columns.time(rules.time_zone),
        columns.ident("video_id"),
        columns.boolean("completed"),
        columns.number("watch_seconds"),
        columns.number("video_seconds"),
        columns.text("country"),
        columns.text("device"),
        columns.boolean("signed_in"),
    ).join(_catalogue_seconds(rules.catalogue), on="video_id", how="left", maintain_order="left")
    reasons: list[Reason] = [
        *columns.reasons(read),
        *_out_of_time(rules),
        *plausible.seconds_reasons(read, "watch_seconds", "video_seconds"),
    ]
    decided = read.with_columns(completed_given="completed", completed=_completed(pl.col("completed"), rules))
    return _split(decided, reasons, STORED_WATCH_SCHEMA)


def decide_again(watches: pl.DataFrame, rules: ParseRules) -> pl.DataFrame:
    """Watches of the store, `STORED_WATCH_SCHEMA`, with `completed` as these rules have it, in the same order."""
    read = watches.join(_catalogue_seconds(rules.catalogue), on="video_id", how="left", maintain_order="left")
    decided = read.with_columns(completed=_completed(pl.col("completed_given"), rules))
    return decided.select(watches.columns)


def _completed(given: pl.Expr, rules: ParseRules) -> pl.Expr:
    """Whether watches with `watch_seconds`, `video_seconds` and `catalogue_seconds` are completed; never null. given:
    what the log says of it."""
    length = pl.coalesce(pl.col("video_seconds", "catalogue_seconds").replace(0.0, None))  # 0: not known
    long_enough = pl.col("watch_seconds") >= pl.coalesce(length * rules.completed_fraction, rules.completed_seconds)
    return pl.coalesce(given, long_enough, False)


def _out_of_time(rules: ParseRules) -> list[Reason]:
    return [
        (pl.col("time") >= rules.before, f"time lies in the future: not before {rules.before:%Y-%m-%d %H:%M %Z}"),
        (pl.col("time") < plausible.FIRST_TIME, "time lies before 1990"),
    ]


def parse_searches(raw: pl.DataFrame, rules: ParseRules) -> Parsed:
    """Search events, `SEARCH_SCHEMA`."""
    columns = RawColumns(raw)
    read = raw.select("row", columns.ident("user_id"), columns.time(rules.time_zone), columns.typed_text("query"))
    reasons: list[Reason] = [
        *columns.reasons(read),
        (pl.col("query").is_null(), "query is null"),
        *_out_of_time(rules),
    ]
    return _split(read, reasons, SEARCH_SCHEMA)


def parse_impressions(raw: pl.DataFrame, rules: ParseRules) -> Parsed:
    """Videos shown, `IMPRESSION_SCHEMA`; `watch_seconds` of what was not clicked count as 0, those of a click must be
    known."""
    columns = RawColumns(raw)
    read = raw.select(
        "row",
        columns.ident("user_id"),
        columns.time(rules.time_zone),
        columns.ident("video_id"),
        columns.ident("page_id"),
        columns.boolean("clicked"),
        columns.number("watch_seconds"),
    )
    reasons: list[Reason] = [
        *columns.reasons(read),
        *_out_of_time(rules),
        (pl.col("clicked").is_null(), "clicked is null"),
        *plausible.seconds_reasons(read, "watch_seconds"),
        (pl.col("clicked") & pl.col("watch_seconds").is_null(), "watch_seconds of a click is null"),
    ]
    seconds = pl.when("clicked").then("watch_seconds").otherwise(0.0).alias("watch_seconds")
    return _split(read.with_columns(seconds), reasons, IMPRESSION_SCHEMA)


def parse_videos(raw: pl.DataFrame, time_zone: str = "UTC", before: dt.datetime | None = None) -> Parsed:
    """The catalogue, `VIDEO_SCHEMA`; a video is available unless the row says otherwise, or it is uploaded only at
    `before` or later: a premiere to come."""
    columns = RawColumns(raw)
    read = raw.select(
        "row",
        columns.ident("video_id"),
        columns.time(time_zone, "upload_time"),
        columns.number("video_seconds"),
        *(columns.text(name) for name in ("title", "channel", "language")),
        columns.boolean("available"),
        columns.texts("countries"),
    ).with_columns(_available(before))
    reasons: list[Reason] = [
        *columns.reasons(read),
        *plausible.seconds_reasons(read, "video_seconds"),
        *plausible.upload_reasons(time_zone, before),
        (pl.col("countries").str.contains(r"[;|/]"), "countries must be separated by commas"),
    ]
    return _split(read.with_columns(countries.normalised(pl.col("countries"))), reasons, VIDEO_SCHEMA)


def _available(before: dt.datetime | None) -> pl.Expr:
    given = pl.col("available").fill_null(True)
    return given if before is None else given & (pl.col("upload_time") < before).fill_null(True)


def parse_users(raw: pl.DataFrame, categories: tuple[str, ...] = (), before: dt.datetime | None = None) -> Parsed:
    """The users table: `USER_SCHEMA` and, as text, each further column named in `categories`.

    A `birth_year` that is no year from 1900 to that of `before` is unknown.
    """
    columns = RawColumns(raw)
    extra = [name for name in categories if name not in USER_SCHEMA]
    read = raw.select(
        "row",
        columns.ident("user_id"),
        columns.text("gender"),
        columns.number("birth_year").cast(pl.Int32, strict=False),
        *(columns.text(name) for name in ("country", "language", *extra)),
    )
    years, reasons = plausible.birth_years(read, before)
    reasons = [*columns.reasons(read), *reasons]
    return _split(read.with_columns(years), reasons, pl.Schema({**USER_SCHEMA, **dict.fromkeys(extra, pl.String())}))


def parse_hidden(raw: pl.DataFrame) -> Parsed:
    """The videos that are never to be shown to some users, `HIDDEN_SCHEMA`."""
    columns = RawColumns(raw)
    read = raw.select("row", columns.ident("user_id"), columns.ident("video_id"))
    return _split(read, columns.reasons(read), HIDDEN_SCHEMA)


@lru_cache(maxsize=2)
def _catalogue_seconds(path: str | None) -> pl.DataFrame:
    """video_id, catalogue_seconds, of the videos whose length is known; read once a process."""
    if path is None:
        return pl.DataFrame(schema={"video_id": pl.String, "catalogue_seconds": pl.Float32})
    lengths = files.read_parquet(path, ["video_id", "video_seconds"]).drop_nulls()
    return lengths.rename({"video_seconds": "catalogue_seconds"})


def _split(read: pl.DataFrame, reasons: list[Reason], schema: pl.Schema) -> Parsed:
    """Rows with the first reason that holds are refused; the others are valid."""
    chain = pl.lit(None, pl.String)
    for mask, reason in reversed(reasons):
        chain = pl.when(mask).then(pl.lit(reason)).otherwise(chain)
    read = read.with_columns(reason=chain)
    refused = read.filter(pl.col("reason").is_not_null()).select("row", "reason")
    valid = read.filter(pl.col("reason").is_null()).select(schema.names()).cast(schema)
    return Parsed(valid, refused)
