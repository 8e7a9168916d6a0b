"""What nights' generators say of impressions, against plain Python; and never more than a night that had begun."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_frames import hours, watch, write
from shown import context_of, events_of, impression

from transforms.ranking.features import Features
from transforms.ranking.generator_features import GENERATOR_NUMBERS, GeneratorNight, generator_features, lookup_rows
from transforms.search.neighbours import LISTS

VECTORS = {"v": [1.0, 0.0, 0.5], "w": [3.0, 4.0, -1.0], "x": [0.0, 0.0, 2.0]}  # [v; b]
USER = {"a": [2.0, 1.0, 1.0], "b": [0.0, 1.0, 1.0]}  # [u; 1]
LISTED = {"a": ["w", "v"], "other": ["x"]}
WATCHES = [watch("a", 1, "w"), watch("a", 2, "v"), watch("a", 3, "unknown"), watch("a", 6, "x"), watch("b", 4, "w")]
SHOWN = [
    *(
        impression(user, hour, video, f"page of {hour}")
        for user in "abc"
        for hour in (0, 5, 9)
        for video in ("v", "w", "x", "unknown")
    ),
    *(impression("a", 2, video, "page of 2") for video in "vw"),
]


def night(folder: Path, hour: int, *, scale: float = 1.0) -> GeneratorNight:
    """Return a night that begins at an hour."""
    below = folder / str(hour)
    videos = {"video_id": list(VECTORS), "vector": [[scale * x for x in vector] for vector in VECTORS.values()]}
    lists = {"user_id": list(LISTED), "video_ids": list(LISTED.values()), "scores": [[2.0, 1.0], [1.0]]}
    return GeneratorNight(
        start=hours(hour),
        lists=(write(pl.DataFrame(lists, schema=LISTS), below / "lists"),),
        vectors=(write(pl.DataFrame({"user_id": list(USER), "vector": list(USER.values())}), below / "vectors"),),
        videos=write(pl.DataFrame(videos), below / "videos"),
    )


def cosine(one: list[float] | None, other: list[float] | None) -> float:
    if one is None or other is None or not any(one) or not any(other):
        return math.nan
    return float(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))


def oracle(user: str, hour: float, video: str, scale: float) -> list[float]:
    """Return `GENERATOR_NUMBERS` of one night whose vectors are `scale` times `VECTORS`."""
    vector = [scale * x for x in VECTORS[video]] if video in VECTORS else None
    score = float(np.dot(USER[user], vector)) if vector and user in USER else math.nan
    rank = LISTED.get(user, []).index(video) + 1.0 if video in LISTED.get(user, []) else math.nan
    had = [w["video_id"] for w in WATCHES if w["user_id"] == user and w["time"] < hours(hour)]
    known = [VECTORS[one][:-1] for one in had if one in VECTORS]
    last = VECTORS[had[-1]][:-1] if had and had[-1] in VECTORS else None
    v = vector[:-1] if vector else None
    return [score, rank, cosine(v, last), cosine(v, np.mean(known, axis=0).tolist() if known else None)]


def by_impression(features: Features, found: dict[str, np.ndarray]) -> dict[tuple[str, float, str], list[float]]:
    ids = features.shown.select("user_id", hour=(pl.col("time") - hours(0)).dt.total_hours(), video="video_id")
    return {key: [float(found[name][row]) for name in GENERATOR_NUMBERS] for row, key in enumerate(ids.iter_rows())}


def test_each_impression_uses_the_newest_night_before_it(tmp_path: Path) -> None:
    events = events_of(WATCHES, impressions=SHOWN)
    context = context_of(events)
    features = context.features(events.impressions, zone="UTC")
    nights = [night(tmp_path, 9, scale=3.0), night(tmp_path, 2)]
    found = by_impression(features, generator_features(features, context, nights))
    for (user, hour, video), values in found.items():
        if hour < 2:
            assert np.isnan(values).all(), "no night had begun"
        else:
            expected = oracle(user, hour, video, 3.0 if hour >= 9 else 1.0)
            assert values == pytest.approx(expected, rel=1e-6, nan_ok=True), (user, hour, video)
    assert found["a", 2, "v"][0] == 2.5 and found["a", 9, "v"][0] == 7.5
    assert found["a", 2, "v"][2] == pytest.approx(0.6), "watches at the same time are not in the history"
    later = generator_features(features, context, [*nights, night(tmp_path, 10, scale=9.0)])
    assert repr(by_impression(features, later)) == repr(found), "a later night is not used"


def test_all_rows_of_a_page_use_the_night_of_its_first_moment(tmp_path: Path) -> None:
    """A night that begins while a page is open may have been trained on the page's outcome."""
    events = events_of(WATCHES, impressions=[impression("a", 8, "v"), impression("a", 10, "w")])
    context = context_of(events)
    features = context.features(events.impressions, zone="UTC")
    found = by_impression(
        features, generator_features(features, context, [night(tmp_path, 9, scale=3.0), night(tmp_path, 2)])
    )
    for hour, video in ((8, "v"), (10, "w")):
        assert found["a", hour, video] == pytest.approx(oracle("a", 8, video, 1.0), rel=1e-6, nan_ok=True)


def test_listed_candidates_keep_their_score_and_rank(tmp_path: Path) -> None:
    events = events_of(WATCHES)
    asked = pl.DataFrame(
        {
            "user_id": ["a", "a", "b"],
            "video_id": ["w", "x", "v"],
            "time": [hours(24)] * 3,
            "score": [0.25, 0.5, 0.75],
            "rank": [1.0, 2.0, 1.0],
        }
    )
    context = context_of(events, asked)
    features = context.features(asked, zone="UTC")
    found = generator_features(features, context, [night(tmp_path, 24)], listed=True)
    assert found["score"].tolist() == [0.25, 0.5, 0.75] and found["rank"].tolist() == [1.0, 2.0, 1.0]
    expected = [oracle(user, 24, video, 1.0)[2:] for user, video in zip("aab", "wxv", strict=True)]
    cosines = np.stack([found["similarity_last"], found["similarity_history"]], axis=1)
    assert cosines.tolist() == [pytest.approx(row, rel=1e-6, nan_ok=True) for row in expected]


def test_unknown_users_and_no_nights(tmp_path: Path) -> None:
    events = events_of(impressions=[impression("stranger", 5, "v")])
    context = context_of(events)
    features = context.features(events.impressions, zone="UTC")
    for nights in ([], [night(tmp_path, 2)]):
        found = generator_features(features, context, nights)
        assert list(found) == list(GENERATOR_NUMBERS) and all(np.isnan(found[name]).all() for name in found)


def test_rows_of_ids() -> None:
    among = pl.Series(["b", "a"])
    assert lookup_rows(pl.Series(["a", "c", None, "b"]), among).tolist() == [1, -1, -1, 0]
