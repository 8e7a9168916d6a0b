"""Small impressions, and the context of a bucket to compute their features, for the tests of ranking."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import polars as pl
from hypothesis import strategies as st
from made_frames import hours, search, watch

from transforms.logs.event_window import Events
from transforms.logs.schemas import IMPRESSION_SCHEMA, SEARCH_SCHEMA, VIDEO_SCHEMA, WATCH_SCHEMA
from transforms.ranking.features import ImpressionContext

CATALOGUE = pl.DataFrame(
    [
        {"video_id": "v", "upload_time": hours(-5), "video_seconds": 60.0, "channel": "c", "language": "sv"},
        {"video_id": "w", "upload_time": hours(3), "video_seconds": 0.0, "channel": "c"},
        {"video_id": "x", "channel": "d", "language": "de"},
        {"video_id": "y", "video_seconds": 5.0},
    ],
    schema=VIDEO_SCHEMA,
)
USERS = pl.DataFrame(
    {"user_id": ["a", "z"], "gender": ["f", None], "birth_year": [1990, 2050], "country": ["SE", "AT"]}
)
IDS, VIDEOS, HOURS = st.sampled_from("abz"), st.sampled_from("uvwxy"), st.integers(0, 9)


def impression(
    user: str, hour: float, video: str, page: str = "p", seconds: float | None = None, position: int | None = None
) -> dict[str, Any]:
    """Return an impression. It is clicked if `seconds`, its watch time, is given."""
    row = {"user_id": user, "time": hours(hour), "video_id": video, "page_id": page}
    return {**row, "clicked": seconds is not None, "watch_seconds": seconds or 0.0, "position": position}


def page_start(row: dict[str, Any], impressions: Sequence[dict[str, Any]]) -> dt.datetime:
    """Return the first moment of a row's page, in plain Python."""
    page = row["user_id"], row["page_id"]
    return min(i["time"] for i in impressions if (i["user_id"], i["page_id"]) == page)


def events_of(
    watches: Sequence[dict[str, Any]] = (),
    searches: Sequence[dict[str, Any]] = (),
    impressions: Sequence[dict[str, Any]] = (),
) -> Events:
    return Events(
        watches=pl.DataFrame(list(watches), schema=WATCH_SCHEMA),
        searches=pl.DataFrame(list(searches), schema=SEARCH_SCHEMA),
        impressions=pl.DataFrame(list(impressions), schema=IMPRESSION_SCHEMA),
    )


def context_of(events: Events, shown: pl.DataFrame | None = None) -> ImpressionContext:
    return ImpressionContext.from_events(events, USERS, CATALOGUE, [] if shown is None else [shown])


SECONDS = st.one_of(st.none(), st.integers(0, 400).map(lambda n: n / 4))


def watches_at(times: st.SearchStrategy[int]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return a strategy of watches at some hours."""
    row = st.builds(
        lambda user, hour, video, seconds, country, device: watch(
            user, hour, video, watch_seconds=seconds, country=country, device=device
        ),
        IDS,
        times,
        VIDEOS,
        SECONDS,
        st.sampled_from([None, "SE", "DE"]),
        st.sampled_from([None, "tv"]),
    )
    return st.lists(row, max_size=12)


def impressions_at(times: st.SearchStrategy[int], max_size: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return a strategy of impressions at some hours."""
    row = st.builds(impression, IDS, times, VIDEOS, st.sampled_from("pq"), SECONDS)
    return st.lists(row, min_size=1, max_size=max_size)


WATCHES, IMPRESSIONS = watches_at(HOURS), impressions_at(HOURS, 14)
SEARCHES = st.lists(st.builds(search, IDS, HOURS, st.sampled_from(["cat", "dog", "cat dog"])), max_size=8)
# The same over four days in New York. A page may have rows on several of them.
LATER_WATCHES, LATER_IMPRESSIONS = watches_at(st.integers(0, 60)), impressions_at(st.integers(0, 60), 30)
