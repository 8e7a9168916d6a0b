"""Small logs with a file a day, and what a store made of them, for the tests of ingest and of what changes a store."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
from nights import DATE, night, write_job

from pipelines import ingest
from pipelines.base import manifest, snapshot_store
from pipelines.night.night import Night
from transforms.core import files

FIRST = DATE - dt.timedelta(days=4)
DAYS = [(FIRST + dt.timedelta(days=n)).isoformat() for n in range(4)]
PATHS = 'watches = "w/{date}.parquet"\nsearches = "s/{date}.parquet"\nusers = "users.csv"\nmax_reject_fraction = 0.5'
SHOWN = 'impressions = "i/{date}.parquet"'  # further lines of [logs]
WINDOW = "[examples]\nwindow_days = 4\n"
USERS = [f"{n}u" for n in range(9)]


def day_of_watches(day: str, count: int = 18, mark: str = "") -> pl.DataFrame:
    """Watches of one day, an hour and more apart, two a user."""
    first = dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC)
    return pl.DataFrame(
        {
            "user_id": [USERS[n % len(USERS)] for n in range(count)],
            "video_id": [f"{n % 5}v{mark}" for n in range(count)],
            "time": [first + dt.timedelta(hours=n) for n in range(count)],
            "watch_seconds": [float(n * 7 % 50) for n in range(count)],
        }
    )


def searches_of(watches: pl.DataFrame) -> pl.DataFrame:
    return watches.select("user_id", "time", query=pl.lit("jazz ") + pl.col("video_id"))[::3]


def impressions_of(watches: pl.DataFrame) -> pl.DataFrame:
    """Pages of three videos, one of them clicked: the watch of a minute later."""
    pages = watches.with_row_index("page").join(pl.DataFrame({"at": [0, 1, 2]}), how="cross")
    return pages.select(
        "user_id",
        pl.when(pl.col("at") == pl.col("page") % 3).then("video_id").otherwise(pl.format("other{}", "at")),
        time=pl.col("time") - dt.timedelta(minutes=1),
        page_id=pl.format("p{}-{}", "page", pl.col("time").dt.date()),
        clicked=pl.col("at") == pl.col("page") % 3,
        watch_seconds="watch_seconds",
    )


def write_day(folder: Path, day: str, watches: pl.DataFrame) -> None:
    """The files of one day."""
    for table, rows in (("w", watches), ("s", searches_of(watches)), ("i", impressions_of(watches))):
        (folder / table).mkdir(parents=True, exist_ok=True)
        rows.write_parquet(folder / table / f"{day}.parquet")


def daily(folder: Path, more: str = "", days: list[str] = DAYS, logs: str = PATHS) -> Path:
    """Logs of some days, a users table, and their job."""
    for day in days:
        write_day(folder, day, day_of_watches(day))
    (folder / "users.csv").write_text("user_id,gender\n" + "".join(f"{user},f\n" for user in USERS))
    return write_job(folder, logs, f"{WINDOW}{more}")


def ingested(job: Path, date: dt.date = DATE, *reingest: str) -> Night:
    """A night whose ingest is done."""
    of = Night(night(job).job, date, reingest=tuple(dt.date.fromisoformat(day) for day in reingest))
    ingest.run(of)
    return Night(of.job, date)


def newest(of: Night) -> snapshot_store.Snapshot:
    found = snapshot_store.latest(of.root.snapshots)
    assert found is not None
    return found


def counts(of: Night) -> dict[str, object]:
    return dict(manifest.require(of.folder("ingest"), "ingest").figures)


def events(of: Night, table: str = "watches", snapshot: snapshot_store.Snapshot | None = None) -> pl.DataFrame:
    """All events a snapshot lists, in order."""
    listed = (snapshot or newest(of)).files
    frames = [files.read_parquet(f"{of.root.store}/{f.file.name}") for f in listed if f.table == table]
    return pl.concat(frames).sort("user_id", "time", "query" if table == "searches" else "video_id")


def same(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    """Whether two tables of events hold the same rows, whatever types their raw files had."""
    names = [name for name in other.columns if name in one.columns and name != "watch_seconds"]
    return one.select(names).sort(names).equals(other.select(names).sort(names))


def below(of: Night) -> set[str]:
    """Paths of the store's data files that are on disk."""
    return {path for path in files.list_files(of.root.store) if path.endswith(".parquet")}


def all_bytes(folder: str) -> bytes:
    """Everything that lies below a folder, Parquet read out: what a search for an id must not find."""
    parts = []
    for path in files.list_files(folder):
        parts.append(path.encode())
        if path.endswith(".parquet"):
            parts.append(pl.read_parquet(path).write_json().encode())
        else:
            parts.append(Path(path).read_bytes())
    return b"\n".join(parts)
