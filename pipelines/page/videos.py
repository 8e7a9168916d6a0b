"""The videos of a publication in memory: titles, lengths, and a search by id or title.

videos = Videos.read(night, similar_ids)
videos.search("piano blues", 50)     # (total, the first 50), the best matches first
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from pipelines.night.night import Night
from transforms.core import files

COLUMNS = pl.Schema(
    {
        "video_id": pl.String(),
        "title": pl.String(),
        "video_seconds": pl.Float64(),
        "channel": pl.String(),
        "language": pl.String(),
        "upload_time": pl.Datetime("us", "UTC"),
        "available": pl.Boolean(),
    }
)


@dataclass(frozen=True)
class Videos:
    """The catalogue of a night. Without a catalogue, the videos that have similar ones, without titles."""

    frame: pl.DataFrame  # `COLUMNS`, one row per video

    @classmethod
    def read(cls, night: Night, ids: Callable[[], pl.Series]) -> Videos:
        """Read the catalogue of a night. ids: the videos of a night that has none."""
        path = night.ingested.catalogue()
        found = files.read_parquet(path) if path else pl.DataFrame({"video_id": ids()}, schema={"video_id": pl.String})
        known = found.select(name for name in COLUMNS if name in found.columns)
        added = {name: pl.lit(None) for name in COLUMNS if name not in found.columns}
        return cls(known.with_columns(**added).select(pl.col(name).cast(kind) for name, kind in COLUMNS.items()))

    def get(self, video_id: str) -> dict[str, Any] | None:
        """Return the values of `COLUMNS` of one video; None if it is not known."""
        found = self.frame.filter(video_id=video_id).head(1)
        return found.row(0, named=True) if found.height else None

    def lengths(self, video_ids: Iterable[str]) -> dict[str, float]:
        """Return the lengths of some videos in seconds, by id."""
        return self._values(video_ids, "video_seconds")

    def titles(self, video_ids: Iterable[str]) -> dict[str, str]:
        """Return the titles of some videos, by id."""
        return self._values(video_ids, "title")

    def search(self, text: str, limit: int) -> tuple[int, list[tuple[str, str | None]]]:
        """Return how many videos match a text, and id and title of the first `limit` of them.

        A video matches if its id begins with the text, or if its title contains each word of the text, in any case. The
        video with this id is first, then videos whose id or title begins with the text, each in the catalogue's order.
        """
        words = text.lower().split()
        if not words:
            return 0, []
        id_begins, title = pl.col("video_id").str.starts_with(text), pl.col("lower_title").fill_null("")
        has_words = pl.all_horizontal(title.str.contains(word, literal=True) for word in words)
        is_it, title_begins = pl.col("video_id") == text, title.str.starts_with(text.lower().strip())
        order = pl.when(is_it).then(0).when(id_begins).then(1).when(title_begins).then(2).otherwise(3)
        found = self._searched.filter(id_begins | has_words).with_columns(order=order)
        first = found.sort("order", maintain_order=True).head(limit)
        return found.height, list(first.select("video_id", "title").iter_rows())

    @cached_property
    def _searched(self) -> pl.DataFrame:
        return self.frame.select("video_id", "title", lower_title=pl.col("title").str.to_lowercase())

    def _values(self, video_ids: Iterable[str], column: str) -> dict[str, Any]:
        wanted = pl.DataFrame({"video_id": list(video_ids)}, schema={"video_id": pl.String})
        return dict(
            self.frame.select("video_id", column).join(wanted, on="video_id", how="semi").drop_nulls().iter_rows()
        )
