"""Empirical Bayes: rates of units with few observations, shrunk towards the rate of their group.

Observations are in units, units in groups, groups in the whole: impressions of videos of channels. The variance of each
level is estimated from the data by analysis of variance (Henderson's method I for unbalanced nested random effects), so
no weight of a prior is set:

    found = Components.from_units(count, total, squares=squares, group=group, groups=groups)
    rate = shrink(total, count, towards=group_rate, weight=found.unit_weight)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.ranking.timelines import Ints

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Components:
    """Variances, each at least 0: of an observation in its unit, of a unit's rate in its group, and of a group's rate
    in the whole; and the groups' observations."""

    within: float
    units: float
    groups: float
    mean: float  # of all observations
    counts: Doubles  # [groups] observations
    totals: Doubles  # [groups] their sums
    unit_squares: Doubles  # [groups] sums of squared observations per unit

    @classmethod
    def from_units(cls, count: Doubles, total: Doubles, *, squares: float, group: Ints, groups: int) -> Components:
        """Estimate the components.

        count, total: observations and their sum by unit, [units]; units without observations are ignored. squares: sum
        of the squares of all observations. group: index of each unit's group, below `groups`.

        Without a unit of two observations, nothing tells the variance of observations from that of units: all of it
        counts as `within`, so that rates are those of the groups.
        """
        used = count > 0
        n, y, group = count[used], total[used], group[used]
        counts, totals, unit_squares = (_sums(group, values, groups) for values in (n, y, n * n))
        known = counts > 0
        every, units, known_groups = n.sum(), len(n), int(known.sum())
        mean = float(y.sum() / every) if units else np.nan
        explained = (y * y / n).sum()
        of_groups = (totals[known] ** 2 / counts[known]).sum()
        spread = (unit_squares[known] / counts[known]).sum()  # observations that share a unit, by group
        within = _ratio(squares - explained, every - units)
        if within is None:
            within, unit, other = (
                max(0.0, squares - every * mean * mean) / max(every - 1, 1) if units else 0.0,
                0.0,
                0.0,
            )
        else:
            between = explained - of_groups - (units - known_groups) * within
            unit = _ratio(between, every - spread) or 0.0
            between = of_groups - every * mean * mean - (known_groups - 1) * within if units else 0.0
            shared = spread - (unit_squares.sum() / every if units else 0.0)
            other = _ratio(between - unit * shared, every - (counts**2).sum() / every if units else 0.0) or 0.0
        return cls(
            within=float(within),
            units=float(unit),
            groups=float(other),
            mean=mean,
            counts=counts,
            totals=totals,
            unit_squares=unit_squares,
        )

    @property
    def unit_weight(self) -> float:
        """The observations of a unit at which its own rate counts as much as that of its group; inf if units do not
        differ."""
        return self.within / self.units if self.units else np.inf

    def group_rates(self) -> Doubles:
        """Return the rate of each group, shrunk towards the mean: [groups].

        The variance of a group's mean is that of its observations and of its units: a group of one unit tells little,
        however often that unit was observed.
        """
        counts = np.maximum(self.counts, 1)
        noise = self.within / counts + self.units * self.unit_squares / counts**2
        variance = self.groups + noise
        share = np.divide(self.groups, variance, out=np.zeros(len(counts)), where=(self.counts > 0) & (variance > 0))
        return np.asarray(self.mean + share * (self.totals / counts - self.mean))


def _sums(group: Ints, values: Doubles, groups: int) -> Doubles:
    """Return the sum of the values of each group: [groups]."""
    return np.bincount(group, values, groups).astype(np.float64)


def _ratio(numerator: float, denominator: float) -> float | None:
    """Return an estimate of a variance, at least 0; None if nothing was observed to estimate it from."""
    return max(0.0, float(numerator / denominator)) if denominator > 0 else None


def shrink(total: Doubles, count: Doubles, *, towards: Doubles | float, weight: float) -> Doubles:
    """Return rates as if each unit had `weight` further observations whose mean is `towards`: [units].

    total, count: sums and numbers of observations, [units].
    """
    share = np.divide(count, count + weight, out=np.zeros(len(count)), where=count > 0)
    return np.asarray(towards + share * (total / np.maximum(count, 1) - towards))
