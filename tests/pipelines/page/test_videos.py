"""Titles, lengths and the search of videos, against plain Python."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nights import published_night, write_job

from pipelines.page.videos import COLUMNS, Videos

LISTS = pl.DataFrame(
    {"user_id": ["ann"], "video_ids": [["v1"]], "scores": [[1.0]]},
    schema_overrides={"scores": pl.List(pl.Float32)},
)
TEXT = st.text(alphabet="ab AB.*İß\0", max_size=4)


def videos(titles: dict[str, str | None]) -> Videos:
    found = pl.DataFrame({"video_id": list(titles), "title": list(titles.values())}, schema_overrides=COLUMNS)
    return Videos(found.match_to_schema(COLUMNS, missing_columns="insert"))


@given(st.dictionaries(TEXT, st.none() | TEXT, max_size=8), TEXT, st.integers(0, 8))
def test_a_search_finds_what_plain_python_finds(titles: dict[str, str | None], text: str, limit: int) -> None:
    def rank(video_id: str, title: str) -> int | None:
        if video_id == text or video_id.startswith(text):
            return int(video_id != text)
        if all(word in title for word in text.lower().split()):
            return 2 if title.startswith(text.lower().strip()) else 3
        return None

    ranked = [(rank(one, (title or "").lower()), one, title) for one, title in titles.items()]
    wanted = (
        [] if not text.split() else sorted((one for one in ranked if one[0] is not None), key=lambda one: one[0] or 0)
    )
    assert videos(titles).search(text, limit) == (len(wanted), [one[1:] for one in wanted[:limit]])


def test_values_are_those_of_the_catalogue(tmp_path: Path) -> None:
    time = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
    titles = pl.DataFrame({"video_id": ["v1", "v2"], "title": ["One", None], "upload_time": [time, None]})
    lengths = titles.with_columns(video_seconds=pl.Series([61.5, None], dtype=pl.Float32), other=1)
    found = Videos.read(
        published_night(write_job(tmp_path, 'watches = "w"'), LISTS, titles=lengths), LISTS["user_id"].clear
    )
    assert found.titles(["v1", "v2", "v3"]) == {"v1": "One"} and found.lengths(["v2", "v1"]) == {"v1": 61.5}
    assert found.get("v1") == dict.fromkeys(COLUMNS) | {
        "video_id": "v1",
        "title": "One",
        "video_seconds": 61.5,
        "upload_time": time,
    }
    assert found.get("v3") is None


@pytest.mark.parametrize("ids", [["v1", "v7"], []])
def test_without_a_catalogue_videos_are_known_by_id(tmp_path: Path, ids: list[str]) -> None:
    night = published_night(write_job(tmp_path, 'watches = "w"'), LISTS)
    found = Videos.read(night, lambda: pl.Series(ids, dtype=pl.String))
    assert found.search("v", 9) == (len(ids), [(one, None) for one in ids])
    assert found.titles(["v1"]) == found.lengths(["v1"]) == {}
