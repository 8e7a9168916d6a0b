from __future__ import annotations

import datetime as dt
import os
import re
from pathlib import Path
from typing import Any

import pytest
from memory_files import MemoryFileSystem

from pipelines.base import paths, raw_files
from transforms.logs.readers import LogError, LogSettingError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


WINDOW: dict[str, Any] = {"start": dt.date(2026, 11, 18), "end": dt.date(2026, 11, 21)}


def found(pattern: Path | str) -> list[str]:
    """Return the names below the folder `logs` of the files that a pattern matches."""
    return [file.path.split("/logs/", 1)[1] for file in raw_files.find("logs.watches", str(pattern), **WINDOW).files]


def skipped(pattern: Path | str) -> list[str]:
    """Return the paths below the folder `logs` of the files that are skipped."""
    return [path.split("/logs/", 1)[1] for path in raw_files.find("logs.watches", str(pattern), **WINDOW).skipped]


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
    assert found(tmp_path / "logs" / "**" / "*.csv") == ["a.csv", "d/f.csv"]
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
    (before,) = raw_files.find("logs.watches", str(tmp_path), **WINDOW).files
    assert (before.path, before.bytes) == (f"{tmp_path}/a.csv", 1)
    assert raw_files.find("logs.watches", str(tmp_path), **WINDOW).files == (before,)
    os.utime(tmp_path / "a.csv", (1_700_000_000, 1_700_000_000))
    (after,) = raw_files.find("logs.watches", str(tmp_path), **WINDOW).files
    assert after.changed == 1_700_000_000 and after != before


@pytest.mark.parametrize("pattern", ["", "  "])
def test_an_empty_path_is_an_error(pattern: str) -> None:
    with pytest.raises(LogError, match=r"logs.watches is empty: give a file, a folder or a glob"):
        found(pattern)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.csv", "empty", "*.csv", "others", "none/*/w.csv"])
def test_a_path_without_a_log_file_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "logs" / "empty").mkdir(parents=True)
    touch(tmp_path / "logs" / "others", "notes.txt")
    with pytest.raises(LogError, match=r"logs.watches = .*: no log files found"):
        found(tmp_path / "logs" / name)


def test_a_window_without_a_day_of_logs_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "2026-11-17.csv", "2026-11-21.csv")
    with pytest.raises(LogError, match="no log files found on a day from 2026-11-18 to 2026-11-20"):
        found(tmp_path / "logs" / "{date}.csv")


def days(folder: Path, *, seen: tuple[str, ...] = (), allow: bool = False) -> tuple[str, ...]:
    """Days of 18 to 21 November with a file."""
    window = WINDOW | {"end": dt.date(2026, 11, 22)}
    pattern = str(folder / "logs" / "w-{date}.csv")
    return raw_files.find("logs.watches", pattern, **window, seen=seen, allow_missing_days=allow).days


def test_days_before_the_first_one_are_no_gap_and_those_behind_it_are(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "w-2026-11-19.csv", "w-2026-11-20.csv", "w-2026-11-21.csv")
    found = ("2026-11-19", "2026-11-20", "2026-11-21")
    assert days(tmp_path) == days(tmp_path, seen=("2026-11-18",)) == found
    with pytest.raises(LogError, match=r"no file for 2026-11-18, although the logs begin on 2026-11-01: wait for it"):
        days(tmp_path, seen=("2026-11-01",))
    assert days(tmp_path, seen=("2026-11-01",), allow=True) == found


def test_the_last_day_is_missed_too_and_a_day_that_was_seen_may_be_gone(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "w-2026-11-18.csv", "w-2026-11-20.csv")
    with pytest.raises(LogError, match=r"no file for 2026-11-19, 2026-11-21, although the logs begin on 2026-11-18"):
        days(tmp_path)
    assert days(tmp_path, seen=("2026-11-19", "2026-11-21")) == ("2026-11-18", "2026-11-20")
    for day in (18, 20):
        (tmp_path / "logs" / f"w-2026-11-{day}.csv").unlink()
    assert days(tmp_path, seen=tuple(f"2026-11-{day}" for day in range(18, 22))) == ()


@pytest.mark.parametrize(("seen", "kind"), [((), LogSettingError), (("2026-11-01",), LogError)])
def test_a_path_that_never_matched(tmp_path: Path, seen: tuple[str, ...], kind: type[LogError]) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(LogError, match="no log files found on a day from 2026-11-18") as raised:
        days(tmp_path, seen=seen)
    assert type(raised.value) is kind
    touch(tmp_path / "logs", "w-2026-11-18.csv")
    with pytest.raises(LogError, match="no file for 2026-11-19") as raised:
        days(tmp_path)
    assert type(raised.value) is LogError


def test_a_bigquery_table_is_one_raw_file_a_date() -> None:
    (table,) = raw_files.find("logs.watches", "bigquery:my-project.logs.watches", **WINDOW).files
    assert table.path == "bigquery:my-project.logs.watches"
    assert dt.datetime.fromtimestamp(table.changed, dt.UTC) == dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    for name in ("bigquery:watches", "bigquery:p.d.watches_{date}", "bigquery:p.d.t.x.y z"):
        with pytest.raises(LogError, match=r"name a BigQuery table as bigquery:project.dataset.table"):
            raw_files.find("logs.watches", name, **WINDOW)


def test_skipped_files_are_named(tmp_path: Path) -> None:
    others = ["b.txt", "c.csv.lz4", "part-00001", ".d.csv", "_temporary/0/e.csv", "_temporary/1/e.csv", "f/g.xlsx"]
    touch(tmp_path / "logs", "a.csv", *others)
    (tmp_path / "logs" / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    named = [".d.csv", "_temporary/", "b.txt", "c.csv.lz4", "f/g.xlsx", "gone.csv", "part-00001"]
    assert skipped(tmp_path / "logs") == skipped(tmp_path / "logs" / "*") == named
    assert skipped(tmp_path / "logs" / "*.csv") == [".d.csv", "gone.csv"]
    assert skipped(tmp_path / "logs" / "a.csv") == []
    text = raw_files.describe_skipped(raw_files.find("logs.watches", str(tmp_path / "logs"), **WINDOW))
    assert text.startswith("7 files were skipped: .d.csv, _temporary/, b.txt, c.csv.lz4, g.xlsx and 2 more. A file")
    with pytest.raises(LogError, match=r"no log files found .*; 1 other file was skipped: g.xlsx"):
        found(tmp_path / "logs" / "f")


def test_files_that_mark_what_is_complete_are_not_missed(tmp_path: Path) -> None:
    markers = ["_SUCCESS", ".a.csv.crc", "_metadata", "_common_metadata", "_committed_17", ".DS_Store", "README.md"]
    touch(tmp_path / "logs", "a.csv", *markers)
    assert found(tmp_path / "logs") == ["a.csv"] and skipped(tmp_path / "logs") == []


def test_linked_folders_are_read_each_folder_once(tmp_path: Path) -> None:
    touch(tmp_path, "logs/a.csv", "logs/b/c.csv", "elsewhere/d.csv", "elsewhere/e/f.csv")
    for name, target in {"0": "elsewhere", "again": "logs/b", "loop": "logs", "e": "elsewhere/e"}.items():
        (tmp_path / "logs" / name).symlink_to(tmp_path / target)
    assert found(tmp_path / "logs") == ["0/d.csv", "0/e/f.csv", "a.csv", "b/c.csv"]
    assert found(tmp_path / "logs" / "0") == ["0/d.csv", "0/e/f.csv"]


def test_two_stars_are_any_number_of_folders(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "a.csv", "b/c.csv", "b/d/e.csv", "b/f.parquet")
    assert found(tmp_path / "logs" / "**" / "*.csv") == ["a.csv", "b/c.csv", "b/d/e.csv"]
    assert found(tmp_path / "logs" / "**" / "d" / "**" / "*.csv") == ["b/d/e.csv"]
    assert found(tmp_path / "logs" / "**") == ["a.csv", "b/c.csv", "b/d/e.csv", "b/f.parquet"]
    assert found(tmp_path / "logs" / "[!b]*.c?v") == ["a.csv"]


@pytest.mark.parametrize("name", ["a [1]", "a?", "a*", "a[!x]", "{date}"])
def test_a_folder_with_the_signs_of_patterns_is_itself(tmp_path: Path, name: str) -> None:
    touch(tmp_path, *(f"{folder}/logs/w.csv" for folder in (name, "a 1", "ab", "2026-11-20")))
    folder = paths.escape_pattern(f"{tmp_path}/{name}")
    for pattern in ("logs/w.csv", "logs", "logs/*", "**/w.csv", "log[s]/w.csv"):
        files = raw_files.find("logs.watches", f"{folder}/{pattern}", **WINDOW).files
        assert [file.path for file in files] == [f"{tmp_path}/{name}/logs/w.csv"]
    with pytest.raises(LogError, match=re.escape(f"logs.watches = '{tmp_path}/{name}/x.csv': no log files found")):
        raw_files.find("logs.watches", f"{folder}/x.csv", **WINDOW)


def test_what_has_exactly_the_name_of_a_setting_is_meant(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "w[1].csv", "w1.csv", "w2.csv")
    assert found(tmp_path / "logs" / "w[1].csv") == ["w[1].csv"]
    assert found(tmp_path / "logs" / "w[2].csv") == ["w2.csv"]


def test_keys_of_folders_that_the_setting_does_not_name_are_found(tmp_path: Path) -> None:
    touch(tmp_path / "logs", "country=SE/dt=2026-11-20/a.csv", "country=DE/dt=2026-11-20/a.csv")
    assert raw_files.find("logs.watches", str(tmp_path / "logs"), **WINDOW).keys == ("country", "dt")
    dated = raw_files.find("logs.watches", str(tmp_path / "logs" / "*" / "dt={date}"), **WINDOW)
    assert (len(dated.files), dated.keys) == (2, ("country",))
    unnamed = raw_files.RawFiles(keys=("country", "dt"))
    assert "values of dt, which" in raw_files.describe_ignored_keys(unnamed, ["country"])
    assert raw_files.describe_ignored_keys(dated, ["country"]) == ""


def test_objects_are_matched_as_files_are(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.csv", "b/c.csv", "b/_d.csv", "e.txt", "w[1].csv", "w1.csv", "_SUCCESS"]
    content = {f"memory://bucket/logs/{name}": b"x" for name in names} | {"memory://bucket/logs-old/z.csv": b"x"}
    monkeypatch.setattr(MemoryFileSystem, "content", content)
    assert found("memory://bucket/logs") == found("memory://bucket/logs/") == ["a.csv", "b/c.csv", "w1.csv", "w[1].csv"]
    assert skipped("memory://bucket/logs") == ["b/_d.csv", "e.txt"]
    assert found("memory://bucket/logs/**/*.csv") == ["a.csv", "b/c.csv", "w1.csv", "w[1].csv"]
    assert found("memory://bucket/logs/b/*") == found("memory://bucket/lo*s/b") == ["b/c.csv"]
    assert found("memory://bucket/logs/w[1].csv") == ["w[1].csv"]
    assert found("memory://bucket/logs/w[!2].csv") == ["w1.csv"]
