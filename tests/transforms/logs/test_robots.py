"""Robot days, compared with counting in loops, and the time that one user with many events takes."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import START, hours, search, searches_frame, watch, watches_frame

from transforms.examples.draw_examples import LabelDraw, build_records, draw_labels, serving_pointers
from transforms.examples.histories import UserHistories, Vocabularies
from transforms.logs.event_window import Holdout, drop_robot_days
from transforms.logs.schemas import SEARCH_SCHEMA, WATCH_SCHEMA

USERS, HOURS = st.sampled_from("ab"), st.sampled_from([0, 1, 23, 23.5, 24, 25, 47])
WATCHES = st.lists(st.builds(watch, USERS, HOURS, st.sampled_from("vw")), max_size=12)
SEARCHES = st.lists(st.builds(search, USERS, HOURS, st.sampled_from(["cat", "dog"])), max_size=12)


def day(event: dict[str, Any]) -> tuple[str, dt.date]:
    return event["user_id"], event["time"].date()


@given(WATCHES, SEARCHES, st.integers(0, 6))
def test_days_above_the_limit_are_dropped(
    watched: list[dict[str, Any]], searched: list[dict[str, Any]], most: int
) -> None:
    watches, searches = watches_frame(watched), searches_frame(searched)
    found = drop_robot_days(watches, searches, max_events=most)
    rows = [watches.to_dicts(), searches.to_dicts()]
    of_day = Counter(day(event) for events in rows for event in events)
    robots = {key for key, n in of_day.items() if most and n > most}
    kept = [[event for event in events if day(event) not in robots] for events in rows]
    assert [found.watches.to_dicts(), found.searches.to_dicts()] == kept
    assert (found.watches.schema, found.searches.schema) == (WATCH_SCHEMA, SEARCH_SCHEMA)
    assert found.robot_days == len(robots)
    assert [found.robot_watches, found.robot_searches] == [len(a) - len(b) for a, b in zip(rows, kept, strict=True)]


@given(WATCHES, SEARCHES, st.randoms(use_true_random=False))
def test_order_of_events_does_not_matter(
    watched: list[dict[str, Any]], searched: list[dict[str, Any]], chance: Any
) -> None:
    frames = pl.DataFrame(watched, WATCH_SCHEMA), pl.DataFrame(chance.sample(watched, len(watched)), WATCH_SCHEMA)
    one, other = (drop_robot_days(watches, searches_frame(searched), max_events=3) for watches in frames)
    assert one.watches.sort(WATCH_SCHEMA.names()).equals(other.watches.sort(WATCH_SCHEMA.names()))
    assert (one.robot_days, one.robot_searches) == (other.robot_days, other.robot_searches)


EVENTS = 200_000
TOP = pl.DataFrame({"token": [f"v{i}" for i in range(1_000)], "count": 1})
DRAW = LabelDraw(
    per_user=20,
    seed=1,
    holdout=Holdout(start=hours(27 * 24), share=0.05, seed=1),
    newest=hours(28 * 24),
    end=hours(28 * 24),
    max_sequence=1_000,
    watch_history=50,
    search_history=50,
    withhold_last_search=True,
)


def many_events(users: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return `EVENTS` watches in 28 days and a tenth as many searches, of users in turn."""
    at = pl.int_range(EVENTS, eager=True)
    step = dt.timedelta(days=28) // EVENTS
    times = pl.Series(pl.select(pl.lit(START).cast(pl.Datetime("us", "UTC")) + at * step).to_series())
    frame = pl.DataFrame(
        {
            "user_id": "u" + (at % users).cast(pl.String),
            "time": times,
            "video_id": "v" + (at * 7 % 1_500).cast(pl.String),
        }
    )
    watches = frame.with_columns(completed=at % 4 > 0).match_to_schema(WATCH_SCHEMA, missing_columns="insert")
    searches = frame[::10].select("user_id", "time", query=pl.lit("word ") + pl.col("video_id"))
    return watches.sort("user_id", "time", "video_id"), searches.sort("user_id", "time")


def written(watches: pl.DataFrame, searches: pl.DataFrame, most: int) -> int:
    """Do the work of stage examples on a bucket, up to its records; return the number of pointers."""
    events = drop_robot_days(watches, searches, max_events=most)
    users = pl.DataFrame(schema={"user_id": pl.String})
    pasts = UserHistories.from_events(events.watches, events.searches, users, Vocabularies.from_frames(TOP, TOP))
    found = 0
    for pointers in (draw_labels(pasts, DRAW).pointers, serving_pointers(pasts, hours(28 * 24))):
        found += pointers.height
        assert build_records(pointers, pasts, max_sequence=1_000).height == pointers["user_id"].n_unique()
    return found


def seconds(work: Callable[[], object]) -> float:
    """Return the processor seconds of the fastest of three runs."""
    took = []
    for _ in range(3):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return min(took)


@pytest.mark.parametrize("most", [0, 1_000], ids=["no limit", "limit"])
def test_hot_user_takes_no_more_time_than_many_users(most: int) -> None:
    one, many = many_events(1), many_events(10_000)
    assert written(*one, most) == (21 if most == 0 else 0)  # 7,857 events a day
    assert written(*many, most) > 10_000
    assert seconds(lambda: written(*one, most)) <= 1.5 * seconds(lambda: written(*many, most))
