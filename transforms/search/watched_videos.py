"""The videos that users must not be shown: those they have watched, and the pairs of `[logs] hidden`.

store files of a bucket -> read_watched -> WatchedVideos: positions of the index by user, a few bytes per pair
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.logs.event_window import Window
from transforms.logs.schemas import WATCH_SCHEMA

Exclude = Literal["completed", "watched", "none"]
FILES_AT_ONCE = 32  # with exclude_days a bucket may have years of files; their pairs are reduced after each batch
_COLUMNS = ("user_id", "time", "video_id", "completed")


@dataclass(frozen=True, kw_only=True)
class WatchedVideos:
    """Positions by user: those of the user in row i of `users` are positions[offsets[i]:offsets[i + 1]]."""

    users: pl.DataFrame  # user_id (distinct), row
    offsets: NDArray[np.int64]
    positions: NDArray[np.int32]

    @classmethod
    def from_pairs(cls, pairs: pl.DataFrame) -> WatchedVideos:
        """Build it from user_id, position (Int32), repeats allowed."""
        by_user = pairs.group_by("user_id").agg(pl.col("position").unique()).sort("user_id")
        return cls(
            users=by_user.select("user_id").with_row_index("row"),
            offsets=_offsets(by_user["position"].list.len().to_numpy()),
            positions=by_user["position"].explode(empty_as_null=False).to_numpy(),
        )

    def for_users(self, user_ids: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return (offsets, positions) of some users, in the order given, as `Excluded` takes them."""
        wanted = pl.DataFrame({"user_id": user_ids}, schema={"user_id": pl.String})
        rows = wanted.join(self.users, on="user_id", how="left", maintain_order="left")["row"]
        row = rows.fill_null(0).to_numpy().astype(np.int64)
        counts = np.where(rows.is_null(), 0, np.diff(self.offsets, append=0)[row])
        offsets = _offsets(counts)
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        return offsets, self.positions[np.repeat(self.offsets[row], counts) + place]


def _offsets(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def watched_pairs(watches: pl.DataFrame, exclude: Exclude) -> pl.DataFrame:
    """Return user_id, video_id of the watches that `exclude` keeps out of the lists, with repeats."""
    if exclude == "none":
        watches = watches.clear()
    return (watches.filter("completed") if exclude == "completed" else watches).select("user_id", "video_id")


def read_watched(
    window: Window, paths: Sequence[str], exclude: Exclude, hidden: pl.DataFrame, positions: pl.DataFrame
) -> WatchedVideos:
    """Read the videos that the users of a bucket must not be shown.

    paths: store files of its watches, of which those in `window` count. hidden: user_id, video_id of pairs never to be
    shown. positions: video_id, position (Int32) of the index.
    """

    def to_positions(pairs: pl.DataFrame) -> pl.DataFrame:
        return pairs.join(positions, on="video_id").select("user_id", "position").unique()

    def watched() -> Iterator[pl.DataFrame]:
        for start in range(0, len(paths), FILES_AT_ONCE):
            watches = window.read_events(paths[start : start + FILES_AT_ONCE], WATCH_SCHEMA, _COLUMNS)
            yield to_positions(watched_pairs(watches, exclude))

    return WatchedVideos.from_pairs(pl.concat([to_positions(hidden), *(watched() if exclude != "none" else ())]))
