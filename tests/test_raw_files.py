from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest

from pipelines import raw_files
from transforms.logs import LogError, LogSettingError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def found(pattern: Path | str, first: int = 18, end: int = 21) -> list[str]:
    """Names below the folder `logs` of the files that a pattern names, for a window of days of November 2026."""
    window = {"start": dt.date(2026, 11, first), "end": dt.date(2026, 11, end)}
    return [file.path.split("/logs/", 1)[1] for file in raw_files.find("logs.watches", str(pattern), **window).files]


def test_a_file_is_itself_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "_a.parquet", "b.csv")
    assert found(tmp_path / "logs" / "_a.parquet") == ["_a.parquet"]


@pytest.mark.parametrize("end", ["", "/"])
def test_a_folder_is_all_log_files_below_it(tmp_path: Path, end: str) -> None:
    ours = ["a.csv", "b/c/d.JSON.gz", "b/e.parquet", "f.jsonl", "g.ndjson.gz", "h.csv.gz"]
    touch(tmp_path / "logs", *ours, "README.md", "b/notes.txt", "i.parquet.gz")
    assert found(f"{tmp_path}/logs{end}") == ours


def test_hidden_files_and_what_lies_in_hidden_folders_are_no_logs(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "a.csv", ".a.csv", "_b.csv", "_temporary/0/c.csv", "d/.trash/e.csv", "d/f.csv")
    assert found(tmp_path / "logs") == ["a.csv", "d/f.csv"]
    assert found(tmp_path / "logs" / "**" / "*.csv") == ["d/f.csv"]
    assert found(tmp_path / "logs" / "_temporary") == ["_temporary/0/c.csv"]
    assert found(tmp_path / "logs" / "_temporary" / "*" / "*.csv") == ["_temporary/0/c.csv"]


def test_a_glob_is_what_it_matches_and_what_lies_below_that(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "a1.csv", "a2.csv", "b1.csv", "a.parquet/part-0.parquet", "a.parquet/_SUCCESS")
    assert found(tmp_path / "logs" / "a*.csv") == ["a1.csv", "a2.csv"]
    assert found(tmp_path / "logs" / "a*") == ["a.parquet/part-0.parquet", "a1.csv", "a2.csv"]
    assert found(tmp_path / "logs" / "*.parquet") == ["a.parquet/part-0.parquet"]


def test_date_stands_for_each_day_of_the_window(tmp_path: Path) -> None:
    days = [f"2026-11-{day}" for day in range(17, 22)]
    touch(tmp_path / "logs", *(f"{day}/x.csv" for day in days), *(f"w-{day}.csv" for day in days))
    assert found(tmp_path / "logs" / "{date}") == [f"{day}/x.csv" for day in days[1:4]]
    assert found(tmp_path / "logs" / "w-{date}.csv") == [f"w-{day}.csv" for day in days[1:4]]


def test_size_and_time_of_change_tell_a_file_from_its_next_version(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv")
    window = {"start": dt.date(2026, 11, 18), "end": dt.date(2026, 11, 21)}
    (before,) = raw_files.find("logs.watches", str(tmp_path), **window).files
    assert (before.path, before.bytes) == (f"{tmp_path}/a.csv", 1)
    assert raw_files.find("logs.watches", str(tmp_path), **window).files == (before,)
    os.utime(tmp_path / "a.csv", (1_700_000_000, 1_700_000_000))
    (after,) = raw_files.find("logs.watches", str(tmp_path), **window).files
    assert after.changed == 1_700_000_000 and after != before


@pytest.mark.parametrize("pattern", ["", "  "])
def test_an_empty_path_is_told(pattern: str) -> None:
    with pytest.raises(LogError, match=r"logs.watches is empty: give a file, a folder or a glob"):
        found(pattern)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.csv", "empty", "*.csv", "others", "none/*/w.csv"])
def test_a_path_without_a_log_file_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "logs" / "empty").mkdir(parents=True)
    touch(tmp_path / "logs" / "others", "notes.txt")
    with pytest.raises(LogError, match=r"logs.watches = .*: no log files there"):
        found(tmp_path / "logs" / name)


def test_a_window_without_a_day_of_logs_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "2026-11-17.csv", "2026-11-21.csv")
    with pytest.raises(LogError, match="no log files there on a day from 2026-11-18 to 2026-11-20"):
        found(tmp_path / "logs" / "{date}.csv")


DATED = "w-{date}.csv"


def days(folder: Path, *, seen: tuple[str, ...] = (), allow: bool = False) -> tuple[str, ...]:
    """Days of 18 to 21 November with a file."""
    window = {"start": dt.date(2026, 11, 18), "end": dt.date(2026, 11, 22)}
    pattern = str(folder / "logs" / DATED)
    return raw_files.find("logs.watches", pattern, **window, seen=seen, allow_missing_days=allow).days


def test_days_before_the_first_one_are_no_gap_and_those_behind_it_are(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "w-2026-11-19.csv", "w-2026-11-20.csv", "w-2026-11-21.csv")
    found = ("2026-11-19", "2026-11-20", "2026-11-21")
    assert days(tmp_path) == days(tmp_path, seen=("2026-11-18",)) == found
    with pytest.raises(LogError, match=r"no file for 2026-11-18, though the logs begin on 2026-11-01: wait for it"):
        days(tmp_path, seen=("2026-11-01",))
    assert days(tmp_path, seen=("2026-11-01",), allow=True) == found


def test_the_last_day_is_missed_too_and_a_day_that_was_seen_may_be_gone(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "w-2026-11-18.csv", "w-2026-11-20.csv")
    with pytest.raises(LogError, match=r"no file for 2026-11-19, 2026-11-21, though the logs begin on 2026-11-18"):
        days(tmp_path)
    assert days(tmp_path, seen=("2026-11-19", "2026-11-21")) == ("2026-11-18", "2026-11-20")
    for day in (18, 20):
        (tmp_path / "logs" / f"w-2026-11-{day}.csv").unlink()
    assert days(tmp_path, seen=tuple(f"2026-11-{day}" for day in range(18, 22))) == ()


@pytest.mark.parametrize(
    ("seen", "kind"), [((), LogSettingError), (("2026-11-01",), LogError)], ids=["never", "earlier"]
)
def test_a_path_that_never_matched_is_a_setting_to_correct_and_late_files_are_not(
    tmp_path: Path, seen: tuple[str, ...], kind: type[LogError]
) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(LogError, match="no log files there on a day from 2026-11-18") as raised:
        days(tmp_path, seen=seen)
    assert type(raised.value) is kind
    touch(tmp_path / "logs", "w-2026-11-18.csv")
    with pytest.raises(LogError, match="no file for 2026-11-19") as raised:
        days(tmp_path)
    assert type(raised.value) is LogError


def test_a_bigquery_table_is_one_raw_file_a_date() -> None:
    window = {"start": dt.date(2026, 11, 18), "end": dt.date(2026, 11, 21)}
    (table,) = raw_files.find("logs.watches", "bigquery:my-project.logs.watches", **window).files
    assert table.path == "bigquery:my-project.logs.watches"
    assert dt.datetime.fromtimestamp(table.changed, dt.UTC) == dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    for name in ("bigquery:watches", "bigquery:p.d.watches_{date}", "bigquery:p.d.t.x.y z"):
        with pytest.raises(LogError, match=r"a BigQuery table is named bigquery:project.dataset.table, without"):
            raw_files.find("logs.watches", name, **window)
