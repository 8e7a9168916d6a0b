"""The bootstrap: Poisson weights, sums that do not depend on the split of users, coverage of intervals."""

from __future__ import annotations

import math
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.core.bootstrap import REPLICATES, UNIT, Replicates, interval, weights
from transforms.core.digests import mix

DIGESTS = mix(1, np.arange(3_000))


def test_weights_are_uncorrelated() -> None:
    drawn = weights(DIGESTS).astype(float) - 1
    between_users = drawn[:300] @ drawn[:300].T / REPLICATES
    between_replicates = drawn.T @ drawn / len(DIGESTS)
    for found, n in ((between_users, REPLICATES), (between_replicates, len(DIGESTS))):
        apart = found[~np.eye(len(found), dtype=bool)]
        assert abs(apart.mean()) < 0.01 and np.abs(apart).max() < 7 / math.sqrt(n)
        assert apart.std() == pytest.approx(1 / math.sqrt(n), rel=0.05)


def test_weight_is_the_inverse_of_the_distribution_function() -> None:
    uniform = mix(0x626F6F74, DIGESTS[:, None], np.arange(REPLICATES)[None, :])
    cumulated = np.cumsum([math.exp(-1) / math.factorial(n) for n in range(18)])
    by_hand = np.searchsorted(cumulated, uniform.astype(np.float64) / 2**64, side="right")
    assert np.array_equal(weights(DIGESTS), by_hand)


def test_weights_depend_only_on_the_user() -> None:
    some = weights(DIGESTS[[5, 900, 2]])
    assert np.array_equal(some, weights(DIGESTS)[[5, 900, 2]])
    assert weights(DIGESTS[:0]).shape == (0, REPLICATES)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), max_size=8), st.lists(st.integers(0, 8), max_size=3))
def test_sums_do_not_depend_on_the_split_of_users(users: list[tuple[int, float]], splits: list[int]) -> None:
    drawn = weights(DIGESTS[: len(users)])
    columns = {"n": np.array([n for n, _ in users], np.int64), "x": np.array([x for _, x in users], np.float64)}
    whole = Replicates.from_columns(drawn, columns)
    bounds = [0, *sorted(min(s, len(users)) for s in splits), len(users)]
    parts = [
        Replicates.from_columns(drawn[a:b], {name: column[a:b] for name, column in columns.items()})
        for a, b in pairwise(bounds)
    ]
    merged = reduce(Replicates.merge, reversed(parts))
    assert np.array_equal(merged.sums, whole.sums)  # exactly
    order = np.argsort(columns["x"], kind="stable")
    mixed = Replicates.from_columns(drawn[order], {name: column[order] for name, column in columns.items()})
    assert np.array_equal(mixed.sums, whole.sums)


def test_sums_are_exact_beyond_float_precision() -> None:
    draw = np.random.default_rng(2)
    n = 700
    values = {"count": draw.integers(0, 2**40, n), "share": draw.random(n)}
    sums = Replicates.from_columns(weights(DIGESTS[:n]), values)
    drawn = weights(DIGESTS[:n]).astype(object)
    assert sums.sums[0].tolist() == (values["count"].astype(object) @ drawn).tolist()
    units = np.rint(values["share"] / UNIT).astype(np.int64).astype(object)
    assert sums.sums[1].tolist() == (units @ drawn).tolist()


def test_ratios_equal_ratios_of_weighted_sums() -> None:
    found, wanted = np.array([1, 0, 3]), np.array([2, 1, 3])
    drawn = weights(DIGESTS[:3])
    ratio = Replicates.from_columns(drawn, {"found": found, "pairs": wanted}).ratio("found", "pairs")
    for r in range(REPLICATES):
        pairs = int(drawn[:, r] @ wanted)
        assert math.isnan(ratio[r]) if pairs == 0 else ratio[r] == int(drawn[:, r] @ found) / pairs
    assert np.isnan(ratio).sum() > 20  # three users: one replicate in twenty has none of them
    assert not math.isnan(interval(ratio)[0])
    assert all(map(math.isnan, interval(np.full(3, np.nan))))


def test_interval_agrees_with_the_multinomial_bootstrap() -> None:
    draw = np.random.default_rng(4)
    n = 600
    wanted = draw.integers(1, 9, n)
    found = draw.binomial(wanted, draw.beta(1, 3, n))
    low, high = interval(Replicates.from_columns(weights(DIGESTS[:n]), {"f": found, "w": wanted}).ratio("f", "w"))
    rows = draw.integers(0, n, (4_000, n))
    plain = found[rows].sum(axis=1) / wanted[rows].sum(axis=1)
    width = np.subtract(*np.percentile(plain, (97.5, 2.5)))
    assert [low, high] == pytest.approx(np.percentile(plain, (2.5, 97.5)), abs=0.08 * width)


@pytest.mark.parametrize(
    "kind", ["share", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("ratio", "difference"))]
)
def test_intervals_have_their_nominal_coverage(kind: str) -> None:
    draw, n, rounds = np.random.default_rng(5), 150, 300
    covered = 0
    for seed in range(rounds):
        drawn = weights(mix(seed, np.arange(n)))
        wanted = draw.integers(1, 6, n)
        one, other = draw.binomial(wanted, 0.3), draw.binomial(wanted, 0.25)
        sums = Replicates.from_columns(
            drawn, {"one": one, "other": other, "hit": one > 0, "w": wanted, "n": np.ones(n, int)}
        )
        values, truth = {
            "ratio": (sums.ratio("one", "w"), 0.3),
            "share": (sums.ratio("hit", "n"), float(np.mean([1 - 0.7**w for w in range(1, 6)]))),
            "difference": (sums.ratio("one", "w") - sums.ratio("other", "w"), 0.05),
        }[kind]
        low, high = interval(values)
        covered += low <= truth <= high
    assert 0.90 <= covered / rounds <= 0.985  # .95, and four standard errors of 300 rounds


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1.0, 1.0, 1.0], r"x must have a value for each of 2 users, but has shape \(3,\)"),
        ([0.5, -0.5], "x must lie between 0 and 1,024"),
        ([0.5, np.nan], "x must lie between 0 and 1,024"),
        ([0, 2**41], "x must lie between 0 and 1,099,511,627,776"),
    ],
)
def test_invalid_columns_are_refused(column: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Replicates.from_columns(weights(DIGESTS[:2]), {"x": np.array(column)})


def test_replicates_of_other_columns_do_not_merge() -> None:
    drawn = weights(DIGESTS[:2])
    one, other = (Replicates.from_columns(drawn, {name: np.ones(2)}) for name in "ab")
    with pytest.raises(ValueError, match=r"\('a',\) and \('b',\)"):
        one.merge(other)
