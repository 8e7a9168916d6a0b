"""Timelines compared with plain Python: the events strictly before moments."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.ranking import timelines
from transforms.ranking.timelines import Span, Timeline, last_values

EVENTS = st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 5), st.integers(-1, 4)), max_size=12)


def columns(rows: list[tuple[int, int, int]]) -> list[np.ndarray]:
    return [np.array([row[at] for row in rows], np.int64) for at in range(3)]


@pytest.mark.parametrize("bits", [63, 0])
@given(rows=EVENTS, asked=st.lists(st.tuples(st.integers(-3, 4), st.integers(-1, 7)), max_size=8))
def test_spans_hold_the_events_strictly_before(
    bits: int, rows: list[tuple[int, int, int]], asked: list[tuple[int, int]]
) -> None:
    """With times that fit into places, and with ranks instead of times."""
    with patch.object(timelines, "_PLACE_BITS", bits):
        check_spans(rows, asked)


def check_spans(rows: list[tuple[int, int, int]], asked: list[tuple[int, int]]) -> None:
    keys, times, codes = columns(rows)
    line = Timeline.from_events(keys, times * 1_000_000, codes)
    wanted, moments = (np.array([one[at] for one in asked], np.int64) for at in range(2))
    span = line.before(wanted, moments * 1_000_000)
    before = [sorted((t, c) for k, t, c in rows if k == key and t < moment) for key, moment in asked]
    ordered = codes[line.order]
    found = [ordered[first:end].tolist() for first, end in zip(span.first, span.end, strict=True)]
    assert found == [[code for _, code in events] for events in before]
    assert span.count.tolist() == [len(events) for events in before]
    assert span.sums(line.totals(codes)).tolist() == [sum(code for _, code in events) for events in before]
    since = [moment - events[-1][0] if events else np.nan for (_, moment), events in zip(asked, before, strict=True)]
    np.testing.assert_array_equal(line.seconds_since(span, moments * 1_000_000), np.array(since, np.float32))
    known = [[code for _, code in events if code >= 0] for events in before]
    assert line.last_known(span, codes).tolist() == [codes[-1] if codes else -1 for codes in known]


def test_the_last_values_are_at_the_end() -> None:
    span = Span(first=np.array([0, 3, 3]), end=np.array([3, 3, 8]))
    found = last_values(span, np.arange(1, 9), 4)
    assert found.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0], [5, 6, 7, 8]] and found.dtype == np.int32
    assert last_values(span, np.zeros(0, np.int64), 2).tolist() == [[0, 0]] * 3
