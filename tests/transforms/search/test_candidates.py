"""The candidate videos, the conditions of `[index] only`, and the split of videos into shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours

from transforms.search.candidates import (
    NoCandidatesError,
    candidate_videos,
    condition_columns,
    parse_condition,
    recent_videos,
    shard_count,
    shard_positions,
)

VECTORS = pl.DataFrame({"id": [1, 2, 3, 4], "video_id": ["d", "b", "a", "c"]})
CATALOGUE = pl.DataFrame(
    {
        "video_id": ["a", "b", "c", "d", "unknown"],
        "available": [True, True, False, True, True],
        "upload_time": pl.Series([hours(1), None, hours(1), hours(47), hours(1)], dtype=pl.Datetime("us", "UTC")),
        "language": ["de", "de", "de", None, "de"],
        "video_seconds": pl.Series([10, 20, 30, 40, 50], dtype=pl.Float32),
    }
)
END = hours(48)


def ids(only: str | None) -> list[str]:
    return candidate_videos(VECTORS, CATALOGUE, only, END)["video_id"].to_list()


def test_videos_of_the_model_that_are_available_are_candidates() -> None:
    everything = candidate_videos(VECTORS, None)
    assert everything.rows() == [("a", 3, None), ("b", 2, None), ("c", 4, None), ("d", 1, None)]
    shown = candidate_videos(VECTORS, CATALOGUE)
    assert shown.rows() == [("a", 3, hours(1)), ("b", 2, None), ("d", 1, hours(47))]
    assert shown.schema == everything.schema


def test_recent_videos_are_uploads_that_may_be_shown() -> None:
    counts = pl.DataFrame({"token": ["d", "b", "a"], "count": [9, 5, 2]})
    uploads = pl.Series([hours(40), None, hours(40), hours(47), hours(24)], dtype=pl.Datetime("us", "UTC"))
    catalogue = CATALOGUE.with_columns(upload_time=uploads)
    found = recent_videos(counts, catalogue, since=hours(24), end=END)
    assert found.rows() == [("a", 3, hours(40), 2), ("d", 1, hours(47), 9), ("unknown", None, hours(24), 0)]
    later = recent_videos(counts, catalogue, "language = 'de' AND age_days < 1", since=hours(25), end=hours(47))
    assert later["video_id"].to_list() == ["a"], "before the end, and under the condition"


@pytest.mark.parametrize(
    ("only", "left"),
    [
        (None, ["a", "b", "d"]),
        ("age_days < 1", ["d"]),  # the upload time of b is unknown
        ("age_days >= 1", ["a"]),
        ("language = 'de'", ["a", "b"]),
        (
            "NOT language = 'de' OR video_seconds > 15",
            ["b", "d"],
        ),  # a condition on a null is not fulfilled, and neither is its negation
        ("video_id IN ('a', 'd', 'unknown') AND available", ["a", "d"]),
    ],
)
def test_only_videos_that_fulfil_the_condition_are_candidates(only: str | None, left: list[str]) -> None:
    assert ids(only) == left


@pytest.mark.parametrize(("hour", "age"), [(48, 0), (24.001, 0), (24, 1), (0, 2), (48.001, -1)])
def test_age_is_in_whole_days_at_the_end_of_the_night(hour: float, age: int) -> None:
    one = CATALOGUE[:1].with_columns(upload_time=pl.lit(hours(hour)))
    assert candidate_videos(VECTORS, one, f"age_days = {age}", END).height == 1
    with pytest.raises(NoCandidatesError):
        candidate_videos(VECTORS, one, f"age_days <> {age}", END)


def test_columns_that_a_condition_uses() -> None:
    assert condition_columns("age_days < 1 AND (title LIKE '%a%' OR age_days > 5)") == {"age_days", "title"}
    assert condition_columns(None) == set()


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (
            "age_dayz < 1",
            r"no column age_dayz; did you mean age_days\? \(known are video_id, upload_time, .*age_days; tex",
        ),
        ('language = "de"', "no column de; .*text goes in 'single quotes'"),
        ("age_days <", "is not an SQL condition such as .*unable to parse"),
        ("age_days < 1; DROP", "is not an SQL condition.*unexpected token"),
        ("SELECT video_id FROM videos", "is not an SQL condition"),
        ("title > 5", "is not an SQL condition.*cannot compare string with numeric type"),
        ("age_days + 1", "must be true or false for a video.*has the type Int64"),
    ],
)
def test_an_invalid_condition_is_an_error(only: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_condition(only)


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("title IN (SELECT column_1 FROM read_csv('{file}'))", "unexpected token SELECT"),
        (
            "read_csv('{file}') IS NOT NULL",
            "may not call read_csv: a condition may use columns, values, operators and ABS",
        ),
        ("title = READ_PARQUET ('{file}')", "may not call READ_PARQUET"),
        ("EXISTS (SELECT 1 FROM '{file}')", "may not call EXISTS"),
        ("age_days < 1 -- AND language", "unexpected token -"),
        ("age_days < 1 /* more */", "unexpected token /"),
        ("title = $$text$$", r"unexpected token \$"),
        ("title = `channel`", "unexpected token `"),
        ("videos.title = 'a'", "there is no column videos"),
        ("'{file}'.title = 'a'", r"unexpected token \."),
        ("title = 'open", "unexpected token '"),
    ],
)
def test_a_condition_cannot_read_anything_but_its_columns(
    only: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.csv").write_text("column_1\nsecret\n")
    monkeypatch.setattr(pl, "sql_expr", lambda _: pytest.fail("the condition was passed to polars"))
    with pytest.raises(ValueError, match=message):
        parse_condition(only.replace("{file}", str(tmp_path / "secret.csv")))


@pytest.mark.parametrize(
    ("only", "left"),
    [
        ("title LIKE 'It''s %' AND age_days BETWEEN 0 AND 1", ["a"]),
        ("LOWER(title) = 'read_csv(x) -- y'", ["b"]),
        ("(age_days + 1) * 2 >= 4 AND (age_days) IN (1, 2.5, -3)", ["a"]),
        ("title IS NULL OR NOT (age_days <= 1)", ["d"]),
        ("CASE WHEN age_days IS NULL THEN TRUE ELSE FALSE END", ["b"]),
        ("\"language\" != 'en' AND COALESCE(title, '') <> ''", ["a", "b"]),
        ("STARTS_WITH(title, 'It') OR LENGTH(title) > 100", ["a"]),
        ("CAST(video_seconds AS INTEGER) % 20 = 0 and title is not null", ["b"]),
    ],
)
def test_conditions_with_columns_values_operators_and_functions(only: str, left: list[str]) -> None:
    titles = pl.Series(["It's me", "READ_CSV(x) -- y", "c", None, "e"])
    found = candidate_videos(VECTORS, CATALOGUE.with_columns(title=titles), only, END)
    assert found["video_id"].to_list() == left


def test_no_candidate_is_an_error() -> None:
    with pytest.raises(NoCandidatesError, match="no video of the model is available"):
        candidate_videos(VECTORS, CATALOGUE.filter(pl.col("video_id") == "unknown"), "age_days < 1", END)
    with pytest.raises(NoCandidatesError, match=r"none of the 3 available videos fulfils index\.only = 'age_day"):
        ids("age_days > 100")
    with pytest.raises(NoCandidatesError, match="the model has no videos"):
        candidate_videos(VECTORS.clear(), None)


@given(st.lists(st.text(max_size=5), unique=True, min_size=1, max_size=60), st.integers(1, 8))
def test_shards_are_disjoint_complete_and_even(names: list[str], shards: int) -> None:
    found = shard_positions(pl.Series(names, dtype=pl.String), shards=shards)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(names)))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert all((np.diff(part) > 0).all() for part in found)


def test_shards_are_assigned_by_digest() -> None:
    first, _ = shard_positions(pl.Series([f"v{i:04d}" for i in range(2_000)]), shards=2)
    assert 450 < (first < 1_000).sum() < 550


@pytest.mark.parametrize(("videos", "most", "shards"), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2), (9, 4, 3)])
def test_no_shard_exceeds_the_maximum(videos: int, most: int, shards: int) -> None:
    assert shard_count(videos, most) == shards
    names = pl.Series([f"v{i}" for i in range(videos)])
    assert max(len(part) for part in shard_positions(names, shards=shards)) <= most
