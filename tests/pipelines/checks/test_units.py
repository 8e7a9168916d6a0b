"""Doctor's check of units: what it says of small logs whose values cannot be meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from findings import request_of
from nights import DATE, watch_rows

from pipelines.checks import units as doctor_units

SECONDS = pl.Series([30.0, 60.0, 600.0])


def found_in(folder: Path, watches: pl.DataFrame, **tables: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    watches.write_parquet(folder / "w.parquet")
    for name, rows in tables.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = "".join(f'{name} = "{name}.jsonl"\n' for name in tables)
    request = request_of(folder, f'watches = "w.parquet"\nmax_reject_fraction = 1.0\n{lines}')
    return [(one.check, one.state, one.what) for one in doctor_units.units(request)]


def with_seconds(unit: float) -> pl.DataFrame:
    rows = watch_rows()
    seconds = SECONDS.gather([at % len(SECONDS) for at in range(rows.height)])
    return rows.with_columns(watch_seconds=seconds * unit, country=pl.lit("US"))


def test_good_units_are_not_mentioned(tmp_path: Path) -> None:
    videos = [{"video_id": "v", "upload_time": "2026-11-01", "video_seconds": 600, "countries": "DE,AT"}]
    assert found_in(tmp_path, with_seconds(1), videos=videos, users=[{"user_id": 1, "birth_year": 1990}]) == []


@pytest.mark.parametrize(("unit", "state"), [(1_000, "problem"), (200, "warning")])
def test_milliseconds_are_named(unit: float, state: str, tmp_path: Path) -> None:
    ((check, found, what),) = found_in(tmp_path, with_seconds(unit))
    hours = 60 * unit / 3_600
    assert (check, found) == ("units.watches", state)
    assert what == f"half of the values of watch_seconds are above {hours:,.1f} hours: they are probably milliseconds"


def test_what_is_no_year_no_country_and_not_yet_uploaded_is_counted(tmp_path: Path) -> None:
    videos = [{"video_id": "v", "upload_time": "2026-12-24"}, {"video_id": "w", "upload_time": "2026-11-01"}]
    users: list[dict[str, Any]] = [
        {"user_id": 1, "birth_year": 19900101, "country": "UK"},
        {"user_id": 2, "birth_year": 1990},
    ]
    assert found_in(tmp_path, with_seconds(1), videos=videos, users=users) == [
        ("units.videos", "warning", f"1 of 2 upload times are after the night of {DATE}"),
        ("units.users", "warning", "1 of 2 values of birth_year are not a year from 1900 to this one"),
        ("units.users", "warning", "1 of 1 values of country are not ISO 3166 codes, such as UK"),
    ]
