"""How well expected seconds agree with the seconds watched: in all, and in ten classes of impressions by prediction.

    edges = class_edges(bins, calibration)
    sums = CalibrationSums.from_impressions(user_ids, user, seconds, clicked, watch_seconds, edges)
    sums.merge(sums_of_other_users).compute(fitted=True).total.ratio

The intervals are those of a bootstrap over users (`bootstrap`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core.bootstrap import Replicates, interval, weights
from transforms.core.digests import id_digests
from transforms.core.json_model import JsonModel
from transforms.ranking.calibration import BIN_CENTRES, Calibration, CalibrationBins, Ints
from transforms.ranking.impression_metrics import MILLISECONDS

DECILES = 10  # classes of impressions


class CalibrationClass(JsonModel):
    """Some impressions: means of the expected and of the watched seconds."""

    impressions: int
    clicks: int
    predicted_seconds: float
    watched_seconds: float
    interval: tuple[float, float] | None = None  # 95 %, of the ratio; None if nothing was watched

    @property
    def ratio(self) -> float | None:
        """Expected divided by watched seconds; None if nothing was watched."""
        return self.predicted_seconds / self.watched_seconds if self.watched_seconds else None


class MeasuredCalibration(JsonModel):
    """The calibration on held-out impressions, each half of the users with the map fitted on the other half."""

    users: int
    fitted: bool  # False: the map is the identity, because there were too few clicks
    total: CalibrationClass
    classes: tuple[CalibrationClass, ...]  # by prediction, lowest first, those with impressions


def class_edges(bins: CalibrationBins, calibration: Calibration) -> list[float]:
    """Return the log seconds that divide the impressions into `DECILES` classes of about equal size, ascending."""
    log_seconds = np.concatenate([half_map(BIN_CENTRES) for half_map in calibration.halves])
    counts = np.concatenate([np.array(half, np.int64) for half in bins.impressions])
    order = np.argsort(log_seconds, kind="stable")
    reached = np.cumsum(counts[order])
    borders = np.searchsorted(reached, reached[-1] * np.arange(1, DECILES) / DECILES)
    return [float(edge) for edge in log_seconds[order][np.minimum(borders, len(order) - 1)]]


@dataclass(frozen=True, kw_only=True)
class CalibrationSums:
    """Sums over the impressions of some users, by class, with replicates. It merges exactly."""

    users: int
    impressions: Ints  # [classes]
    clicks: Ints  # [classes]
    milliseconds: Ints  # [2, classes]: expected and watched
    replicates: Replicates  # of expected and of watched milliseconds, in each class

    @classmethod
    def from_impressions(
        cls,
        user_ids: pl.Series,
        user: Ints,
        seconds: NDArray[Any],
        clicked: NDArray[Any],
        watch_seconds: NDArray[Any],
        edges: Sequence[float],
    ) -> CalibrationSums:
        """Sum up impressions. user: rows of `user_ids`; user, expected seconds and labels are [impressions]."""
        number = np.searchsorted(np.array(edges), np.log(np.asarray(seconds, np.float64)), side="right")
        classes, users = len(edges) + 1, len(user_ids)

        def by_user(values: NDArray[Any]) -> Ints:
            sums = np.zeros((users, classes), np.int64)
            np.add.at(sums, (user, number), np.rint(values).astype(np.int64))
            return sums

        expected, watched = (by_user(np.asarray(of, np.float64) * MILLISECONDS) for of in (seconds, watch_seconds))
        columns = {f"expected_{n}": expected[:, n] for n in range(classes)}
        columns |= {f"watched_{n}": watched[:, n] for n in range(classes)}
        return cls(
            users=users,
            impressions=by_user(np.ones(len(user))).sum(axis=0),
            clicks=by_user(np.asarray(clicked)).sum(axis=0),
            milliseconds=np.stack([expected.sum(axis=0), watched.sum(axis=0)]),
            replicates=Replicates.from_columns(weights(id_digests(user_ids).to_numpy()), columns),
        )

    def merge(self, other: CalibrationSums) -> CalibrationSums:
        """Return the sums of the users of both, which must be disjoint."""
        return CalibrationSums(
            users=self.users + other.users,
            impressions=self.impressions + other.impressions,
            clicks=self.clicks + other.clicks,
            milliseconds=self.milliseconds + other.milliseconds,
            replicates=self.replicates.merge(other.replicates),
        )

    def compute(self, *, fitted: bool) -> MeasuredCalibration:
        """Return the figures. There must be an impression."""
        every = np.arange(len(self.impressions))
        with_some = every[self.impressions > 0]
        return MeasuredCalibration(
            users=self.users,
            fitted=fitted,
            total=self._figures(every),
            classes=tuple(self._figures(with_some[n : n + 1]) for n in range(len(with_some))),
        )

    def _figures(self, classes: Ints) -> CalibrationClass:
        count = int(self.impressions[classes].sum())
        expected, watched = (int(total) for total in self.milliseconds[:, classes].sum(axis=1))
        sides = [
            np.sum([self.replicates.values(f"{side}_{n}") for n in classes], axis=0) for side in ("expected", "watched")
        ]
        ratios = np.divide(sides[0], sides[1], out=np.full(len(sides[0]), np.nan), where=sides[1] > 0)
        return CalibrationClass(
            impressions=count,
            clicks=int(self.clicks[classes].sum()),
            predicted_seconds=expected / MILLISECONDS / count,
            watched_seconds=watched / MILLISECONDS / count,
            interval=interval(ratios) if watched else None,
        )
