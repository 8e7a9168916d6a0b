"""Confidence intervals by a bootstrap over users, with sums that merge exactly.

A bootstrap replicate of a metric is the metric over users drawn with replacement. Here each user has a weight in each
replicate, which follows a Poisson(1) distribution and is computed from the digest of the user's id (Hanley, MacGibbon:
Creating non-parametric bootstrap samples using Poisson frequencies, 2006). This needs no random generator and no
communication between workers, and a user has the same weights every night. Comparisons are therefore paired: replicate
r of one system or night covers the same users as replicate r of the other.

    user_weights = weights(id_digests(users))
    sums = Replicates.from_columns(user_weights, {"hits": hits, "pairs": pairs}).merge(sums_of_other_users)
    low, high = interval(sums.ratio("hits", "pairs"))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transforms.core.digests import mix
from transforms.core.json_model import JsonModel

REPLICATES = 1_000
UNIT = 2**-30  # fractions are summed in this unit: a rounding error of at most 5e-10; 2**33 users fit an int64
_BLOCK_USERS = 256  # the arrays of a block fit the processor's cache
_MAX_UNITS = 2**40  # per user: the sums of a block stay below 2**53, so floats represent them exactly
_WEIGHTS_SEED = 0x626F6F74  # "boot"
_INTERVAL = (2.5, 97.5)
MIN_USERS = 5  # comparisons of fewer users are dominated by chance
_Z = 1.959964  # the 97.5 % quantile of the normal distribution

Floats = NDArray[np.float64]
Weights = NDArray[np.uint8]  # [users, REPLICATES]


def _poisson_steps() -> NDArray[np.uint64]:
    """Return the thresholds at which a uniform 64-bit integer gives a weight of 1, 2, ... (Poisson(1)'s CDF)."""
    probability = [math.exp(-1) / math.factorial(weight) for weight in range(18)]  # above 17: less than 2**-52
    cumulative = [math.fsum(probability[: weight + 1]) for weight in range(len(probability) - 1)]
    return np.array([int(share * 2**64) for share in cumulative], np.uint64)


_STEPS = _poisson_steps()


def weights(digests: NDArray[np.uint64]) -> Weights:
    """Return each user's weight in each replicate, [users, REPLICATES], from `digests.id_digests`: 1 kB per user."""
    result = np.zeros((len(digests), REPLICATES), np.uint8)
    replicates = np.arange(REPLICATES, dtype=np.uint64)[None, :]
    for first in range(0, len(digests), _BLOCK_USERS):
        block = slice(first, first + _BLOCK_USERS)
        uniform = mix(_WEIGHTS_SEED, digests[block, None], replicates)
        for step in _STEPS:
            reached = uniform >= step
            if not reached.any():
                break
            result[block] += reached
    return result


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """Weighted sums of users' values, one for each column and replicate."""

    names: tuple[str, ...]
    units: tuple[float, ...]  # one for each column: a sum times its unit is the value
    sums: NDArray[np.int64]  # [names, REPLICATES]

    @classmethod
    def from_columns(cls, user_weights: Weights, columns: Mapping[str, NDArray[Any]]) -> Replicates:
        """Sum columns of non-negative values, [users] each: integers, or floats that are kept to 2**-30.

        user_weights: [users, REPLICATES], from `weights`.
        The order of users and their split into merged parts do not change the sums. Raises ValueError if a column has
        the wrong length or a value is out of range.
        """
        units = [UNIT if np.issubdtype(column.dtype, np.floating) else 1.0 for column in columns.values()]
        values = np.zeros((len(columns), len(user_weights)))
        for row, (name, column) in enumerate(columns.items()):
            if column.shape != user_weights.shape[:1]:
                raise ValueError(
                    f"{name} must have a value for each of {len(user_weights)} users, but has shape {column.shape}"
                )
            values[row] = np.rint(column / units[row])
            if column.size and not (column.min() >= 0 and values[row].max() <= _MAX_UNITS):
                raise ValueError(
                    f"{name} must lie between 0 and {_MAX_UNITS * units[row]:,.0f}, "
                    f"but its values range from {column.min()} to {column.max()}"
                )
        sums = np.zeros((len(columns), REPLICATES), np.int64)
        for first in range(0, len(user_weights), _BLOCK_USERS):
            block = slice(first, first + _BLOCK_USERS)
            sums += (values[:, block] @ user_weights[block].astype(np.float64)).astype(np.int64)
        return cls(names=tuple(columns), units=tuple(units), sums=sums)

    def merge(self, other: Replicates) -> Replicates:
        """Add the sums of other, disjoint users, exactly. Raises ValueError if the columns differ."""
        if (self.names, self.units) != (other.names, other.units):
            raise ValueError(f"only sums of the same columns can be merged, not {self.names} and {other.names}")
        return Replicates(names=self.names, units=self.units, sums=self.sums + other.sums)

    def ratio(self, numerator: str, denominator: str) -> Floats:
        """Return one column's sums divided by another's: [REPLICATES], NaN if the denominator is 0."""
        dividend, divisor = (self.values(name) for name in (numerator, denominator))
        return np.divide(dividend, divisor, out=np.full(REPLICATES, np.nan), where=divisor > 0)

    def values(self, name: str) -> Floats:
        """Return one column's sums: [REPLICATES]."""
        row = self.names.index(name)
        return self.sums[row] * self.units[row]


def interval(replicates: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of a metric's replicates; NaN are ignored. (NaN, NaN) if all are NaN."""
    known = replicates[~np.isnan(replicates)]
    low, high = np.percentile(known, _INTERVAL) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


class PairedDifference(JsonModel):
    """The difference of a metric between two systems for the same users, with its 95 % interval."""

    value: float
    low: float
    high: float


def small_sample_factor(users: int) -> float:
    """Return the factor that widens a percentile interval for a small number of users (at least `MIN_USERS`).

    The percentile bootstrap treats n users as the population: it underestimates the standard deviation by
    sqrt((n - 1) / n), and uses quantiles of the normal distribution instead of Student's t (Hesterberg: What teachers
    should know about the bootstrap, 2015, section 5). The t quantile is the Cornish-Fisher expansion in 1 / (n - 1).
    The factor approaches 1 for many users.
    """
    freedom = users - 1
    terms = (_Z, (_Z**3 + _Z) / 4, (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96)
    student = sum(term / freedom**power for power, term in enumerate(terms))
    return student / _Z * math.sqrt(users / freedom)


def share_bounds(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion observed in n trials (Wilson's score interval); (0, 1) if n is 0."""
    if n < 1:
        return 0.0, 1.0
    centre = share + _Z**2 / (2 * n)
    half_width = _Z * math.sqrt(max(0.0, share * (1 - share)) / n + _Z**2 / (4 * n * n))
    scale = 1 + _Z**2 / n
    return (centre - half_width) / scale, (centre + half_width) / scale
