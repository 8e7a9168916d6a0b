"""Watch-time recall: the share of held-out users' watch time that is at the top of a list, before and after ranking.

    wanted = completed_seconds(watches)
    columns = {order: seconds_in_lists(lists, wanted, cut) for order, lists in orders.items()}
    WatchTime.from_columns({"wanted": totals, **columns}, weights).compute().difference

Watch-time recall@cut is the seconds watched of videos among the first `cut`, divided by the seconds watched of all
completed videos. Both orders have the same videos and users, and are compared by paired bootstrap (`bootstrap`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core.bootstrap import PairedDifference, Replicates, Weights, interval
from transforms.core.json_model import JsonModel

ORDERS = ("neighbours", "ranking")


def completed_seconds(watches: pl.DataFrame) -> pl.DataFrame:
    """Return user_id, video_id, seconds (integer, at least 1) of the videos that users completed.

    watches: user_id, video_id, completed, watch_seconds (null: not logged).
    """
    seconds = pl.col("watch_seconds").sum().round().cast(pl.Int64).clip(1)
    done = watches.with_columns(pl.col("completed").any().over("user_id", "video_id")).filter("completed")
    return done.group_by("user_id", "video_id").agg(seconds=seconds)


def seconds_in_lists(lists: pl.DataFrame, wanted: pl.DataFrame, cut: int) -> NDArray[np.int64]:
    """Return the `completed_seconds` among the first `cut` of each list (user_id, video_ids): [lists]."""
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
    """The effect of re-ranking: both recalls, and ranking minus neighbours; without watch time there are no recalls."""

    cut: int = 0
    difference: PairedDifference | None = None
    neighbours: RankedRecall | None = None
    ranking: RankedRecall | None = None
    users: int
    wanted_seconds: int


@dataclass(frozen=True, kw_only=True)
class WatchTime:
    """Completed seconds of some users, and those at the top of either order, with replicates. It merges exactly."""

    users: int
    sums: dict[str, int]  # `wanted`, and each of `ORDERS`
    replicates: Replicates

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[np.int64]], drawn: Weights) -> WatchTime:
        """Sum up users. columns: `wanted` and each of `ORDERS`, in seconds, [users]. drawn: the users' `weights`."""
        sums = {name: int(column.sum()) for name, column in columns.items()}
        return cls(users=len(drawn), sums=sums, replicates=Replicates.from_columns(drawn, columns))

    def merge(self, other: WatchTime) -> WatchTime:
        """Return the sums of the users of both, which must be disjoint."""
        return WatchTime(
            users=self.users + other.users,
            sums={name: self.sums[name] + other.sums[name] for name in self.sums},
            replicates=self.replicates.merge(other.replicates),
        )

    def compute(self) -> MeasuredRanking:
        """Return the recalls; without watch time, only the number of users."""
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
