"""A system's figures with how sure they are: metrics and their bootstrap replicates, one value that merges exactly.

measured = Measured.of(users, weights(digests)).merge(that_of_other_users)
json.dumps(measured.to_json(kept=["recall@200"]))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from transforms.contracts.retrieval_metrics import RankingMetrics, UserMetrics, denominator
from transforms.core.bootstrap import Floats, Replicates, Weights, interval

_DIGITS = 9  # of a replicate as it is kept


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures over some users, and their replicates."""

    metrics: RankingMetrics
    replicates: Replicates

    @classmethod
    def of(cls, users: UserMetrics, drawn: Weights, figures: Sequence[str] = ()) -> Measured:
        """users: a batch; drawn: their `weights`; figures: those that are to have replicates, all where none are
        named."""
        columns = users.columns()
        named = figures or [name for name in columns if name not in ("users", "pairs")]
        kept = {name: columns[name] for name in ("users", "pairs", *named)}
        return cls(metrics=users.total(), replicates=Replicates.from_columns(drawn, kept))

    def merge(self, other: Measured) -> Measured:
        """Those of the users of both, which must be disjoint."""
        return Measured(metrics=self.metrics.merge(other.metrics), replicates=self.replicates.merge(other.replicates))

    def replicates_of(self, figure: str) -> Floats:
        """The figure's value in each replicate: [REPLICATES], NaN where a replicate has no users."""
        return self.replicates.ratio(figure, denominator(figure))

    def to_json(self, kept: Iterable[str] = ()) -> dict[str, Any]:
        """`figures` by name, `intervals` ([low, high]) of those with replicates, and of `kept` the `replicates`
        themselves, null where one has no users. Without users: the figures `users` and `pairs` alone, both 0."""
        figures = self.metrics.compute()
        named = [name for name in self.replicates.names if name in figures and name not in ("users", "pairs")]
        found: dict[str, Any] = {
            "figures": figures,
            "intervals": {name: list(interval(self.replicates_of(name))) for name in named},
        }
        of = {name: self.replicates_of(name) for name in kept if name in named}
        if of:
            rounded = {name: np.round(values, _DIGITS).tolist() for name, values in of.items()}
            found["replicates"] = {name: [None if v != v else v for v in values] for name, values in rounded.items()}
        return found


def merge_measured(parts: Iterable[Measured]) -> Measured:
    """All parts as one; there must be one at least."""
    return reduce(Measured.merge, parts)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One system's figure less another's, or one night's less another's, with its 95 % interval."""

    value: float
    low: float
    high: float


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], figure: str) -> Difference | None:
    """The paired difference of two `to_json`s that keep the figure's replicates; None where one of them does not."""
    kept = [side.get("replicates", {}).get(figure) for side in (ours, theirs)]
    if not all(kept):
        return None
    one, other = (np.array(values, np.float64) for values in kept)
    low, high = interval(one - other)
    return Difference(value=ours["figures"][figure] - theirs["figures"][figure], low=low, high=high)
