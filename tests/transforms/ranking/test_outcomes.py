"""Counts of what became of impressions, by day, compared with plain Python."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import apache_beam as beam
import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours, watch
from shown import CATALOGUE, LATER_IMPRESSIONS, LATER_WATCHES, USERS, events_of, impression

from transforms.core.files import FileEntry
from transforms.core.records import WriteRecords, pop_records
from transforms.logs.parsing import CompletionRule
from transforms.ranking.outcomes import OUTCOMES, WriteOutcomes, count_outcomes, day_of_file, file_name, merge_outcomes

ZONE = "America/New_York"
RULE = CompletionRule(fraction=0.5, seconds=30)
DAYS = [dt.date(2024, 2, 29), dt.date(2024, 3, 1), dt.date(2024, 3, 2), dt.date(2024, 3, 3)]
LENGTHS = {row["video_id"]: row["video_seconds"] for row in CATALOGUE.iter_rows(named=True)}
COUNTRIES = dict(USERS.select("user_id", "country").iter_rows())
Rows = list[dict[str, Any]]


def local_day(row: dict[str, Any]) -> dt.date:
    day: dt.date = row["time"].astimezone(ZoneInfo(ZONE)).date()
    return day


def oracle(impressions: Rows, watches: Rows, days_counted: list[dt.date]) -> dict[tuple[Any, ...], list[int]]:
    """Return the counts of each key (day, video, category, value)."""
    found: dict[tuple[Any, ...], Counter[int]] = {}
    for row in impressions:
        day, seconds = local_day(row), row["watch_seconds"]
        if day not in days_counted:
            continue
        needed = (LENGTHS.get(row["video_id"]) or 60) / 2
        completed = row["clicked"] and seconds >= needed
        counts = [
            1,
            int(row["clicked"]),
            int(completed),
            round(seconds * 1000),
            int(pl.Series([seconds**2]).round()[0]),
        ]
        categories = [("", "")]
        for name, table in (("country", COUNTRIES), ("device", {})):
            known = [w for w in watches if w["user_id"] == row["user_id"] and local_day(w) == day and w[name]]
            value = max((w["time"], w[name]) for w in known)[1] if known else table.get(row["user_id"])
            categories += [(name, value)] if value else []
        for key in categories:
            total = found.setdefault((day, row["video_id"], *key), Counter())
            total.update(dict(enumerate(counts)))
    return {key: [total[at] for at in range(5)] for key, total in found.items()}


def counted(watches: Rows, impressions: Rows, days_counted: list[dt.date]) -> pl.DataFrame:
    events = events_of(watches, impressions=impressions)
    return count_outcomes(events, USERS, CATALOGUE, days_counted=days_counted, zone=ZONE, rule=RULE)


@given(LATER_WATCHES, LATER_IMPRESSIONS, st.lists(st.sampled_from(DAYS), unique=True))
def test_counts_equal_plain_python(watches: Rows, impressions: Rows, days_counted: list[dt.date]) -> None:
    rows = counted(watches, impressions, days_counted)
    assert rows.schema == {"day": pl.Date, **OUTCOMES}
    found = {row[:4]: list(row[4:]) for row in rows.iter_rows()}
    assert len(found) == rows.height and found == oracle(impressions, watches, days_counted)


@given(LATER_WATCHES, LATER_IMPRESSIONS)
def test_counts_of_parts_of_the_users_add_up(watches: Rows, impressions: Rows) -> None:
    def of_users(wanted: str) -> pl.DataFrame:
        rows = [[row for row in rows if row["user_id"] in wanted] for rows in (watches, impressions)]
        return counted(rows[0], rows[1], DAYS[1:2]).drop("day")

    whole = merge_outcomes([of_users("abz")])
    assert whole.equals(merge_outcomes([of_users("b"), of_users("az")])) and whole.schema == OUTCOMES
    assert whole.equals(merge_outcomes([merge_outcomes([of_users("z"), of_users("b")]), of_users("a")]))


def test_a_file_is_written_for_every_day(tmp_path: Path) -> None:
    impressions = [impression("a", 1, "v", seconds=3.0), impression("b", 30, "v"), impression("b", 31, "w")]
    parts = [
        counted([watch("b", 29, "v", country="SE")], [row for row in impressions if row["user_id"] == user], DAYS)
        for user in "ab"
    ]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        frames = pipeline | beam.Create(parts).with_output_types(pl.DataFrame)
        frames | WriteOutcomes(str(tmp_path), tuple(DAYS)) | WriteRecords(str(tmp_path / "records"))
    entries = pop_records(str(tmp_path / "records"), FileEntry).of(FileEntry)
    assert {entry.name: entry.rows for entry in entries} == {
        "outcomes/2024-02-29.parquet": 2,
        "outcomes/2024-03-01.parquet": 0,
        "outcomes/2024-03-02.parquet": 4,
        "outcomes/2024-03-03.parquet": 0,
    }
    assert pl.read_parquet(tmp_path / "outcomes/2024-02-29.parquet").rows() == [
        ("v", "", "", 1, 1, 0, 3000, 9),
        ("v", "country", "SE", 1, 1, 0, 3000, 9),
    ]
    assert pl.read_parquet(tmp_path / "outcomes/2024-03-03.parquet").schema == OUTCOMES


def test_a_file_is_named_by_its_day() -> None:
    assert day_of_file(f"s3://bucket/nights/2024-03-04/ranked/{file_name(DAYS[0])}") == DAYS[0]


def test_no_days_are_counted_without_rows() -> None:
    assert counted([], [impression("a", 1, "v")], []).is_empty()
    assert counted([], [], DAYS).schema == {"day": pl.Date, **OUTCOMES}
    assert hours(0).date() == DAYS[1], "these tests begin after midnight in UTC, and before it in New York"
