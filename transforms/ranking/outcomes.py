"""What became of the impressions of each video: counts by local day, one file for each day of the window.

impressions of a day, its watches -> count_outcomes -> WriteOutcomes -> ranked/outcomes/DAY.parquet

The counts are by video, and by video and category of the user: country and device. All impressions count, also those of
held-out users: `outcome_features` says why that is no leak.

A day's counts depend on nothing but the events of that day, on the settings, and on the catalogue and the users table
of the night that counts it. So a later night takes the file over if the events and the settings are still the same. For
this reason the country and the device of an impression are those of the user's last watch of its day, else those of
the users table. That is not the category that the ranker reads about the request, because the last watch before the
page may be from an earlier day; and an impression without either counts for its video only.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import polars as pl

from transforms.core import days, files
from transforms.core.files import FileEntry
from transforms.core.frames import GroupFrames, KeyedFrame
from transforms.logs.event_window import Events
from transforms.logs.parsing import CompletionRule

FOLDER = "outcomes"  # below the folder of the stage
CATEGORIES = ("country", "device")
_KEYS = ("video_id", "category", "value")
_MEASURES = ("impressions", "clicks", "completed", "milliseconds", "squared_seconds")
# A row per video, whose category and value are "", and one per video and value of a category. `completed`: clicks;
# `squared_seconds`: the sum of the squares of the watch seconds of each click, for their variance.
OUTCOMES = pl.Schema({**dict.fromkeys(_KEYS, pl.String()), **dict.fromkeys(_MEASURES, pl.Int64())})
_BY_DAY = pl.Schema({"day": pl.Date(), **OUTCOMES})


def file_name(day: dt.date) -> str:
    """Return the name of a day's file, relative to the folder of the stage."""
    return f"{FOLDER}/{day}.parquet"


def day_of_file(path: str) -> dt.date:
    """Return the day that a file counts, by its name."""
    return dt.date.fromisoformat(path.rsplit("/", 1)[-1].removesuffix(".parquet"))


def count_outcomes(
    events: Events,
    users: pl.DataFrame,
    catalogue: pl.DataFrame,
    *,
    days_counted: Sequence[dt.date],
    zone: str,
    rule: CompletionRule,
) -> pl.DataFrame:
    """Return `OUTCOMES` with `day` of the impressions of some days, unsorted.

    users: rows of the users table. catalogue: video_id, video_seconds. A click is completed if its watch seconds meet
    `rule` for the length in the catalogue.
    """
    shown = _on_days(events.impressions, days_counted, zone)
    if shown.is_empty():
        return pl.DataFrame(schema=_BY_DAY)
    lengths = catalogue.select("video_id", "video_seconds")
    seconds = pl.col("watch_seconds").cast(pl.Float64)
    rows = shown.join(lengths, on="video_id", how="left").with_columns(
        impressions=pl.lit(1, pl.Int64),
        clicks=pl.col("clicked").cast(pl.Int64),
        completed=(pl.col("clicked") & rule.is_met(pl.col("video_seconds"))).cast(pl.Int64),
        milliseconds=(seconds * 1000).round().cast(pl.Int64),
        squared_seconds=(seconds**2).round().cast(pl.Int64),
    )
    parts = [rows.with_columns(category=pl.lit(""), value=pl.lit("")).select(_BY_DAY.names())]
    for name, values in _user_categories(_on_days(events.watches, days_counted, zone), rows, users).items():
        of_value = rows.with_columns(category=pl.lit(name), value=values).drop_nulls("value")
        parts.append(of_value.select(_BY_DAY.names()))
    return pl.concat(_sums(part) for part in parts)


def _on_days(events: pl.DataFrame, days_counted: Sequence[dt.date], zone: str) -> pl.DataFrame:
    """Return the events of some days with `day`."""
    if not days_counted:
        return events.clear().with_columns(day=pl.lit(None, pl.Date))
    start, end = days.midnight(min(days_counted), zone), days.day_bounds(max(days_counted), zone)[1]
    within = events.filter(pl.col("time").is_between(start, end, closed="left"))
    dated = within.with_columns(days.local_dates(within["time"], zone).alias("day"))
    return dated.filter(pl.col("day").is_in(list(days_counted)))


def _user_categories(watches: pl.DataFrame, shown: pl.DataFrame, users: pl.DataFrame) -> dict[str, pl.Series]:
    """Return each category of the users of impressions: that of the day's last watch that has one, else that of the
    users table; null if neither has it. watches, shown: with user_id and day."""
    found = dict[str, pl.Series]()
    for name in CATEGORIES:
        values = watches.select("user_id", "day", "time", pl.col(name).cast(pl.String)).drop_nulls()
        last = values.sort("time", name).unique(["user_id", "day"], keep="last").drop("time")
        rows = shown.select("user_id", "day").join(last, on=["user_id", "day"], how="left", maintain_order="left")
        if name in users.columns:
            table = users.select("user_id", of_table=pl.col(name).cast(pl.String))
            rows = rows.join(table, on="user_id", how="left", maintain_order="left")
            rows = rows.with_columns(pl.coalesce(name, "of_table").alias(name))
        found[name] = rows[name]
    return found


def _sums(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("day", *_KEYS).agg(pl.col(_MEASURES).sum())


def merge_outcomes(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return `OUTCOMES` of all impressions of one day from those of disjoint parts, sorted."""
    rows = pl.concat([pl.DataFrame(schema=OUTCOMES), *parts])
    return rows.group_by(_KEYS).agg(pl.col(_MEASURES).sum()).sort(_KEYS)


@dataclass
class WriteOutcomes(beam.PTransform):
    """Write a file for each of some days from frames of `count_outcomes`, also for a day without rows; return the
    `FileEntry` of each."""

    folder: str
    days_counted: tuple[dt.date, ...]

    def expand(self, counted: beam.PCollection[pl.DataFrame]) -> beam.PCollection[FileEntry]:
        empty = [(day.toordinal(), pl.DataFrame(schema=OUTCOMES)) for day in self.days_counted]
        rows = counted | "Days" >> beam.FlatMap(_by_day).with_output_types(KeyedFrame)
        none = counted.pipeline | beam.Create(empty).with_output_types(KeyedFrame)
        grouped = (rows, none) | beam.Flatten() | GroupFrames()
        return grouped | beam.MapTuple(self._write).with_output_types(FileEntry)

    def _write(self, day: int, counted: pl.DataFrame) -> FileEntry:
        return files.write_parquet(merge_outcomes([counted]), self.folder, file_name(dt.date.fromordinal(day)))


def _by_day(counted: pl.DataFrame) -> Iterator[KeyedFrame]:
    for (day,), part in counted.partition_by("day", as_dict=True, include_key=False).items():
        yield day.toordinal(), part
