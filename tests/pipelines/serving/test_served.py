"""What a user watched before, and what they are told of it and of lists that are not theirs."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl
import pytest
from commands import watchnext
from nights import DATE, DEFAULTS, night, published_night, write_job

from pipelines import lookup
from pipelines.base import paths, snapshot_store
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.serving.served import Served
from transforms.core import files
from transforms.core.digests import bucket_of
from transforms.logs.schemas import WATCH_SCHEMA

LISTS = pl.DataFrame(
    {"user_id": ["ann", "bob"], "video_ids": [["v1", "v2"], ["v3"]], "scores": [[3.0, 2.0], [1.0]]},
    schema_overrides={"scores": pl.List(pl.Float32)},
)
Row = tuple[str, float, str, bool]  # user, days before DATE, video, completed
WATCHES: list[Row] = [
    ("ann", 0.5, "v1", True),
    ("ann", 0.5, "v0", False),
    ("ann", 1.5, "v2", False),
    ("ann", 1.6, "v3", True),
    ("bob", 1.5, "v3", True),
    ("ann", 30.0, "too old", True),
    ("ann", -0.5, "of DATE itself", True),
]


@pytest.fixture
def published(tmp_path: Path) -> Night:
    """A published night with default lists and watches of some days in its store."""
    of = published_night(write_job(tmp_path, 'watches = "w"'), LISTS, defaults=DEFAULTS)
    keep_watches(of, WATCHES)
    return night(tmp_path / "job.toml")


def keep_watches(of: Night, rows: Iterable[Row]) -> None:
    """The night's snapshot with these watches: a file a day and bucket."""
    frame = pl.DataFrame(
        [
            {"user_id": user, "time": of.dates.end - dt.timedelta(days=days), "video_id": video, "completed": completed}
            for user, days, video, completed in rows
        ],
        WATCH_SCHEMA,
    ).with_columns(
        day=pl.col("time").dt.date().cast(pl.String),
        bucket=pl.col("user_id").map_elements(lambda user: bucket_of(user, 8), pl.Int64),
    )
    listed = []
    for (day, bucket), part in frame.partition_by("day", "bucket", as_dict=True).items():
        name = f"watches/{day}/{paths.shard(bucket, 8, 'aa', 'parquet')}"
        entry = files.write_parquet(part.drop("day", "bucket"), of.root.store, name)
        listed.append(snapshot_store.StoreFile(table="watches", day=day, bucket=bucket, file=entry))
    snapshot_store.commit(of.root.snapshots, snapshot_store.Snapshot(buckets=8, number=1, files=listed))


def watches_of(of: Night, user: str, n: int) -> list[tuple[float, str, bool]]:
    """(days before DATE, video, completed) of a user's last watches."""
    found = Served.open(of.job, "files").last_watches(user, n).rows()
    return [((of.dates.end - time) / dt.timedelta(days=1), video, completed) for time, video, completed in found]


def test_the_last_watches_are_those_of_the_window_newest_first(published: Night) -> None:
    everything = [(0.5, "v0", False), (0.5, "v1", True), (1.5, "v2", False), (1.6, "v3", True)]
    for n in range(6):
        assert watches_of(published, "ann", n) == everything[:n]
    assert watches_of(published, "bob", 5) == [(1.5, "v3", True)]
    assert watches_of(published, "nobody", 5) == []


def test_only_files_of_the_bucket_and_days_are_read(published: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def noted(read: Callable[..., pl.DataFrame]) -> Callable[..., pl.DataFrame]:
        def reading(path: str | list[str], *args: object) -> pl.DataFrame:
            opened.extend([path] if isinstance(path, str) else path)
            return read(path, *args)

        return reading

    monkeypatch.setattr("pipelines.serving.served._DAYS_AT_ONCE", 1)
    monkeypatch.setattr(files, "find_in_parquet", noted(files.find_in_parquet))
    monkeypatch.setattr(files, "read_parquet", noted(files.read_parquet))
    monkeypatch.setattr(files, "read_parquets", noted(files.read_parquets))
    served = Served.open(published.job, "files")
    served.list_of("ann")
    (path,) = opened
    assert path.endswith(f"/neighbours/{bucket_of('ann', 8):05d}-of-00008-aa.parquet")
    opened.clear()
    served.last_watches("ann", 2)
    assert len(opened) == 1 and f"/{DATE - dt.timedelta(days=1)}/{bucket_of('ann', 8):05d}-of-" in opened[0]


def test_a_snapshot_that_is_gone_leaves_no_watches(published: Night) -> None:
    files.remove_files([snapshot_store.path_of(published.root.snapshots, 1)])
    snapshot_store.commit(published.root.snapshots, snapshot_store.Snapshot(buckets=8, number=2))
    assert watches_of(published, "ann", 5) == []


def test_an_unknown_user_is_shown_the_default_list(published: Night) -> None:
    job = Path(published.root.path).parent / "job.toml"
    done = watchnext("lookup", job, "nobody")
    assert done.code == 1 and done.message.splitlines() == [
        "user 'nobody' has no list: no watches or searches in the window of 2026-11-21",
        "a server shows the default list of all countries instead, the first 2 of 2:",
        "",
        "  1  2.0000  v9",
        "  2  1.0000  v8",
    ]
    assert "default list of SE" in watchnext("lookup", job, "nobody", "--country", "SE").message
    message = json.loads(watchnext("lookup", job, "nobody", "--country", "SE", "--json").message)
    assert (message["known"], message["country"], [item["video_id"] for item in message["items"]]) == (
        False,
        "SE",
        ["v1"],
    )


def test_watches_are_shown_in_the_time_zone_of_the_logs(published: Night) -> None:
    path = Path(published.root.path).parent / "job.toml"
    path.write_text('[logs]\nwatches = "w"\ntime_zone = "Asia/Tokyo"\n')
    assert watchnext("lookup", path, "ann", "--watches", "2").message.splitlines()[-3:] == [
        "last watches, times in JST",
        "  2026-11-20 21:00  in part    v0",
        "  2026-11-20 21:00  completed  v1",
    ]
    found = lookup.lookup(load_job(str(path)), "ann", 1, watches=1)
    assert found.watches[0].time.isoformat() == "2026-11-20T21:00:00+09:00"
    assert json.loads(watchnext("lookup", path, "ann", "--json", "--watches", "1").message)["watches"] == [
        {"time": "2026-11-20T21:00:00+09:00", "video_id": "v0", "title": None, "completed": False}
    ]
    done = watchnext("lookup", path, "ann", "--watches", "0")
    assert done.code == 0 and "last watches" not in done.message
