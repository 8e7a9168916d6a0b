"""Comparison of the lists of two nights: the videos shown, and the share of a list that stayed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from transforms.core.user_sampling import UserSample
from transforms.evaluation.list_comparison import FIRST, ListOverlap, compare_lists, retained_shares, user_overlap

ALL_USERS = UserSample.from_size(users=4, buckets=2, max_users=4)
TONIGHT = {"ann": ["v", "w"], "bob": ["w", "x", "y", "z"], "cat": [], "dan": ["v"]}
BEFORE = {"ann": ["w", "v"], "bob": ["x", "a", "b", "c"], "cat": ["v"], "eve": ["v"]}


def frame(lists: dict[str, list[str]]) -> pl.DataFrame:
    rows = {"user_id": list(lists), "video_ids": list(lists.values())}
    return pl.DataFrame(rows, schema={"user_id": pl.String, "video_ids": pl.List(pl.String)})


def written(folder: Path, name: str, lists: dict[str, list[str]]) -> list[str]:
    """Write two buckets of lists; return their paths."""
    paths = [str(folder / f"{name}-{bucket}.parquet") for bucket in range(2)]
    for bucket, path in enumerate(paths):
        frame({user: videos for user, videos in lists.items() if (user >= "c") == bucket}).write_parquet(path)
    return paths


def test_retention_is_over_users_with_a_list_in_both_nights() -> None:
    found = retained_shares(frame({user: TONIGHT[user] for user in ("ann", "bob", "dan")}), frame(BEFORE))
    assert found.to_list() == [1.0, 0.25]


def test_buckets_are_compared_one_by_one(tmp_path: Path) -> None:
    tonight, before = written(tmp_path, "tonight", TONIGHT), written(tmp_path, "before", BEFORE)
    found = compare_lists((([ours], [theirs]) for ours, theirs in zip(tonight, before, strict=True)), ALL_USERS)
    assert (found.lists, found.retention) == (3, pytest.approx((1 + 0.25) / 2))
    assert sorted(found.shown) == [1, 1, 1, 2, 2]  # x, y, z; v, w


def test_nights_may_have_different_numbers_of_buckets(tmp_path: Path) -> None:
    tonight, before = written(tmp_path, "tonight", TONIGHT), written(tmp_path, "before", BEFORE)
    assert compare_lists([(tonight, before)], ALL_USERS).retention == pytest.approx((1 + 0.25) / 2)


def test_without_a_night_before_there_is_no_retention(tmp_path: Path) -> None:
    found = compare_lists([(written(tmp_path, "tonight", TONIGHT), [])], ALL_USERS)
    assert (found.lists, found.retention) == (3, None)


def test_only_a_sample_of_users_is_compared(tmp_path: Path) -> None:
    lists = {f"u{n}": ["v"] for n in range(2_000)}
    paths = written(tmp_path, "tonight", lists)
    sample = UserSample.from_size(users=2_000, buckets=1, max_users=500)
    expected = int(sample.contains(pl.Series(list(lists))).sum())
    assert compare_lists([(paths, paths)], sample).lists == expected and 400 < expected < 600


def test_users_in_both_nights_are_compared(tmp_path: Path) -> None:
    tonight, before = written(tmp_path, "tonight", TONIGHT), written(tmp_path, "before", BEFORE)
    whole = user_overlap(before, tonight)
    assert whole == ListOverlap(
        users=4, other_users=3, in_both=2, retained=1.25, retained_first=1.25, same_first=0, equal=0
    )
    parts = [user_overlap([theirs], [ours]) for ours, theirs in zip(tonight, before, strict=True)]
    assert parts[0].merge(parts[1]) == whole
    same = user_overlap(before, before)
    assert same.in_both == same.retained == same.same_first == same.equal == 4


def test_the_first_videos_are_compared_by_themselves(tmp_path: Path) -> None:
    long = [f"v{n}" for n in range(2 * FIRST)]
    before = written(tmp_path, "before", {"ann": long})
    tonight = written(tmp_path, "tonight", {"ann": [*long[FIRST:], *long[:FIRST]]})
    found = user_overlap(before, tonight)
    assert (found.retained, found.retained_first, found.same_first, found.equal) == (1.0, 0.0, 0, 0)
