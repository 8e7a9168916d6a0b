"""Which videos are new at a moment, and the places of new videos in lists. Whole lists: test_user_search.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_frames import hours, write

from transforms.search.exact_search import MASKED_SCORE, Candidates, pad_to_k
from transforms.search.exclusions import ChannelCap
from transforms.search.new_videos import NEW_VIDEOS, NewVideos, insert_new, read_new_videos, reserved_places


def candidates(*rows: list[int], k: int) -> Candidates:
    """Return lists of positions padded to k; the score of position p is -p."""
    longest = max(map(len, rows))
    positions = np.array([row + [-1] * (longest - len(row)) for row in rows], np.int32)
    scores = np.where(positions >= 0, -positions.astype(np.float32), MASKED_SCORE)
    return pad_to_k(positions, scores, k)


def inserted(
    ordinary: list[int], new: list[int], *, k: int, share: float, channel: list[int] | None = None, limit: int = 1
) -> list[int]:
    cap = None if channel is None else ChannelCap(channel=np.array(channel, np.int32), limit=limit)
    places = reserved_places(share, k)
    found = insert_new(candidates(ordinary, k=k), candidates(new, k=places), k=k, share=share, cap=cap)
    positions = found.positions[0].tolist()
    expected = list[float]()  # the score of the ordinary video at or before each place
    for p in positions:
        expected.append(-np.inf if p < 0 else expected[-1] if p in new and ordinary else -p)
    assert found.scores[0].tolist() == expected
    return positions


def test_new_videos_have_every_place_that_is_due() -> None:
    assert inserted(list(range(10)), [90, 91], k=10, share=0.2) == [0, 1, 2, 3, 90, 4, 5, 6, 7, 91]
    assert inserted(list(range(10)), [90, 91, 92], k=10, share=0.3) == [0, 1, 2, 90, 3, 4, 91, 5, 6, 92]
    assert inserted(list(range(10)), [90], k=10, share=0.2) == [0, 1, 2, 3, 90, 4, 5, 6, 7, 8], "fewer new videos"
    assert inserted(list(range(10)), [], k=10, share=0.2) == list(range(10)), "none"


def test_short_lists_end_with_new_videos() -> None:
    assert inserted([0, 1], [90, 91], k=10, share=0.2) == [0, 1, 90, 91] + [-1] * 6
    assert inserted([0, 1, 2, 3, 4], [90, 91], k=10, share=0.2) == [0, 1, 2, 3, 90, 4, 91] + [-1] * 3
    assert inserted([], [90, 91], k=10, share=0.2) == [90, 91] + [-1] * 8


def test_new_videos_count_towards_the_limit_of_a_channel() -> None:
    channel = [0, 1, 0, -1, 0, 2]
    assert inserted([0, 1, 3], [4], k=4, share=0.25, channel=channel) == [1, 3, 4, -1], "4 displaces 0"
    assert inserted([0, 1, 3], [5], k=4, share=0.25, channel=channel) == [0, 1, 3, 5]


def test_rows_are_independent() -> None:
    rows = [([0, 1, 2, 3, 4, 5], [90, 91]), ([5], [92]), ([], []), ([3, 2, 1, 0, 4, 5], [])]
    together = insert_new(
        candidates(*(row for row, _ in rows), k=6), candidates(*(new for _, new in rows), k=2), k=6, share=0.4
    )
    assert together.positions.tolist() == [inserted(row, new, k=6, share=0.4) for row, new in rows]


@pytest.mark.parametrize(("share", "k", "places"), [(0.05, 100, 5), (0.05, 19, 0), (0.29, 100, 29), (0.5, 3, 1)])
def test_places_are_at_most_the_share(share: float, k: int, places: int) -> None:
    assert reserved_places(share, k) == places


def test_new_are_the_recent_uploads_without_an_earlier_completed_watch(tmp_path: Path) -> None:
    videos = {  # upload time in hours, completed watches: in all, and later
        "b": (10, 0, 0),
        "a": (11.9, 3, 3),
        "watched": (11, 3, 2),
        "early": (9.9, 0, 0),
        "late": (12, 0, 0),
    }
    rows = [(name, None, hours(time), count, [1.0, 2.0]) for name, (time, count, _) in videos.items()]
    path = write(pl.DataFrame(rows, schema=NEW_VIDEOS, orient="row"), tmp_path / "new")
    later = [(name, count) for name, (_, _, count) in videos.items() if count]
    counts = write(
        pl.DataFrame(later, schema={"token": pl.String, "count": pl.Int64}, orient="row"), tmp_path / "later"
    )
    now = NewVideos(path=path, share=0.1, since=hours(10), until=hours(12))
    assert read_new_videos(now)["video_id"].to_list() == ["b"]
    then = NewVideos(path=path, share=0.1, since=hours(10), until=hours(12), later_counts=counts)
    assert read_new_videos(then)["video_id"].to_list() == ["a", "b"], "ordered by id"
