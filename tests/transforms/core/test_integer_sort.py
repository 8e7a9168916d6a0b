"""Sorting packed integers, compared with numpy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from transforms.core import integer_sort

LARGEST = 2**63 - 1
rows = st.integers(0, 40)
values = st.one_of(st.integers(-3, 3), st.integers(-(2**40), 2**40), st.sampled_from([-LARGEST, LARGEST]))


@given(rows.flatmap(lambda n: st.lists(arrays(np.int64, n, elements=values), min_size=1, max_size=3)))
def test_the_order_is_that_of_numpy(columns: list[np.ndarray]) -> None:
    np.testing.assert_array_equal(integer_sort.lexsort(columns), np.lexsort(columns))


def test_narrow_integers_and_values_that_do_not_fit_next_to_their_indices() -> None:
    np.testing.assert_array_equal(integer_sort.argsort(np.array([3, 1, 3, 2], np.int8)), [1, 3, 0, 2])
    wide = np.array([LARGEST, -LARGEST, 0, -LARGEST])
    np.testing.assert_array_equal(integer_sort.argsort(wide), [1, 3, 2, 0])
