"""The order of ranked lists: by expected seconds and the generator's order, weighed by what held-out users watched.

    sums = OrderSums.from_candidates(user_ids, candidates, seconds, wanted, cut=10).merge(sums_of_other_users)
    order = choose_order(sums, cut=10)
    order.weight                                   # of the lists to serve
    order_scores(seconds, generator, rank, order.weight)      # float32 [candidates]

The score of a video is log(expected seconds) + weight * (u.v + b), the generator's score, which estimates the log of
the probability that the user watches the video next, up to a constant of the user. Where the scores of a list do not
fall (`neighbours.diversity`), the smallest one so far counts, so that a large weight gives the order of the list.
Expected seconds alone, the paper's order (4.2), are those of an impression that is shown: they say little of what a
user looks for, and put long videos first.

The weight is chosen on held-out users, whose lists are ranked as of the start of the held-out days, by what they then
completed: of all weights of `GRID` that lose no recall@cut, the one with the most watch time among the first `cut`, or
the largest one whose watch time is within a standard error of that (Breiman and others: Classification and regression
trees, 1984, 3.4.3): it is closest to the neighbours' order. To measure held-out users, each half of them is ranked with
the weight that was chosen on the other half, so that nobody is measured with a weight that their own watches chose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core.bootstrap import PairedDifference, Replicates, interval, weights
from transforms.core.digests import id_digests
from transforms.core.json_model import JsonModel
from transforms.ranking.calibration import user_halves

OrderWeight = float | Literal["neighbours"]
NEIGHBOURS: Literal["neighbours"] = "neighbours"  # the order of stage neighbours, whatever the expected seconds
GRID: tuple[OrderWeight, ...] = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, NEIGHBOURS)
DEFAULT_WEIGHT = 6.0  # with fewer users to choose by: it changes places among neighbouring videos
LEAST_USERS = 200  # held-out users who completed a video, half of them in each half

Floats = NDArray[np.float64]


def as_numbers(order_weights: Sequence[OrderWeight]) -> Floats:
    """Return weights as floats, infinite for `NEIGHBOURS`."""
    return np.array([math.inf if weight == NEIGHBOURS else weight for weight in order_weights])


def order_scores(
    seconds: NDArray[Any], generator: NDArray[Any], rank: NDArray[Any], weight: float | Floats
) -> NDArray[np.float32]:
    """Return the score of each candidate, [n]; an infinite weight gives minus the rank.

    generator: scores that fall with the rank. weight: one, or that of each candidate.
    """
    finite = np.isfinite(weight)
    both = np.log(np.asarray(seconds, np.float64)) + np.where(finite, weight, 0) * np.asarray(generator, np.float64)
    return np.where(finite, both, -np.asarray(rank, np.float64)).astype(np.float32)


class OrderPoint(JsonModel):
    """The held-out users' lists by one weight. Differences are to the neighbours' order."""

    weight: OrderWeight
    recall: float  # of completed videos, in the first `cut`
    watch_time: float  # share of the seconds of completed videos, in the first `cut`
    recall_difference: PairedDifference
    watch_time_difference: PairedDifference
    watch_time_error: float = 0.0  # standard error of the difference to the most watch time that loses no recall


class ChosenOrder(JsonModel):
    """The weights that lists are ranked with, and why."""

    weight: OrderWeight  # of the lists to serve
    halves: tuple[OrderWeight, OrderWeight]  # of held-out users: for each half, chosen on the other half
    reason: str
    users: int = 0  # held-out users who completed a video
    curve: tuple[OrderPoint, ...] = ()  # by weight; empty if the weight was not chosen

    @property
    def weights(self) -> tuple[float, float, float]:
        """The weight of the lists to serve, and those of the held-out users' halves; infinite for `NEIGHBOURS`."""
        served, first, second = as_numbers([self.weight, *self.halves]).tolist()
        return served, first, second

    @classmethod
    def fixed(cls, weight: OrderWeight, reason: str) -> ChosenOrder:
        """Return the order by one weight."""
        return cls(weight=weight, halves=(weight, weight), reason=reason)


@dataclass(frozen=True, kw_only=True)
class OrderSums:
    """Completed videos of held-out users, and those in the first places by each weight, by half. It merges exactly."""

    users: tuple[int, int]  # who completed a video, in each half
    sums: dict[str, int]
    replicates: Replicates

    @classmethod
    def from_candidates(
        cls, user_ids: pl.Series, candidates: pl.DataFrame, seconds: NDArray[Any], wanted: pl.DataFrame, *, cut: int
    ) -> OrderSums:
        """Sum up the lists of some users, one for each of `user_ids`.

        candidates: list (row of `user_ids`), user_id, video_id, rank, generator. seconds: expected, of each candidate.
        wanted: `watch_time_recall.completed_seconds`.
        """
        rows = candidates.select("list", "video_id", user_id=pl.col("user_id").cast(pl.String))
        found = rows.join(wanted, on=["user_id", "video_id"], how="left", maintain_order="left")["seconds"].fill_null(0)
        totals = user_ids.to_frame("user_id").join(
            wanted.group_by("user_id").agg(pl.len().cast(pl.Int64), pl.col("seconds").sum()),
            on="user_id",
            how="left",
            maintain_order="left",
        )
        columns = {
            "videos": totals["len"].fill_null(0).to_numpy(),
            "seconds": totals["seconds"].fill_null(0).to_numpy(),
        }
        lists, rank, generator = (candidates[name].to_numpy() for name in ("list", "rank", "generator"))
        amounts = found.to_numpy()
        for number, weight in enumerate(as_numbers(GRID)):
            order = np.lexsort((rank, -order_scores(seconds, generator, rank, weight), lists))
            place = np.arange(len(order)) - np.searchsorted(lists[order], lists[order])
            first = order[place < cut]
            top, top_lists = amounts[first], lists[first]
            counts = {"videos": top > 0, "seconds": top}
            for name, values in counts.items():
                by_list = np.bincount(top_lists, weights=values, minlength=len(user_ids))
                columns[f"{name}_{number}"] = by_list.astype(np.int64)
        half, drawn = user_halves(user_ids), weights(id_digests(user_ids).to_numpy())
        by_half = {f"{name}_of_{h}": column * (half == h) for name, column in columns.items() for h in (0, 1)}
        return cls(
            users=(int((by_half["videos_of_0"] > 0).sum()), int((by_half["videos_of_1"] > 0).sum())),
            sums={name: int(column.sum()) for name, column in by_half.items()},
            replicates=Replicates.from_columns(drawn, by_half),
        )

    def merge(self, other: OrderSums) -> OrderSums:
        """Return the sums of the users of both, which must be disjoint."""
        return OrderSums(
            users=(self.users[0] + other.users[0], self.users[1] + other.users[1]),
            sums={name: total + other.sums[name] for name, total in self.sums.items()},
            replicates=self.replicates.merge(other.replicates),
        )

    def curve(self, halves: Sequence[int]) -> tuple[OrderPoint, ...]:
        """Return the figures of one half of the users or of both. They must have completed a video."""
        last = len(GRID) - 1
        points = [
            OrderPoint(
                weight=weight,
                recall=self._share("videos", number, halves),
                watch_time=self._share("seconds", number, halves),
                recall_difference=self._difference("videos", number, last, halves),
                watch_time_difference=self._difference("seconds", number, last, halves),
            )
            for number, weight in enumerate(GRID)
        ]
        best = GRID.index(max(losing_no_recall(points), key=lambda point: point.watch_time).weight)
        errors = [float(np.nanstd(self._differences("seconds", number, best, halves))) for number in range(len(GRID))]
        return tuple(
            point.model_copy(update={"watch_time_error": error}) for point, error in zip(points, errors, strict=True)
        )

    def _share(self, amount: str, number: int, halves: Sequence[int]) -> float:
        found, every = (sum(self.sums[f"{name}_of_{h}"] for h in halves) for name in (f"{amount}_{number}", amount))
        return found / every

    def _difference(self, amount: str, number: int, other: int, halves: Sequence[int]) -> PairedDifference:
        low, high = interval(self._differences(amount, number, other, halves))
        value = self._share(amount, number, halves) - self._share(amount, other, halves)
        return PairedDifference(value=value, low=low, high=high)

    def _differences(self, amount: str, number: int, other: int, halves: Sequence[int]) -> Floats:
        """Return the difference of the shares by two weights in each replicate: [REPLICATES], NaN without any."""
        names = (f"{amount}_{number}", f"{amount}_{other}", amount)
        found, compared, total = (
            np.sum([self.replicates.values(f"{name}_of_{h}") for h in halves], axis=0) for name in names
        )
        return np.divide(found - compared, total, out=np.full(len(total), np.nan), where=total > 0)


def choose_order(sums: OrderSums | None, *, cut: int) -> ChosenOrder:
    """Choose the weights on held-out users; `DEFAULT_WEIGHT` if too few of them completed a video. None: no users."""
    users = sums.users if sums else (0, 0)
    if sums is None or min(users) < LEAST_USERS / 2:
        reason = f"{sum(users):,} held-out users completed a video, too few to choose by: the default"
        return ChosenOrder.fixed(DEFAULT_WEIGHT, reason).model_copy(update={"users": sum(users)})
    curve = sums.curve((0, 1))
    weight = choose_weight(curve)
    halves = (choose_weight(sums.curve((1,))), choose_weight(sums.curve((0,))))
    return ChosenOrder(
        weight=weight, halves=halves, reason=explain_choice(curve, weight, cut), users=sum(users), curve=curve
    )


def losing_no_recall(curve: Sequence[OrderPoint]) -> list[OrderPoint]:
    """Return the points that lose no recall, compared with the last one, the neighbours' order.

    The loss must not be significant (95 % interval). The smaller a weight, the more it changes, and the more the
    figure of some hundred users varies by chance: below `DEFAULT_WEIGHT` there must be no loss at all.
    """
    small = as_numbers([of.weight for of in curve]) < DEFAULT_WEIGHT
    differences = [of.recall_difference for of in curve]
    return [
        of
        for of, lost, is_small in zip(curve, differences, small, strict=True)
        if lost.high >= 0 and (lost.value >= 0 or not is_small)
    ]


def choose_weight(curve: Sequence[OrderPoint]) -> OrderWeight:
    """Return the largest weight that loses no recall and whose watch time is within a standard error of the most."""
    allowed = losing_no_recall(curve)
    most = max(of.watch_time for of in allowed)
    return next(of.weight for of in reversed(allowed) if of.watch_time >= most - of.watch_time_error)


def explain_choice(curve: Sequence[OrderPoint], weight: OrderWeight, cut: int) -> str:
    """Return the choice in words."""
    chosen = next(of for of in curve if of.weight == weight)
    recall, watch_time = chosen.recall_difference, chosen.watch_time_difference
    return (
        f"the most watch time in the first {cut} videos, within a standard error, that loses no recall: watch time "
        f"{chosen.watch_time:.4f} ({watch_time.value:+.4f}, {watch_time.low:+.4f} to {watch_time.high:+.4f}, against "
        f"the neighbours' order), recall@{cut} {chosen.recall:.4f} ({recall.value:+.4f}, {recall.low:+.4f} to "
        f"{recall.high:+.4f})"
    )
