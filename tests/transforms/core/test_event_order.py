"""Sorting of events, compared with Python's `sorted`."""

from __future__ import annotations

import datetime as dt

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from transforms.core import event_order
from transforms.core.event_order import sort_events
from transforms.logs.schemas import SEARCH_SCHEMA

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "ab", "ü", "Z"]),
        st.integers(0, 3).map(lambda hours: START + dt.timedelta(hours=hours)),
        st.sampled_from(["x", "y", None]),
    ),
    max_size=30,
)


def frame(rows: list[tuple[str, dt.datetime, str | None]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SEARCH_SCHEMA, orient="row")


@given(EVENTS, st.randoms())
def test_events_are_sorted_by_their_columns(rows: list[tuple[str, dt.datetime, str | None]], random) -> None:  # type: ignore[no-untyped-def]
    plain = sorted(rows, key=lambda row: (row[0].encode(), row[1], row[2] is None, row[2] or ""))
    random.shuffle(rows)
    assert sort_events(frame(rows)).rows() == plain
    assert sort_events(frame(rows), distinct=True).rows() == list(dict.fromkeys(plain))


def test_keys_that_do_not_fit_an_integer_give_the_same_order(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    rows = [("b", START, "x"), ("a", START + dt.timedelta(days=40_000), "y"), ("a", START, None), ("b", START, "x")]
    wanted = sort_events(frame(rows), distinct=True).rows()
    monkeypatch.setattr(event_order, "_KEY_BITS", 20)
    assert sort_events(frame(rows), distinct=True).rows() == wanted
    assert [row[0] for row in wanted] == ["a", "a", "b"]
