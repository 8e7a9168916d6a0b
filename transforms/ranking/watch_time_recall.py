"""Whether ranking helps: how much of what held-out users then watched stands first in a list, by either order.

    gain = WatchTime.of(wanted, lists, cut=10, drawn=drawn)["neighbours"], ...

Watch-time recall@cut: the seconds watched of the videos among the first `cut`, by the seconds watched of all that was
completed. Both orders are of the same videos and users, and compared by paired bootstrap (`bootstrap`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core.bootstrap import PairedDifference, Replicates, Weights, interval
from transforms.core.records import JsonModel

ORDERS = ("neighbours", "ranking")


def wanted_of(watches: pl.DataFrame) -> pl.DataFrame:
    """user_id, video_id, seconds (whole) of what users completed, from watches (user_id, video_id, completed,
    watch_seconds); a video whose seconds nobody logged counts as one."""
    seconds = pl.col("watch_seconds").sum().round().cast(pl.Int64).clip(1)
    done = watches.with_columns(pl.col("completed").any().over("user_id", "video_id")).filter("completed")
    return done.group_by("user_id", "video_id").agg(seconds=seconds)


def seconds_found(lists: pl.DataFrame, wanted: pl.DataFrame, cut: int) -> NDArray[np.int64]:
    """The seconds wanted that are among the first `cut` of each list (user_id, video_ids): [lists]."""
    heads = lists.select("user_id", video_id=pl.col("video_ids").list.head(cut)).with_row_index("row")
    rows = heads.explode("video_id", empty_as_null=False, keep_nulls=False)
    found = rows.join(wanted, on=["user_id", "video_id"]).group_by("row").agg(pl.col("seconds").sum())
    total = np.zeros(lists.height, np.int64)
    total[found["row"].to_numpy()] = found["seconds"].to_numpy()
    return total


class RankedRecall(JsonModel):
    """Watch-time recall of one order of the lists, with its 95 % interval."""

    interval: tuple[float, float]
    recall: float


class MeasuredRanking(JsonModel):
    """What re-ranking adds: both recalls, and that of ranking less that of neighbours; no recalls without seconds."""

    cut: int = 0
    difference: PairedDifference | None = None
    neighbours: RankedRecall | None = None
    ranking: RankedRecall | None = None
    users: int
    wanted_seconds: int


@dataclass(frozen=True, kw_only=True)
class WatchTime:
    """Seconds wanted, and found by either order, over some users, with replicates; merges exactly."""

    users: int
    sums: dict[str, int]  # wanted, and by order
    replicates: Replicates

    @classmethod
    def of(cls, columns: Mapping[str, NDArray[np.int64]], drawn: Weights) -> WatchTime:
        """columns: `wanted` and, by each of `ORDERS`, what was found, [users]; drawn: the users' `weights`."""
        sums = {name: int(column.sum()) for name, column in columns.items()}
        return cls(users=len(drawn), sums=sums, replicates=Replicates.from_columns(drawn, columns))

    def merge(self, other: WatchTime) -> WatchTime:
        """Those of the users of both, which must be disjoint."""
        return WatchTime(
            users=self.users + other.users,
            sums={name: self.sums[name] + other.sums[name] for name in self.sums},
            replicates=self.replicates.merge(other.replicates),
        )

    def compute(self) -> MeasuredRanking:
        """Return the recalls; without seconds wanted, the number of users alone."""
        if not self.sums["wanted"]:
            return MeasuredRanking(users=self.users, wanted_seconds=0)
        shares = {order: self.replicates.ratio(order, "wanted") for order in ORDERS}
        recalls = {order: self.sums[order] / self.sums["wanted"] for order in ORDERS}
        low, high = interval(shares["ranking"] - shares["neighbours"])
        return MeasuredRanking(
            users=self.users,
            wanted_seconds=self.sums["wanted"],
            **{order: RankedRecall(recall=recalls[order], interval=interval(shares[order])) for order in ORDERS},
            difference=PairedDifference(value=recalls["ranking"] - recalls["neighbours"], low=low, high=high),
        )
