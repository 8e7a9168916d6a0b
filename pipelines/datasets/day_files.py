"""Write watches of any order and number as one file per day, in bounded memory.

The rows are first written as they come, in pieces of `PIECE_ROWS`; then shared out to groups of neighbouring days with
about as many rows; then each group is sorted and cut into days. Disk space for two more copies of the logs is needed
until the end.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from transforms.core import files

PIECE_ROWS = 2_000_000


class DayFiles:
    """Collect watches (`user_id`, `video_id`, `time` and further columns) and write them by day of a time zone.

    scratch: a folder for the pieces, which `write` removes.
    """

    def __init__(self, scratch: Path, *, time_zone: str) -> None:
        self._scratch, self._zone = scratch, time_zone
        self._pieces = 0
        self._days: Counter[dt.date] = Counter()

    def add(self, watches: pl.DataFrame) -> None:
        """Add a piece of the logs."""
        if watches.is_empty():
            return
        dated = watches.with_columns(day=self._day())
        self._days.update(dict(dated["day"].value_counts().iter_rows()))
        files.write_parquet(dated, str(self._scratch / "pieces"), f"{self._pieces:05d}.parquet")
        self._pieces += 1

    def write(self, folder: Path, cutoffs: pl.DataFrame | None) -> dict[dt.date, int]:
        """Write `folder/YYYY-MM-DD.parquet`, each sorted by time, user and video. Return the rows of each day.

        cutoffs: `user_id`, `cut_time` and `cut_video`; the rows of these users from that watch on are left out.
        """
        rows: dict[dt.date, int] = {}
        groups = self._groups()
        for group in self._share_out(groups):
            for day, watches in self._by_day(group, cutoffs):
                files.write_parquet(watches, str(folder), f"{day}.parquet")
                rows[day] = watches.height
        shutil.rmtree(self._scratch, ignore_errors=True)
        return rows

    def _day(self) -> pl.Expr:
        return pl.col("time").dt.convert_time_zone(self._zone).dt.date()

    def _groups(self) -> list[dt.date]:
        """Return the first days of groups of days with at most `PIECE_ROWS` rows, or one day."""
        firsts: list[dt.date] = []
        rows = PIECE_ROWS
        for day in sorted(self._days):
            if rows + self._days[day] > PIECE_ROWS:
                firsts.append(day)
                rows = 0
            rows += self._days[day]
        return firsts

    def _share_out(self, firsts: list[dt.date]) -> Iterator[Path]:
        """Yield a folder with the rows of each group."""
        pieces = self._scratch / "pieces"
        if len(firsts) < 2:
            yield pieces
            return
        starts = pl.Series(firsts, dtype=pl.Date)
        for path in sorted(pieces.iterdir()):
            piece = files.read_parquet(str(path))
            group = starts.search_sorted(piece["day"], side="right").alias("group")
            for (number,), rows in piece.with_columns(group - 1).partition_by("group", as_dict=True).items():
                files.write_parquet(rows.drop("group"), str(self._scratch / f"group-{number:05d}"), path.name)
            path.unlink()
        yield from sorted(self._scratch.glob("group-*"))

    def _by_day(self, folder: Path, cutoffs: pl.DataFrame | None) -> Iterator[tuple[dt.date, pl.DataFrame]]:
        paths = sorted(map(str, folder.iterdir())) if folder.exists() else []
        if not paths:
            return
        watches = pl.concat((files.read_parquet(path) for path in paths), how="diagonal")
        if cutoffs is not None:
            watches = watches.join(cutoffs, on="user_id", how="left")
            is_left = (pl.col("time") < pl.col("cut_time")) | (
                (pl.col("time") == pl.col("cut_time")) & (pl.col("video_id") < pl.col("cut_video"))
            )
            watches = watches.filter(pl.col("cut_time").is_null() | is_left).drop("cut_time", "cut_video")
        ordered = watches.sort("time", "user_id", "video_id")
        for (day,), rows in ordered.partition_by("day", as_dict=True, maintain_order=True).items():
            yield day, rows.drop("day")
