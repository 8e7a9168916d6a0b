"""The files of a small night as the sinks are given them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from pipelines.night.sink_protocol import NightFiles

LISTS = [("ann", ["v1", "v2"], [2.0, 1.0]), ("bob", [], []), ("用户", ["v3"], [0.5])]


def night_files(folder: Path, date: str = "2026-11-21", lists: list[Any] = LISTS, attempt: str = "aa") -> NightFiles:
    """A night of two buckets, the second with one user and their vector, and two default lists."""
    folder = folder / f"{date}-{attempt}"
    (folder / "vectors").mkdir(parents=True)
    frame = pl.DataFrame(lists, schema=["user_id", "video_ids", "scores"], orient="row")
    for bucket, rows in enumerate((frame[:-1], frame[-1:])):
        rows.write_parquet(folder / f"{bucket:05d}-of-00008-{attempt}.parquet")
    vectors = pl.DataFrame({"user_id": frame["user_id"][-1:], "vector": [[0.25, 1.0]]})
    vectors.write_parquet(folder / "vectors" / f"00001-of-00008-{attempt}.parquet")
    defaults = {"country": [None, "SE"], "video_ids": [["v9"], ["v8", "v9"]], "scores": [[1.0], [2.0, 1.0]]}
    pl.DataFrame(defaults).write_parquet(folder / "defaults.parquet")
    return NightFiles(
        date=date,
        attempt=attempt,
        lists=tuple(map(str, sorted(folder.glob("0*.parquet")))),
        vectors=tuple(map(str, folder.glob("vectors/*.parquet"))),
        defaults=(str(folder / "defaults.parquet"),),
        users=len(lists),
    )
