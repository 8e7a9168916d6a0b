"""Metrics with confidence intervals: a value of metrics and their bootstrap replicates that merges exactly.

measured = Measured.from_users(users, weights(digests)).merge(measured_of_other_users)
measured.compute(kept=["recall@200"]).figures
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from pydantic import Field

from transforms.contracts.retrieval_metrics import DENOMINATORS, RankingMetrics, UserMetrics, denominator
from transforms.core.bootstrap import Floats, PairedDifference, Replicates, Weights, interval
from transforms.core.json_model import JsonModel

Number = int | float

_DIGITS = 9  # decimals of stored replicates


class MeasuredFigures(JsonModel):
    """Figures by name, their 95 % intervals, and the replicates of some, null for a replicate without users."""

    figures: dict[str, Number]
    intervals: dict[str, tuple[float, float]]
    replicates: dict[str, list[float | None]] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Metrics over some users, and their replicates."""

    metrics: RankingMetrics
    replicates: Replicates

    @classmethod
    def from_users(cls, users: UserMetrics, drawn: Weights, figures: Sequence[str] = ()) -> Measured:
        """Sum up a batch of users. drawn: their `weights`. figures: those to compute replicates of; empty: all."""
        columns = users.columns
        named = figures or [name for name in columns if name not in DENOMINATORS]
        kept = {name: columns[name] for name in (*DENOMINATORS, *named)}
        return cls(metrics=users.total(), replicates=Replicates.from_columns(drawn, kept))

    def merge(self, other: Measured) -> Measured:
        """Return the metrics of the users of both, which must be disjoint."""
        return Measured(metrics=self.metrics.merge(other.metrics), replicates=self.replicates.merge(other.replicates))

    def replicate_values(self, figure: str) -> Floats:
        """Return the figure in each replicate: [REPLICATES], NaN for a replicate without users."""
        return self.replicates.ratio(figure, denominator(figure))

    def compute(self, kept: Iterable[str] = ()) -> MeasuredFigures:
        """Return the figures, the intervals of those with replicates, and the replicates of `kept`.

        Without users there are only the figures `users` and `pairs`, both 0.
        """
        figures = self.metrics.compute()
        named = [name for name in self.replicates.names if name in figures and name not in DENOMINATORS]
        intervals = {name: interval(self.replicate_values(name)) for name in named}
        rounded = {name: np.round(self.replicate_values(name), _DIGITS).tolist() for name in kept if name in named}
        if not rounded:
            return MeasuredFigures(figures=figures, intervals=intervals)
        replicates = {name: [None if v != v else v for v in values] for name, values in rounded.items()}
        return MeasuredFigures(figures=figures, intervals=intervals, replicates=replicates)


def merge_measured(parts: Iterable[Measured]) -> Measured:
    """Return all parts merged; there must be at least one."""
    return reduce(Measured.merge, parts)


def paired_difference(left: MeasuredFigures, right: MeasuredFigures, figure: str) -> PairedDifference | None:
    """Return the figure of `left` minus that of `right`; None if one of the two has no replicates of it."""
    replicates = [side.replicates.get(figure) for side in (left, right)]
    if not all(replicates):
        return None
    left_values, right_values = (np.array(values, np.float64) for values in replicates)
    low, high = interval(left_values - right_values)
    return PairedDifference(value=left.figures[figure] - right.figures[figure], low=low, high=high)
