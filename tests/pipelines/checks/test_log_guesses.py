"""Guesses of tables and columns, on frames and on file names."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from log_folders import NEXT_DAY, WORKING

from pipelines.base.snapshot_store import TakenFile
from pipelines.checks import log_guesses
from pipelines.checks.log_guesses import ABSENT, LogGroup, find_groups, guess_columns, guess_table, newest_day
from transforms.logs.readers import LogSettingError

TIMES = [1_790_000_000 + 60 * n for n in range(30)]


def group(columns: dict[str, list[Any]], pattern: str = "log.csv") -> LogGroup:
    raw = pl.DataFrame(columns)
    file = TakenFile(path=f"/logs/{pattern}", bytes=1, changed=0.0)
    return LogGroup(pattern=pattern, files=(file,), columns=tuple(columns), raw=raw, rows=raw.height)


def texts(values: list[Any]) -> list[str]:
    return [str(value) for value in values]


IDS: dict[str, list[Any]] = {"uid": texts(list(range(30))), "item": ["a", "b", "c"] * 10}


@pytest.mark.parametrize(
    ("relative", "template"),
    [
        ("watches/2026-11-20.parquet", "watches/{date}.parquet"),
        ("dt=2026-11-20/part-00001-1a2b3c4d.csv.gz", "dt={date}/part-[0-9]*-*.csv.gz"),
        ("w/2026-11-20/w-2026-11-20.csv", "w/{date}/w-{date}.csv"),
        ("2026/11/20/log.csv", "*/*/*/log.csv"),
        ("country=SE/year=2026/log.csv", "country=*/year=*/log.csv"),
        ("log_20261120.csv", "log_[0-9]*.csv"),
        ("a[1]/log.csv", "a[[]1]/log.csv"),
        ("plays.tsv", "plays.tsv"),
    ],
)
def test_names_that_vary_become_patterns(relative: str, template: str) -> None:
    assert log_guesses._template(relative) == template


@pytest.mark.parametrize(
    ("columns", "pattern", "table"),
    [
        (IDS | {"ts": TIMES, "completed": [1, 0] * 15}, "log.csv", "watches"),
        ({"uid": IDS["uid"], "ts": TIMES, "q": ["how"] * 30}, "log.csv", "searches"),
        (
            IDS | {"ts": TIMES, "is_click": [1, 0] * 15, "watch_time": [1.0] * 30, "request_id": TIMES},
            "x.csv",
            "impressions",
        ),
        ({"id": IDS["item"], "name": ["A"] * 30}, "movies.csv", "videos"),
        ({"id": IDS["uid"], "sex": ["f"] * 30}, "members.csv", "users"),
        (IDS, "blocked.csv", "hidden"),
        ({"a": [1], "b": [2]}, "numbers.csv", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_columns_and_names_say_which_table_it_is(columns: dict[str, Any], pattern: str, table: str | None) -> None:
    guess = guess_table(group(columns, pattern))
    assert (guess.table if guess else None) == table


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (TIMES, ""),
        ([1000 * time for time in TIMES], ""),
        ([dt.datetime(2026, 11, 20, 1, n) for n in range(30)], ""),
        ([f"2026-11-20T10:{n:02}:00Z" for n in range(30)], ""),
        ([10**6 * time for time in TIMES], "its values are no times"),
        (["20.11.2026"] * 30, "its values are no times"),
        ([20_261_120] * 30, "are before 1990"),
        ([""] * 30, ""),
    ],
    ids=lambda value: str(value)[:20],
)
def test_times_must_be_times(values: list[Any], problem: str) -> None:
    guess = guess_columns(group(IDS | {"ts": values, "completed": [1] * 30}), "watches", {})
    if problem:
        assert "time" in guess.lacking and any(problem in text for text in guess.problems)
    else:
        assert guess.columns["time"] == "ts" and guess.is_complete


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("play_time", [10.0] * 30, ""),
        ("watch_time_s", ["10"] * 30, ""),
        ("play_time_ms", [10_000] * 30, "it is in milliseconds"),
        ("watchTimeMs", [10_000] * 30, "it is in milliseconds"),
        ("watch_time", [10_000_000] * 30, "probably milliseconds"),
        ("watch_time", ["long"] * 30, "its values are no numbers"),
        ("completed", [0.3] * 30, "its values are not true and false"),
    ],
)
def test_seconds_must_be_seconds(name: str, values: list[Any], problem: str) -> None:
    guess = guess_columns(group(IDS | {"ts": TIMES, name: values}), "watches", {})
    if problem:
        assert guess.lacking == ("completed", "watch_seconds")
        assert any(text.startswith(f"{name} cannot be") and problem in text for text in guess.problems)
    else:
        assert guess.is_complete and guess.columns["watch_seconds"] == name


def test_a_column_with_our_name_that_holds_something_else_is_not_read() -> None:
    columns = IDS | {"ts": TIMES, "watch_seconds": [5.0] * 30, "completed": [0.5] * 30}
    guess = guess_columns(group(columns), "watches", {})
    assert guess.columns["completed"] == ABSENT and guess.is_complete


@pytest.mark.parametrize(
    ("durations", "question", "ours"),
    [
        ([float(n) for n in range(30)], "", "watch_seconds"),
        ([10.0, 20.0, 30.0] * 10, "", "video_seconds"),
    ],
)
def test_a_duration_is_told_by_whether_it_differs_for_a_video(durations: list[float], question: str, ours: str) -> None:
    guess = guess_columns(group(IDS | {"ts": TIMES, "duration": durations}), "watches", {})
    assert (guess.question, guess.columns[ours]) == (question, "duration")
    assert bool(guess.lacking) is (ours == "video_seconds")


def test_a_duration_of_videos_that_were_watched_once_is_a_question() -> None:
    columns = {"uid": IDS["uid"], "item": texts(list(range(30))), "ts": TIMES, "duration": [9.0] * 30}
    guess = guess_columns(group(columns), "watches", {})
    assert guess.question == "watch_seconds=duration" and not guess.is_complete


def test_named_columns_are_taken_as_they_are() -> None:
    guess = guess_columns(group(IDS | {"ts": TIMES, "x": [1] * 30}), "watches", {"completed": "x", "user_id": "item"})
    assert guess.columns == {"completed": "x", "user_id": "item", "time": "ts"} and guess.lacking == ("video_id",)


def test_groups_of_a_folder(tmp_path: Path) -> None:
    WORKING["partitions"](tmp_path)
    (groups, skipped) = find_groups(str(tmp_path))
    assert [one.pattern for one in groups] == ["video_views/dt={date}/country=*/part-[0-9]*-*.snappy.parquet"]
    assert groups[0].columns[-2:] == ("dt", "country") and not groups[0].missing_days and skipped == ()
    guess = guess_table(groups[0])
    assert guess is not None and newest_day(guess, "UTC") == NEXT_DAY - dt.timedelta(days=1)
    assert guess.columns["country"] == "country"


def test_the_newest_day_is_that_of_the_events_without_dates_in_paths(tmp_path: Path) -> None:
    WORKING["year_month_day"](tmp_path)
    groups, _ = find_groups(str(tmp_path))
    guess = guess_table(next(one for one in groups if "stream" in one.pattern))
    assert guess is not None and newest_day(guess, "UTC") == NEXT_DAY - dt.timedelta(days=1)
    assert newest_day(guess, "Asia/Tokyo") == NEXT_DAY


def test_missing_days_are_noticed(tmp_path: Path) -> None:
    WORKING["own_names"](tmp_path)
    (tmp_path / "watches" / "2026-11-16.parquet").unlink()
    groups, _ = find_groups(str(tmp_path))
    assert [one.pattern for one in groups if one.missing_days] == ["watches/{date}.parquet"]


def test_an_unreadable_file_and_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    groups, _ = find_groups(str(tmp_path))
    assert "not a complete parquet file" in groups[0].error and guess_table(groups[0]) is None
    (tmp_path / "b").mkdir()
    with pytest.raises(LogSettingError, match="no log files found"):
        find_groups(str(tmp_path / "b"))


def test_nested_columns_are_left_out(tmp_path: Path) -> None:
    rows = pl.DataFrame(IDS | {"ts": TIMES, "completed": [True] * 30}).with_columns(
        tags=pl.lit([["a"]]), s=pl.struct("uid")
    )
    rows.write_parquet(tmp_path / "log.parquet")
    guess = guess_table(find_groups(str(tmp_path))[0][0])
    assert guess is not None and guess.is_complete and guess.table == "watches"
