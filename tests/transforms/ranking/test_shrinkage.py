"""Variance components compared with plain Python and with known ones, and rates shrunk by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.ranking.shrinkage import Components, shrink

OBSERVATIONS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=30)  # unit, value
GROUP = np.array([0, 0, 1, 1, 2, 2])  # of each unit
GROUPS = 4  # no unit is in the last one


def components(rows: list[tuple[int, int]]) -> Components:
    count, total = np.zeros(len(GROUP)), np.zeros(len(GROUP))
    for unit, value in rows:
        count[unit] += 1
        total[unit] += value
    squares = float(sum(value**2 for _, value in rows))
    return Components.from_units(count, total, squares=squares, group=GROUP, groups=GROUPS)


def oracle(rows: list[tuple[int, int]]) -> tuple[Any, Any, Any]:
    """Return the components by the sums of squares of their definition, if all can be estimated."""
    units = {unit: [v for u, v in rows if u == unit] for unit in {unit for unit, _ in rows}}
    groups = {GROUP[unit]: [v for u, v in rows if GROUP[u] == GROUP[unit]] for unit in units}
    every = [value for _, value in rows]
    within: Any = sum((v - np.mean(values)) ** 2 for values in units.values() for v in values) / (
        len(every) - len(units)
    )
    in_groups = sum(len(v) * (np.mean(v) - np.mean(groups[GROUP[u]])) ** 2 for u, v in units.items())
    shared = {g: sum(len(v) ** 2 for u, v in units.items() if GROUP[u] == g) for g in groups}
    spread = sum(shared[g] / len(values) for g, values in groups.items())
    unit = max(0.0, (in_groups - (len(units) - len(groups)) * within) / (len(every) - spread))
    of_groups = sum(len(values) * (np.mean(values) - np.mean(every)) ** 2 for values in groups.values())
    of_groups -= (len(groups) - 1) * within + unit * (spread - sum(shared.values()) / len(every))
    group = of_groups / (len(every) - sum(len(values) ** 2 for values in groups.values()) / len(every))
    return within, unit, max(0.0, group)


@given(OBSERVATIONS)
def test_components_equal_their_definition(rows: list[tuple[int, int]]) -> None:
    units = {unit for unit, _ in rows}
    groups = {GROUP[unit] for unit in units}
    found = components(rows)
    if len(rows) > len(units) > len(groups) > 1:
        np.testing.assert_allclose((found.within, found.units, found.groups), oracle(rows), atol=1e-9)
    assert min(found.within, found.units, found.groups) >= 0


def test_components_of_a_large_draw_are_found() -> None:
    draw = np.random.default_rng(1)
    groups, units = 400, 8_000
    group = draw.integers(0, groups, units)
    rate = 5 + draw.normal(0, 2, groups)[group] + draw.normal(0, 1, units)
    count = draw.integers(1, 40, units).astype(np.float64)
    unit = np.repeat(np.arange(units), count.astype(np.int64))
    values = rate[unit] + draw.normal(0, 3, len(unit))
    total = np.bincount(unit, values).astype(np.float64)
    found = Components.from_units(count, total, squares=float((values**2).sum()), group=group, groups=groups)
    assert found.within == pytest.approx(9, rel=0.02) and found.units == pytest.approx(1, rel=0.05)
    assert found.groups == pytest.approx(4, rel=0.2) and found.unit_weight == pytest.approx(9, rel=0.05)
    shrunk = shrink(total, count, towards=found.group_rates()[group], weight=found.unit_weight)
    errors = [np.mean((of - rate) ** 2) for of in (shrunk, total / count, found.group_rates()[group])]
    assert errors[0] < min(errors[1:]), "nearer to the true rates than the units' and the groups' own"


def test_one_observation_a_unit_tells_nothing_about_units() -> None:
    found = components([(0, 1), (1, 9), (2, 1), (4, 9)])
    assert found.units == found.groups == 0 and found.within == pytest.approx(64 / 3)
    assert found.unit_weight == np.inf
    assert shrink(np.array([9.0]), np.array([1.0]), towards=5.0, weight=found.unit_weight).tolist() == [5]
    np.testing.assert_allclose(found.group_rates(), 5)


def test_units_that_are_the_groups_differ_as_groups() -> None:
    found = components([(0, 1), (0, 2), (2, 8), (2, 9), (4, 4), (4, 5)])
    assert found.units == 0 < found.groups


def test_nothing_is_known_without_observations() -> None:
    found = components([])
    assert (found.within, found.units, found.groups) == (0, 0, 0)
    assert np.isnan(found.mean) and np.isnan(found.group_rates()).all()


RATES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50), st.floats(0, 9)), min_size=1, max_size=8)


@given(RATES, st.one_of(st.floats(0, 100), st.just(np.inf)))
def test_rates_are_between_their_own_and_the_prior(rows: list[tuple[int, int, float]], weight: float) -> None:
    count, total, prior = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    total = np.where(count > 0, total, 0)
    found = shrink(total, count, towards=prior, weight=weight)
    for rate, n, y, towards in zip(found, count, total, prior, strict=True):
        if not n or np.isinf(weight):
            assert rate == towards
        else:
            assert rate == pytest.approx((y + weight * towards) / (n + weight))
