"""The videos that users must not be shown, compared with sets of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st
from made_frames import hours, watch, watches_frame, write

from transforms.logs.event_window import Window
from transforms.logs.schemas import HIDDEN_SCHEMA
from transforms.search import watched_videos
from transforms.search.watched_videos import WatchedVideos, read_watched

VIDEOS = pl.DataFrame({"video_id": ["a", "b", "c"], "position": pl.Series([0, 1, 2], dtype=pl.Int32)})
PAIRS = st.lists(st.tuples(st.sampled_from(["u1", "u2", "other"]), st.sampled_from([0, 1, 2])), max_size=15)


def of_users(found: WatchedVideos, users: list[str]) -> list[list[int]]:
    excluded = found.for_users(users)
    assert len(excluded.offsets) == len(users) + 1 and excluded.offsets[-1] == len(excluded.positions)
    return [sorted(positions.tolist()) for positions in np.split(excluded.positions, excluded.offsets[1:])[:-1]]


@settings(max_examples=fewer(40))
@given(PAIRS, st.permutations(["u1", "u2", "u3"]))
def test_positions_of_users_in_the_order_given(pairs: list[tuple[str, int]], users: list[str]) -> None:
    frame = pl.DataFrame(pairs, schema={"user_id": pl.String, "position": pl.Int32}, orient="row")
    found = WatchedVideos.from_pairs(frame)
    assert of_users(found, users) == [sorted({p for who, p in pairs if who == user}) for user in users]
    assert of_users(found, []) == []


@pytest.mark.parametrize(
    ("exclude", "expected"), [("completed", [[0], [1]]), ("watched", [[0, 1], [1]]), ("none", [[], [1]])]
)
def test_files_are_read_in_batches_and_hidden_pairs_always_count(
    exclude: Any, expected: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_videos, "FILES_AT_ONCE", 2)
    rows = [
        watch("u1", 10, "a"),
        watch("u1", 11, "a"),
        watch("u1", 12, "b", False),
        watch("u1", 9, "c"),  # before the window
        watch("u1", 20, "c"),  # after it
        watch("u2", 15, "no candidate"),
    ]
    paths = [write(watches_frame([row]), tmp_path / str(at)) for at, row in enumerate(rows)]
    hidden = pl.DataFrame([("u2", "b"), ("u2", "no candidate")], schema=HIDDEN_SCHEMA, orient="row")
    found = read_watched(Window(start=hours(10), end=hours(20)), paths, exclude, hidden, VIDEOS)
    assert of_users(found, ["u1", "u2"]) == expected
