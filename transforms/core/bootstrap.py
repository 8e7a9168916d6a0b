"""How sure a figure is: the bootstrap over users, in sums that merge exactly.

A replicate of a figure is the figure of users drawn with replacement. Here each user enters each replicate with a
weight of its own, Poisson(1) distributed, from the digest of the user's id (Hanley, MacGibbon: Creating non-parametric
bootstrap samples using Poisson frequencies, 2006). So nothing is drawn, no worker needs to know of another's users, a
user has the same weights every night, and whatever is compared is paired: replicate r of one system, or night, is of
the same users as replicate r of the other.

    drawn = weights(id_digests(users))
    sums = Replicates.of(drawn, {"found": found, "pairs": wanted}).merge(those_of_other_users)
    low, high = interval(sums.ratio("found", "pairs"))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transforms.core.frames import mix

REPLICATES = 1_000
UNIT = 2**-30  # of sums of fractions: rounds a user's by 5e-10 at most; those of 2**33 users fit an int64
_USERS_A_BLOCK = 256  # what is computed of them stays in the processor's cache
_LARGEST = 2**40  # of a user's value in units: a block's sums are then below 2**53, whole numbers that floats hold
_DRAW_OF_WEIGHTS = 0x626F6F74  # "boot"
_INTERVAL = (2.5, 97.5)
FEWEST_USERS = 5  # whose figures are compared: of fewer, chance decides
_Z = 1.959964  # 97.5 % of a normal distribution lie below

Floats = NDArray[np.float64]
Weights = NDArray[np.uint8]  # [users, REPLICATES]


def _poisson_steps() -> NDArray[np.uint64]:
    """What a uniform 64-bit integer has to reach for a weight of 1, 2, ...: Poisson(1)'s distribution function."""
    chance = [math.exp(-1) / math.factorial(weight) for weight in range(18)]  # of more than 17: less than 2**-52
    return np.array([int(math.fsum(chance[: weight + 1]) * 2**64) for weight in range(len(chance) - 1)], np.uint64)


_STEPS = _poisson_steps()


def weights(digests: NDArray[np.uint64]) -> Weights:
    """How often each user is in each replicate, from the digests of their ids (`frames.id_digests`): 1 kB a user."""
    found = np.zeros((len(digests), REPLICATES), np.uint8)
    replicates = np.arange(REPLICATES, dtype=np.uint64)[None, :]
    for first in range(0, len(digests), _USERS_A_BLOCK):
        block = slice(first, first + _USERS_A_BLOCK)
        uniform = mix(_DRAW_OF_WEIGHTS, digests[block, None], replicates)
        for step in _STEPS:
            reached = uniform >= step
            if not reached.any():
                break
            found[block] += reached
    return found


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """Sums of users' values over the users of each replicate."""

    names: tuple[str, ...]
    units: tuple[float, ...]  # of each column's sums
    sums: NDArray[np.int64]  # [names, REPLICATES]

    @classmethod
    def of(cls, drawn: Weights, columns: Mapping[str, NDArray[Any]]) -> Replicates:
        """`weights` of users and values of theirs, [users] each, none negative: whole numbers, or fractions of 1.

        The sums are the same however users are split into parts and in whatever order they come. Raises ValueError for
        columns of another length and for values out of range.
        """
        units = [UNIT if np.issubdtype(column.dtype, np.floating) else 1.0 for column in columns.values()]
        values = np.zeros((len(columns), len(drawn)))
        for at, (name, column) in enumerate(columns.items()):
            if column.shape != drawn.shape[:1]:
                raise ValueError(f"{name} must have a value for each of {len(drawn)} users, but is {column.shape}")
            values[at] = np.rint(column / units[at])
            if column.size and not (column.min() >= 0 and values[at].max() <= _LARGEST):
                raise ValueError(f"{name} must lie between 0 and {_LARGEST * units[at]:,.0f}, but does not")
        sums = np.zeros((len(columns), REPLICATES), np.int64)
        for first in range(0, len(drawn), _USERS_A_BLOCK):
            block = slice(first, first + _USERS_A_BLOCK)
            sums += (values[:, block] @ drawn[block].astype(np.float64)).astype(np.int64)
        return cls(names=tuple(columns), units=tuple(units), sums=sums)

    def merge(self, other: Replicates) -> Replicates:
        """Those of the users of both, exactly. The users must be disjoint; ValueError where the columns differ."""
        if (self.names, self.units) != (other.names, other.units):
            raise ValueError(f"only sums of the same columns merge, but these are {self.names} and {other.names}")
        return Replicates(names=self.names, units=self.units, sums=self.sums + other.sums)

    def ratio(self, numerator: str, denominator: str) -> Floats:
        """One column's sums by another's: [REPLICATES], NaN where a replicate has nothing to divide by."""
        above, below = (self._values(name) for name in (numerator, denominator))
        return np.divide(above, below, out=np.full(REPLICATES, np.nan), where=below > 0)

    def _values(self, name: str) -> Floats:
        at = self.names.index(name)
        return self.sums[at] * self.units[at]


def interval(replicates: Floats) -> tuple[float, float]:
    """The 95 % interval of a figure, by its replicates' percentiles; those that are NaN do not count. NaN for none."""
    known = replicates[~np.isnan(replicates)]
    low, high = np.percentile(known, _INTERVAL) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def small_sample_factor(users: int) -> float:
    """By how much to widen a percentile interval of so few users, `FEWEST_USERS` at least: near 1 for many.

    The bootstrap takes n users for all there are: their spread is too small by sqrt((n - 1) / n), and the quantiles are
    those of a normal distribution and not of Student's t (Hesterberg: What teachers should know about the bootstrap,
    2015, section 5). Student's quantile is expanded in 1 / (n - 1) (Cornish, Fisher).
    """
    free = users - 1
    terms = (_Z, (_Z**3 + _Z) / 4, (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96)
    student = sum(term / free**power for power, term in enumerate(terms))
    return student / _Z * math.sqrt(users / free)


def share_bounds(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share that was counted of n (Wilson's score interval); 0 to 1 for none."""
    if n < 1:
        return 0.0, 1.0
    middle = share + _Z**2 / (2 * n)
    half = _Z * math.sqrt(max(0.0, share * (1 - share)) / n + _Z**2 / (4 * n * n))
    whole = 1 + _Z**2 / n
    return (middle - half) / whole, (middle + half) / whole
