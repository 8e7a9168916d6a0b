"""Features of impressions compared with plain Python; none depends on events at or after its time."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours, watch
from shown import CATALOGUE, IMPRESSIONS, SEARCHES, USERS, WATCHES, context_of, events_of, impression, page_start

from transforms.logs.schemas import IMPRESSION_SCHEMA
from transforms.ranking.features import NUMBERS, QUERY_NUMBERS, Features, ImpressionContext

ZONE = "America/New_York"
BY_VIDEO = {row["video_id"]: row for row in CATALOGUE.iter_rows(named=True)}
BY_USER = {row["user_id"]: row for row in USERS.iter_rows(named=True)}
Rows = list[dict[str, Any]]


def rows_of(found: Features) -> Rows:
    """Return a row per impression with all its features, NaN as None."""
    requests = found.requests[found.request].drop("user_id", "time")
    seen = found.watches.count[found.request]
    rows = pl.concat([found.shown, requests], how="horizontal").with_columns(seen=pl.Series(seen))
    return list(rows.with_columns(pl.col(pl.Float32).fill_nan(None)).iter_rows(named=True))


def oracle(shown: dict[str, Any], watches: Rows, impressions: Rows) -> dict[str, Any]:
    """Return the features of one impression, in plain Python."""
    at, user, video = page_start(shown, impressions), shown["user_id"], shown["video_id"]
    had, passed = (
        sorted((e for e in events if e["user_id"] == user and e["time"] < at), key=lambda e: e["time"])
        for events in (watches, impressions)
    )
    known, channel = BY_VIDEO.get(video, {}), BY_VIDEO.get(video, {}).get("channel")

    def of_channel(events: Rows) -> Rows:
        return [e for e in events if BY_VIDEO.get(e["video_id"], {}).get("channel") == channel]

    def since(events: Rows) -> float | None:
        return (at - events[-1]["time"]).total_seconds() if events else None

    mine, shown_before = [e for e in had if e["video_id"] == video], [e for e in passed if e["video_id"] == video]
    seconds = [e["watch_seconds"] for e in had if e["watch_seconds"] is not None]
    row = BY_USER.get(user, {})
    found = {
        "channel": channel,
        "video_language": known.get("language"),
        "video_watches": len(mine),
        "seconds_since_video": since(mine),
        "channel_watches": len(of_channel(had)) if channel else None,
        "seconds_since_channel": since(of_channel(had)) if channel else None,
        "video_unclicked": sum(not e["clicked"] for e in shown_before),
        "channel_unclicked": sum(not e["clicked"] for e in of_channel(passed)) if channel else None,
        "seconds_since_impression": since(shown_before),
        "video_age_seconds": max(0.0, (at - known["upload_time"]).total_seconds())
        if known.get("upload_time")
        else None,
        "video_seconds": known.get("video_seconds") or None,
        "user_watches": len(had),
        "user_mean_watch_seconds": sum(seconds) / len(seconds) if seconds else None,
        "age": max(0, at.year - row["birth_year"]) if row else None,
        "hour": str(at.astimezone(ZoneInfo(ZONE)).hour),
        "gender": row.get("gender"),
        "seen": len(had),
    }
    for name in ("country", "device"):
        values = [e[name] for e in had if e[name] is not None]
        last = [e[name] for e in had if values and e[name] is not None and e["time"] == had_time(had, name)]
        found[name] = set(last) if values else {row.get(name)}
    return found


def had_time(had: Rows, name: str) -> dt.datetime:
    """Return the time of the last event that has a value; several events at that time may have different values."""
    return max(e["time"] for e in had if e[name] is not None)


@given(WATCHES, SEARCHES, IMPRESSIONS)
def test_features_equal_plain_python(watches: Rows, searches: Rows, impressions: Rows) -> None:
    events = events_of(watches, searches, impressions)
    found = context_of(events).features(events.impressions, zone=ZONE)
    rows = rows_of(found)

    def place(row: dict[str, Any]) -> list[Any]:
        return [row["user_id"], page_start(row, impressions), row["page_id"], row["time"], row["video_id"]]

    assert [place(row) for row in rows] == sorted(place(row) for row in impressions)
    for row in rows:
        expected = oracle(row, watches, impressions)
        for name, value in expected.items():
            if name in ("country", "device"):
                assert row.get(name) in value, (name, row)
            elif isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-6), (name, row)
            else:
                assert row[name] == value, (name, row)


def after(rows: Rows, moment: dt.datetime, changed: Rows) -> Rows:
    """Return the events before a moment, and the changed ones from it on."""
    return [e for e in rows if e["time"] < moment] + [e for e in changed if e["time"] >= moment]


@given(WATCHES, SEARCHES, IMPRESSIONS, WATCHES, SEARCHES, IMPRESSIONS, st.integers(0, 9))
def test_events_at_or_after_a_page_s_first_moment_do_not_change_its_features(
    watches: Rows, searches: Rows, impressions: Rows, more: Rows, asked: Rows, shown: Rows, hour: int
) -> None:
    """All events from an hour on are removed or replaced. All rows of pages that began up to that hour, including later
    rows, keep their features."""
    pages = [i for i in impressions if page_start(i, impressions) <= hours(hour)]
    asking = pl.DataFrame(pages, schema=IMPRESSION_SCHEMA)
    before = events_of(watches, searches, impressions)
    changed = events_of(
        after(watches, hours(hour), more), after(searches, hours(hour), asked), after(impressions, hours(hour), shown)
    )
    one, other = (context_of(events, asking).features(asking, zone=ZONE) for events in (before, changed))
    names = sorted({*one.requests.columns, *other.requests.columns, *NUMBERS})
    for mine, theirs in zip(rows_of(one), rows_of(other), strict=True):
        assert [mine.get(name) for name in names] == [theirs.get(name) for name in names]
    histories = [
        [
            context.video_ids[context.watched[first:end].tolist()].to_list()
            for first, end in zip(f.watches.first, f.watches.end, strict=True)
        ]
        for context, f in ((context_of(before, asking), one), (context_of(changed, asking), other))
    ]
    assert histories[0] == histories[1]


@given(WATCHES, IMPRESSIONS, st.integers(0, 9))
def test_a_page_that_is_split_keeps_its_first_moment(watches: Rows, impressions: Rows, hour: int) -> None:
    """The first held-out moment splits pages: later rows are described separately from earlier ones."""
    events = events_of(watches, impressions=impressions)
    context, late = context_of(events), pl.col("time") >= hours(hour)
    whole = rows_of(context.features(events.impressions, zone=ZONE))
    parts = [rows_of(context.features(events.impressions.filter(part), zone=ZONE)) for part in (~late, late)]
    by_row = {tuple(row[name] for name in IMPRESSION_SCHEMA): row for row in whole}
    assert sum(map(len, parts)) == len(whole)
    for row in (row for part in parts for row in part):
        assert row == by_row[tuple(row[name] for name in IMPRESSION_SCHEMA)]


@given(WATCHES, SEARCHES, IMPRESSIONS, st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_matter(watches: Rows, searches: Rows, impressions: Rows, random: Any) -> None:
    given_order = events_of(watches, searches, impressions)
    found = context_of(given_order).features(given_order.impressions, zone=ZONE)
    for rows in (watches, searches, impressions):
        random.shuffle(rows)
    mixed = events_of(watches, searches, impressions)
    other = context_of(mixed).features(mixed.impressions, zone=ZONE)
    counted = [*NUMBERS, *QUERY_NUMBERS]
    for mine, theirs in zip(rows_of(found), rows_of(other), strict=True):
        assert [mine[name] for name in counted] == [theirs[name] for name in counted]


def test_a_candidate_has_the_features_of_an_impression() -> None:
    """The features of a video at a moment do not depend on whether it was shown or on other candidates."""
    watches = [watch("a", 1, "v", watch_seconds=8.0), watch("a", 2, "w"), watch("b", 1, "v")]
    events = events_of(watches, impressions=[impression("a", 5, "v", "q"), impression("a", 3, "v", seconds=4.0)])
    shown = context_of(events).features(events.impressions, zone="UTC")
    asked = pl.DataFrame({"user_id": ["b", "a", "a"], "video_id": ["x", "new", "v"], "time": [hours(5)] * 3})
    candidates = context_of(events, asked).features(asked, zone="UTC")
    assert candidates.shown["video_id"].to_list() == ["new", "v", "x"] and candidates.request.tolist() == [0, 0, 1]
    one, other = rows_of(shown)[-1], rows_of(candidates)[1]
    assert {name: one[name] for name in (*NUMBERS, *QUERY_NUMBERS, "hour")} == {
        name: other[name] for name in (*NUMBERS, *QUERY_NUMBERS, "hour")
    }
    assert rows_of(candidates)[0]["video_seconds"] is None and rows_of(candidates)[0]["video_watches"] == 0


def test_empty_logs() -> None:
    nothing = events_of()
    context = ImpressionContext.from_events(nothing, pl.DataFrame(schema={"user_id": pl.String}), CATALOGUE.clear(), [])
    found = context.features(nothing.impressions, zone="UTC")
    assert (found.shown.height, found.requests.height, len(found.request)) == (0, 0, 0)
    shown = events_of(impressions=[impression("a", 1, "v")])
    context = ImpressionContext.from_events(shown, pl.DataFrame(schema={"user_id": pl.String}), CATALOGUE.clear(), [])
    (row,) = rows_of(context.features(shown.impressions, zone="UTC"))
    known = {name for name, value in row.items() if value is not None and name in (*NUMBERS, *QUERY_NUMBERS)}
    assert known == {"video_watches", "video_unclicked", "user_watches"}
    assert all(math.isnan(value) for value in context.features(shown.impressions, zone="UTC").shown["channel_watches"])
    assert isinstance(row["hour"], str) and "country" not in row
