"""Of several rows of one id in the catalogue and the users table, the newest file's decides."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, write_job
from stores import counts, ingested

from pipelines.night.night import Night
from transforms.core import files

WATCHES = "user_id,video_id,time,watch_seconds\n" + "".join(f"u{n},{n},2026-11-20 10:00:0{n},60\n" for n in range(4))
WINDOW = "[examples]\nwindow_days = 4\n"


def job(folder: Path, setting: str, tables: dict[str, list[str]], *, changed: dict[str, int] | None = None) -> Path:
    """A job with a table in files of these lines, under a header of its own, with these times of change."""
    (folder / "w.csv").write_text(WATCHES)
    for name, rows in tables.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        header = "user_id,gender" if setting.startswith("users") else "video_id,title,available"
        path.write_text("\n".join([header, *rows, ""]))
        os.utime(path, (seconds := 1_700_000_000 + (changed or {}).get(name, 0), seconds))
    return write_job(folder, f'watches = "w.csv"\n{setting}', WINDOW)


def catalogue(of: Night) -> dict[str, tuple[str, bool]]:
    rows = files.read_parquet(of.ingested.catalogue() or "").select("video_id", "title", "available").rows()
    return {video: (title, available) for video, title, available in rows}


def genders(of: Night) -> dict[str, str]:
    found = [files.read_parquet(path) for path in files.list_files(of.folder("ingest")) if "/users/" in path]
    return dict(pl.concat(found).select("user_id", "gender").rows())


def test_a_video_that_the_newest_catalogue_withdraws_or_lacks_is_not_available(tmp_path: Path) -> None:
    snapshots = {
        "v/2026-11-18.csv": ["1,one,yes", "2,two,yes", "3,three,no"],
        "v/2026-11-19.csv": ["1,one,no", "2,zwei,yes", "3,three,yes"],
        "v/2026-11-20.csv": ["1,uno,no", "3,three,yes"],
    }
    # The oldest day's file is the one that was changed last, as after a copy.
    of = ingested(job(tmp_path, 'videos = "v/{date}.csv"', snapshots, changed={"v/2026-11-18.csv": 9}))
    assert catalogue(of) == {"1": ("uno", False), "2": ("zwei", False), "3": ("three", True)}
    assert not any("differ" in note for note in counts(of)["notes"])  # type: ignore[attr-defined]


def test_parts_of_the_newest_day_are_one_snapshot(tmp_path: Path) -> None:
    snapshots = {
        "v/2026-11-19/a.csv": ["1,one,yes", "2,two,yes", "3,three,yes"],
        "v/2026-11-20/a.csv": ["1,one,yes"],
        "v/2026-11-20/b.csv": ["2,two,yes"],
    }
    of = ingested(job(tmp_path, 'videos = "v/{date}/*.csv"', snapshots))
    assert {video for video, (_, available) in catalogue(of).items() if available} == {"1", "2"}


@pytest.mark.parametrize(("newer", "expected"), [("a.csv", ("a", True)), ("b.csv", ("b", False))])
def test_the_file_that_was_changed_last_decides(tmp_path: Path, newer: str, expected: tuple[str, bool]) -> None:
    parts = {"v/a.csv": ["1,a,yes", "2,only a,yes"], "v/b.csv": ["1,b,no", "3,only b,yes"]}
    of = ingested(job(tmp_path, 'videos = "v"', parts, changed={f"v/{newer}": 60}))
    assert catalogue(of) == {"1": expected, "2": ("only a", True), "3": ("only b", True)}


def test_of_files_changed_at_the_same_time_the_last_path_decides(tmp_path: Path) -> None:
    of = ingested(job(tmp_path, 'videos = "v"', {"v/b.csv": ["1,b,no"], "v/a.csv": ["1,a,yes"]}))
    assert catalogue(of) == {"1": ("b", False)}


@pytest.mark.parametrize("rows", [["1,one,yes", "1,one,no"], ["1,z,yes", "2,two,yes", "1,a,no"]])
def test_of_one_file_the_last_row_decides_and_rows_that_differ_are_counted(tmp_path: Path, rows: list[str]) -> None:
    of = ingested(job(tmp_path, 'videos = "v.csv"', {"v.csv": [*rows, "3,three,yes", "3,three,yes"]}))
    title = rows[-1].split(",")[1]
    assert catalogue(of)["1"] == (title, False)
    said = "logs.videos: ids with several rows in one file that differ: 1; the last row of each counts"
    assert said in counts(of)["notes"]  # type: ignore[operator]


def test_rows_of_users_too(tmp_path: Path) -> None:
    parts = {"u/2026-11-19.csv": ["u1,z", "u2,f"], "u/2026-11-20.csv": ["u1,a"]}
    of = ingested(job(tmp_path, 'users = "u/{date}.csv"', parts))
    assert genders(of) == {"u1": "a", "u2": "f"}, "who is in the newest file no more is known from an older one"
    assert of.date == DATE


def test_a_rejected_row_does_not_shift_the_others(tmp_path: Path) -> None:
    of_job = job(tmp_path, 'videos = "v.csv"', {"v.csv": [",nobody,yes", "1,a,no", "1,b,maybe", "1,c,yes"]})
    of_job.write_text(of_job.read_text().replace("[examples]", "max_reject_fraction = 0.9\n[examples]"))
    assert catalogue(ingested(of_job)) == {"1": ("c", True)}
