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

from transforms.logs.event_window import COMPLETED_COLUMNS, Window
from transforms.logs.schemas import WATCH_SCHEMA
from transforms.search.exclusions import Excluded

Exclude = Literal["completed", "watched", "none"]
FILES_AT_ONCE = 32  # with exclude_days a bucket may have years of files; their pairs are reduced after each batch


@dataclass(frozen=True, kw_only=True)
class WatchedVideos:
    """The exclusions of the users of a bucket."""

    users: pl.DataFrame  # user_id (distinct), row of `excluded`
    excluded: Excluded  # one row more than users: the last excludes nothing

    @classmethod
    def from_pairs(cls, pairs: pl.DataFrame) -> WatchedVideos:
        """Build it from user_id, position (Int32), repeats allowed."""
        by_user = pairs.group_by("user_id").agg(pl.col("position").unique()).sort("user_id")
        counts = np.append(by_user["position"].list.len().to_numpy(), 0)
        return cls(
            users=by_user.select("user_id").with_row_index("row"),
            excluded=Excluded(
                offsets=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
                positions=by_user["position"].explode(empty_as_null=False).to_numpy(),
            ),
        )

    def restrict(self, positions: NDArray[np.int64]) -> WatchedVideos:
        """Return the exclusions restricted to some positions (ascending), renumbered from 0."""
        return WatchedVideos(users=self.users, excluded=self.excluded.restrict(positions))

    def for_users(self, user_ids: Sequence[str]) -> Excluded:
        """Return the exclusions of some users, in the order given. Users without pairs exclude nothing."""
        wanted = pl.DataFrame({"user_id": user_ids}, schema={"user_id": pl.String})
        rows = wanted.join(self.users, on="user_id", how="left", maintain_order="left")["row"]
        return self.excluded.select(rows.fill_null(self.users.height).to_numpy().astype(np.int64))


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
            watches = window.read_events(paths[start : start + FILES_AT_ONCE], WATCH_SCHEMA, COMPLETED_COLUMNS)
            yield to_positions(watches.filter("completed") if exclude == "completed" else watches)

    return WatchedVideos.from_pairs(pl.concat([to_positions(hidden), *(watched() if exclude != "none" else ())]))
