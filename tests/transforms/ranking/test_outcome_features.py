"""Features from the outcomes of earlier days compared with plain Python; none depends on its own day or a later one."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours, watch
from shown import (
    CATALOGUE,
    LATER_IMPRESSIONS,
    LATER_WATCHES,
    USERS,
    context_of,
    events_of,
    impression,
    page_start,
)

from transforms.core import days
from transforms.logs.event_window import Events
from transforms.logs.parsing import CompletionRule
from transforms.logs.schemas import IMPRESSION_SCHEMA
from transforms.ranking.features import Features
from transforms.ranking.outcome_features import OUTCOME_NUMBERS, VIDEO_OUTCOMES, Outcomes, outcome_features
from transforms.ranking.outcomes import OUTCOMES, count_outcomes
from transforms.ranking.shrinkage import Components

ZONE = "America/New_York"
DAYS = [dt.date(2024, 2, 29), dt.date(2024, 3, 1), dt.date(2024, 3, 2), dt.date(2024, 3, 3)]
CHANNELS = {row["video_id"]: row["channel"] for row in CATALOGUE.iter_rows(named=True)}
Rows = list[dict[str, Any]]
Key = tuple[str, ...]


def counted(events: Events) -> dict[dt.date, pl.DataFrame]:
    """Return the counts of each day with impressions."""
    rows = count_outcomes(events, USERS, CATALOGUE, days_counted=DAYS, zone=ZONE, rule=CompletionRule())
    parts = rows.partition_by("day", as_dict=True, include_key=False)
    return {day: part for (day,), part in parts.items()}


def outcomes_of(rows: dict[dt.date, pl.DataFrame], catalogue: pl.DataFrame = CATALOGUE) -> Outcomes:
    return Outcomes.from_days(rows, rows.__getitem__, catalogue, zone=ZONE)


def numbers_of(events: Events, asked: pl.DataFrame) -> tuple[Features, dict[str, np.ndarray]]:
    """Return the features of the impressions asked for, and `OUTCOME_NUMBERS`; NaN for those that the logs lack."""
    context = context_of(events, asked)
    features = context.features(asked, zone=ZONE)
    found = outcome_features(features, context, outcomes_of(counted(events)))
    unknown = np.full(features.shown.height, np.nan, np.float32)
    return features, {name: found.get(name, unknown) for name in OUTCOME_NUMBERS}


def of_day(time: dt.datetime) -> dt.date:
    return time.astimezone(ZoneInfo(ZONE)).date()


def sums(rows: dict[dt.date, pl.DataFrame], first: dt.date, end: dt.date) -> dict[Key, Counter[str]]:
    """Return the counts by (video, category, value) over the days first <= day < end, in seconds."""
    found: dict[Key, Counter[str]] = {}
    for day, counts in rows.items():
        for row in counts.iter_rows(named=True) if first <= day < end else ():
            key = (row["video_id"], row["category"], row["value"])
            total = found.setdefault(key, Counter())
            total.update({name: row[name] for name in ("impressions", "clicks", "completed", "squared_seconds")})
            total["seconds"] += row["milliseconds"] / 1000
    return found


def estimated(
    units: Sequence[tuple[Counter[str], str, float]], total: str, count: str, squares: str
) -> tuple[Components, dict[str, int]]:
    """Return the components of units (counts, group, level), and the index of each group."""
    groups = {group: i for i, group in enumerate(dict.fromkeys(group for _, group, _ in units))}
    found = Components.from_units(
        np.array([of[count] for of, _, _ in units], np.float64),
        np.array([of[total] / level for of, _, level in units]),
        squares=sum(of[squares] / level**2 for of, _, level in units),
        group=np.array([groups[group] for _, group, _ in units], np.int64),
        groups=len(groups),
    )
    return found, groups


RATES = {
    "click_rate": ("clicks", "impressions", "clicks"),
    "impression_seconds": ("seconds", "impressions", "squared_seconds"),
    "click_seconds": ("seconds", "clicks", "squared_seconds"),
    "completed_rate": ("completed", "clicks", "completed"),
}


def shrunk(total: float, count: float, towards: float, weight: float) -> float:
    return (total + weight * towards) / (count + weight) if count and np.isfinite(weight) else towards


def rate(parts: Sequence[Counter[str]]) -> float:
    """Return the seconds per impression."""
    count = sum(part["impressions"] for part in parts)
    return sum(part["seconds"] for part in parts) / count if count else np.nan


def level_of(part: Sequence[Counter[str]], whole: Sequence[Counter[str]]) -> float:
    """Return the seconds per impression of a part by those of the whole; 1 if the part has none."""
    return rate(part) / rate(whole) if part and rate(part) else 1.0


def relative(own: Counter[str], seconds: float, level: float, weight: float) -> float:
    expected = seconds * level
    return shrunk(own["seconds"], own["impressions"], expected, weight) / expected if expected else 1.0


def oracle(
    video: str, day: dt.date, categories: dict[str, str | None], rows: dict[dt.date, pl.DataFrame]
) -> dict[str, float]:
    """Return the features of one video on a day, in plain Python."""
    past = sums(rows, min(rows), day)
    videos = {key[0]: of for key, of in past.items() if not key[1]}
    if not videos:
        return dict.fromkeys(OUTCOME_NUMBERS, np.nan)
    own, channel = videos.get(video, Counter()), CHANNELS.get(video)
    found = {"video_impressions": own["impressions"] / (day - min(rows)).days}
    for name, (total, count, squares) in RATES.items():
        units = [(of, str(CHANNELS.get(of_video)), 1.0) for of_video, of in videos.items()]
        components, groups = estimated(units, total, count, squares)
        rates = components.group_rates()
        towards = rates[groups[str(channel)]] if str(channel) in groups else components.mean
        found[f"video_{name}"] = shrunk(own[total], own[count], towards, components.unit_weight)
        if name in ("click_rate", "impression_seconds"):
            found[f"channel_{name}"] = towards if channel else np.nan
    seconds = found["video_impression_seconds"]
    for name, length in (("video_day_trend", 1), ("video_week_trend", 7)):
        start = day - dt.timedelta(days=length)
        parts = [
            {k[0]: of for k, of in sums(rows, *span).items() if not k[1]} for span in ((start, day), (min(rows), start))
        ]
        levels = [level_of([*part.values()], [*videos.values()]) for part in parts]
        units = [
            (of, of_video, level) for part, level in zip(parts, levels, strict=True) for of_video, of in part.items()
        ]
        weight = estimated(units, "seconds", "impressions", "squared_seconds")[0].unit_weight
        found[name] = relative(parts[0].get(video, Counter()), seconds, levels[0], weight)
    for name, value in categories.items():
        pairs = {key: of for key, of in past.items() if key[1] == name}
        values = {
            key[2]
            for counts in rows.values()
            for key in counts.filter(category=name).select(OUTCOMES.names()[:3]).rows()
        }
        levels_of = {v: level_of([of for key, of in pairs.items() if key[2] == v], [*videos.values()]) for v in values}
        units = [(of, key[0], levels_of[key[2]]) for key, of in pairs.items()]
        if value is None:
            found[f"{name}_impression_seconds"] = np.nan
            continue
        weight = estimated(units, "seconds", "impressions", "squared_seconds")[0].unit_weight if units else np.inf
        own = past.get((video, name, value), Counter())
        found[f"{name}_impression_seconds"] = relative(own, seconds, levels_of.get(value, 1.0), weight)
    return found


@given(LATER_WATCHES, LATER_IMPRESSIONS)
def test_numbers_equal_plain_python(watches: Rows, impressions: Rows) -> None:
    events = events_of(watches, impressions=impressions)
    rows = counted(events)
    features, found = numbers_of(events, events.impressions)
    for at, row in enumerate(features.shown.iter_rows(named=True)):
        request = features.requests.row(int(features.request[at]), named=True)
        categories = {name: request.get(name) for name in ("country", "device")}
        expected = oracle(row["video_id"], of_day(page_start(row, impressions)), categories, rows)
        assert {name: found[name][at] for name in OUTCOME_NUMBERS} == pytest.approx(
            expected, rel=1e-4, abs=1e-6, nan_ok=True
        )


@given(LATER_WATCHES, LATER_IMPRESSIONS, LATER_WATCHES, LATER_IMPRESSIONS, st.sampled_from(DAYS))
def test_events_of_its_own_day_and_later_do_not_change_an_impression(
    watches: Rows, impressions: Rows, more: Rows, shown: Rows, day: dt.date
) -> None:
    """All events from the start of a day on are removed or replaced, also those of the pages themselves. All rows of
    pages that began on that day or before keep their numbers."""
    start = days.midnight(day, ZONE)
    pages = [row for row in impressions if of_day(page_start(row, impressions)) <= day]
    # As of the page's first moment, whatever becomes of its rows.
    asked = [{**row, "time": page_start(row, impressions), "page_id": f"asked {n}"} for n, row in enumerate(pages)]
    asking = pl.DataFrame(asked, schema=IMPRESSION_SCHEMA)
    past = [[row for row in rows if row["time"] < start] for rows in (watches, impressions)]
    later = [[row for row in rows if row["time"] >= start] for rows in (more, shown)]
    before = events_of(watches, impressions=impressions)
    changed = events_of([*past[0], *later[0]], impressions=[*past[1], *later[1]])
    removed = events_of(past[0], impressions=past[1])
    categories = {name: pl.Series(["SE"] * asking.height, dtype=pl.String) for name in ("country", "device")}
    found = []
    for events in (before, changed, *([removed] if past[1] else [])):
        if not events.impressions.is_empty():
            found.append(numbers_as_of_day(events, asking, categories))
    for other in found[1:]:
        for name in OUTCOME_NUMBERS:
            np.testing.assert_array_equal(found[0][name], other[name], err_msg=name)


def numbers_as_of_day(events: Events, asking: pl.DataFrame, categories: dict[str, pl.Series]) -> dict[str, np.ndarray]:
    """Return `numbers_of` in the order of the rows asked for, with given categories of the requests, which come from
    watches before the page and not from outcomes."""
    context = context_of(events, asking)
    features = context.features(asking.with_row_index("row"), zone=ZONE)
    requests = features.requests.drop("country", "device", strict=False)
    requests = requests.with_columns(values.head(requests.height).alias(name) for name, values in categories.items())
    outcomes = outcomes_of(counted(events))
    found = outcome_features(
        Features(
            shown=features.shown,
            requests=requests,
            request=features.request,
            watches=features.watches,
            videos=features.videos,
        ),
        context,
        outcomes,
    )
    order = np.argsort(features.shown["row"].to_numpy())
    unknown = np.full(asking.height, np.nan, np.float32)
    return {name: found.get(name, unknown)[order] for name in OUTCOME_NUMBERS}


def test_a_page_across_midnight_is_described_as_of_its_first_day() -> None:
    """In UTC: the page begins on the second day, and its later row is of the third."""
    shown = [
        impression("a", 1, "v", "p1", seconds=60.0),
        impression("b", 25, "w", "p2", seconds=30.0),
        impression("a", 47, "v", "p3"),
        impression("a", 49, "w", "p3", seconds=50.0),
    ]
    events = events_of(impressions=shown)
    rows = count_outcomes(
        events,
        USERS,
        CATALOGUE,
        days_counted=[hours(24 * n).date() for n in range(3)],
        zone="UTC",
        rule=CompletionRule(),
    )
    by_day = {day: part for (day,), part in rows.partition_by("day", as_dict=True, include_key=False).items()}
    context = context_of(events)
    features = context.features(events.impressions, zone="UTC")
    found = outcome_features(features, context, Outcomes.from_days(by_day, by_day.__getitem__, CATALOGUE, zone="UTC"))
    seen = dict(
        zip(
            zip(features.shown["page_id"], features.shown["video_id"], strict=True),
            found["video_impressions"],
            strict=True,
        )
    )
    assert np.isnan(seen.pop(("p1", "v")))
    assert seen == {("p2", "w"): 0, ("p3", "v"): 1, ("p3", "w"): 0}, "the counts of the first day only"


def test_candidates_have_the_numbers_of_an_impression() -> None:
    watches = [watch("a", 1, "v", country="SE"), watch("b", 2, "w", country="DE")]
    shown = [impression("a", 3 + 7 * n, "uvwxy"[n % 5], f"p{n}", seconds=n if n % 3 else None) for n in range(8)]
    events = events_of(watches, impressions=shown)
    features, found = numbers_of(events, events.impressions)
    last = features.shown.height - 1
    row = features.shown.row(last, named=True)
    candidate = pl.DataFrame([{name: row[name] for name in ("user_id", "video_id", "time")}]).cast(
        {"time": IMPRESSION_SCHEMA["time"]}
    )
    asked, of_candidate = numbers_of(events, candidate)
    assert asked.shown.height == 1
    assert {name: values[0] for name, values in of_candidate.items()} == pytest.approx(
        {name: values[last] for name, values in found.items()}, nan_ok=True
    )


def test_what_the_logs_lack_is_omitted() -> None:
    def numbers(rows: Rows, catalogue: pl.DataFrame) -> list[str]:
        events = events_of(impressions=rows)
        return outcomes_of(counted(events), catalogue).numbers

    one_day = [impression("b", 10, "v"), impression("b", 12, "w", seconds=1.0)]
    assert numbers(one_day, CATALOGUE) == []
    two_days = [*one_day, impression("b", 40, "v")]
    no_channels = CATALOGUE.with_columns(channel=pl.lit(None, pl.String))
    assert numbers(two_days, no_channels) == list(VIDEO_OUTCOMES)
    assert numbers(two_days, CATALOGUE) == [*VIDEO_OUTCOMES, "channel_click_rate", "channel_impression_seconds"]
    assert numbers([*two_days, impression("a", 41, "v")], CATALOGUE)[-1] == "country_impression_seconds"


def test_a_day_after_the_last_counted_one_has_no_trend() -> None:
    shown = [impression("b", 10 + n, video, f"p{n}", seconds=float(n)) for n, video in enumerate("vwvwvw")]
    events = events_of(impressions=[*shown, impression("b", 31, "v", "later", seconds=4.0)])
    asked = pl.DataFrame({"user_id": ["b"] * 2, "video_id": ["v", "w"], "time": [hours(24 * 30)] * 2}).cast(
        {"time": IMPRESSION_SCHEMA["time"]}
    )
    _, found = numbers_of(events, asked)
    assert found["video_day_trend"].tolist() == [1, 1] and found["video_week_trend"].tolist() == [1, 1]
    assert found["video_impressions"] == pytest.approx([4 / 29, 3 / 29])
