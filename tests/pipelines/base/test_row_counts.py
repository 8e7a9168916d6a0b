"""Every row of every table is kept or counted under why it was not, over several nights."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from nights import DATE, night
from stores import DAYS, PATHS, USERS, counts, daily, day_of_watches, events, ingested, newest, write_day

from pipelines import ingest
from pipelines.base import row_counts
from pipelines.night.errors import StageError
from transforms.core import files
from transforms.core.records import Records
from transforms.logs.ingest import RECORDS, DuplicateRows, RejectedFile, RejectedRows, ReplacedFile, RowsRead


def test_an_account_of_records() -> None:
    records = [
        RowsRead(table="watches", read=7, rejected=2, forgotten=1, other_days=0),
        RowsRead(table="watches", read=3, rejected=0, forgotten=0, other_days=1),
        DuplicateRows(table="watches", duplicates=2),
        RejectedRows(table="watches", reason="b", rows=1),
        RejectedRows(table="watches", reason="a", rows=1),
        RejectedFile("x.parquet"),
        ReplacedFile("y.parquet"),
    ]
    found = row_counts.from_records(Records(RECORDS, records))
    expected = {"read": 10, "refused": 2, "duplicates": 2, "forgotten": 1, "other_days": 1, "kept": 4}
    assert found["tables"] == {"watches": expected}
    assert list(found["rejects"]) == ["watches: a", "watches: b"] and found["rejects_files"] == ["x.parquet"]
    twice = row_counts.total([found, found, row_counts.from_removed("watches", "expired", 3)])
    assert twice["tables"]["watches"] == {name: 2 * rows for name, rows in expected.items()}
    assert twice["removed"] == {"watches": {"expired": 3}} and twice["rejects"] == {"watches: a": 2, "watches: b": 2}
    assert row_counts.total([]) == row_counts.from_removed("watches", "expired", 0)


def raw_rows(folder: Path) -> dict[str, int]:
    """Rows of all raw files by table, counted without the reader: lines, or what Parquet says."""
    found = {}
    for table, below in (("watches", "w"), ("searches", "s"), ("users", "users.csv")):
        paths = [folder / below] if below.endswith("csv") else sorted((folder / below).iterdir())
        csv = [len(path.read_text().splitlines()) - 1 for path in paths if path.suffix == ".csv"]
        found[table] = sum(csv) + sum(pl.read_parquet(path).height for path in paths if path.suffix == ".parquet")
    return found


def test_rows_in_are_rows_kept_and_each_kind_left_out_over_several_nights(tmp_path: Path) -> None:
    (tmp_path / "forget.csv").write_text(f"user_id\n{USERS[0]}\n")
    logs = PATHS.replace("w/{date}.parquet", "w").replace("s/{date}.parquet", "s")
    job = daily(tmp_path, '[privacy]\nforget = "forget.csv"\n[storage]\nkeep_days = 5\n', days=DAYS[:3], logs=logs)
    bad = "user_id,video_id,time,watch_seconds\n1u,v,never,1\n0u,v,never,1\n,v,2026-11-18,1\n1u,v,2026-11-18,1\n1u,v\n"
    (tmp_path / "w" / "bad.csv").write_text(bad)
    (tmp_path / "users.csv").write_text("user_id,birth_year\n1u,1990\n1u,1991\n2u,x\n0u,1990\n3u,\n")
    reads: list[tuple[dt.date, dict[str, int]]] = []
    seen = dict.fromkeys(("watches", "searches"), 0)
    for number in range(6):
        date = DATE + dt.timedelta(days=number)
        if number == 1:  # late events, some of them twice
            late = pl.concat([day_of_watches(DAYS[1], 4), day_of_watches(DAYS[0], 3, "l")])
            write_day(tmp_path, f"{DAYS[1]}-late", late)
        if number == 2:
            (tmp_path / "forget.csv").write_text(f"user_id\n{USERS[0]}\n{USERS[4]}\n")
        write_day(tmp_path, f"{date}", day_of_watches((date - dt.timedelta(days=1)).isoformat()))
        ingested(job, date)
        if number == 3:  # more on the same date
            write_day(tmp_path, f"{date}-more", day_of_watches(DAYS[2], 5, "m"))
            ingested(job, date)
        now = raw_rows(tmp_path)
        reads.append((date, {table: now[table] - seen[table] for table in seen} | {"users": now["users"]}))
        seen = {table: now[table] for table in seen}
    stored = dict.fromkeys(seen, 0)
    left_out = dict.fromkeys(row_counts.LEFT_OUT, 0)
    for date, read in reads:
        found: Any = counts(night(job, date))
        for table, rows in found["tables"].items():
            assert rows["read"] == read[table] == rows["kept"] + sum(rows[why] for why in row_counts.LEFT_OUT)
            left_out = {why: left_out[why] + rows[why] for why in left_out}
        assert sum(found["rejects"].values()) == sum(rows["refused"] for rows in found["tables"].values())
        rejected = [files.read_parquet(path) for path in files.list_files(night(job, date).root.rejects(date))]
        assert sum(frame.height for frame in rejected) == sum(found["rejects"].values())
        for table in stored:
            stored[table] += found["tables"].get(table, {"kept": 0})["kept"]
            stored[table] -= sum(found["removed"].get(table, {}).values())
            assert stored[table] == found["rows"][table]
    of = night(job, reads[-1][0])
    assert stored == {table: events(of, table).height for table in stored}
    assert all(left_out[why] for why in ("refused", "duplicates", "forgotten")), left_out
    removed: Any = row_counts.total(newest(of).accounts.values())["removed"]
    assert set(removed["watches"]) == {"forgotten", "expired"}


def test_on_a_night_without_new_logs_the_users_table_is_checked_too(tmp_path: Path) -> None:
    job = daily(tmp_path)
    of = ingested(job)
    (tmp_path / "users.csv").write_text("user_id,birth_year\n1u,x\n2u,1990\n")
    tables: Any = counts(ingested(job))["tables"]
    assert tables["users"]["refused"] == 1 and tables["watches"]["read"] == 72
    (tmp_path / "users.csv").write_text("user_id,birth_year\n1u,x\n2u,y\n")
    with pytest.raises(StageError, match=r"2 of 2 rows were rejected, .*users: birth_year cannot be read"):
        ingest.run(of)


def test_a_second_ingest_of_a_date_adds_to_the_first_one_s_account(tmp_path: Path) -> None:
    job = daily(tmp_path)
    job.write_text(job.read_text().replace("w/{date}.parquet", "w"))
    (tmp_path / "w" / "bad.csv").write_text("user_id,video_id,time,watch_seconds\n1u,v,never,1\n")
    ingested(job)
    (tmp_path / "w" / "more.csv").write_text("user_id,video_id,time,watch_seconds\n1u,v,never,1\n1u,v,2026-11-18,1\n")
    of = ingested(job)
    found: Any = counts(of)
    assert found["tables"]["watches"]["read"] == 75 and found["tables"]["watches"]["refused"] == 2
    assert found["rejects"] == {"watches: time cannot be read": 2}
    assert len(files.list_files(of.root.rejects(DATE))) == 2
