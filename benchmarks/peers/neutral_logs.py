"""Convert the logs of a night to neutral tables, which every peer reads: `protocol.read_logs`.

    interactions.parquet   user, item (numbers from 0), time: the completed watches in time order
    users.parquet          user_id, of user number 0, 1, ...
    items.parquet          video_id, of item number 0, 1, ...
    truth.parquet          user_id, video_id: the pairs that lists are scored on

Peers learn from completed watches alone. Watches that were not completed, and what the logs say of users and videos,
are read by watchnext and by none of the peers.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

from benchmarks.real_logs import write_logs


def prepare(path: Path, name: str, folder: Path) -> None:
    """Write the logs and their neutral tables to folder/validation and folder/test, unless they are there."""
    for part in ("validation", "test"):
        if (folder / part).exists():
            continue
        scratch = folder / f"{part}.partial"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        truth = write_logs(path, name, scratch / "logs", validation=part == "validation")
        write_neutral(scratch / "logs" / "watches", truth, scratch)
        scratch.rename(folder / part)


def write_neutral(watches: Path, truth: Path, folder: Path) -> None:
    """Write the neutral tables of a folder of watches and a table of pairs to an existing folder."""
    columns = ["user_id", "video_id", "time", "completed"]
    logs = pl.concat([pl.read_parquet(path, columns=columns) for path in sorted(watches.glob("*.parquet"))])
    done = logs.filter("completed").sort("time", "user_id", maintain_order=True)
    numbers = []
    for column, name in (("user_id", "user"), ("video_id", "item")):
        ids = done[column].unique().sort()
        pl.DataFrame({column: ids}).write_parquet(folder / f"{name}s.parquet")
        numbers.append(pl.col(column).cast(pl.Enum(ids)).to_physical().cast(pl.Int64).alias(name))
    done.select(*numbers, "time").write_parquet(folder / "interactions.parquet")
    pl.read_parquet(truth, columns=["user_id", "video_id"]).unique().write_parquet(folder / "truth.parquet")
