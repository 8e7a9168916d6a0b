from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.base import paths
from pipelines.night.stage import STAGES


@pytest.mark.parametrize(
    ("folder", "path", "found"),
    [
        ("/jobs", "logs/w", "/jobs/logs/w"),
        ("/jobs", "/logs/w", "/logs/w"),
        ("/jobs", "gs://bucket/w", "gs://bucket/w"),
        ("/jobs", "s3://bucket/*/w.csv", "s3://bucket/*/w.csv"),
    ],
)
def test_below_leaves_paths_alone_that_are_whole(folder: str, path: str, found: str) -> None:
    assert paths.resolve(folder, path) == found


@given(st.integers(0, 99_999), st.integers(1, 99_999), st.from_regex(r"[0-9a-f]{8}", fullmatch=True))
def test_the_index_of_a_shard_is_read_back_from_its_name(index: int, count: int, attempt: str) -> None:
    name = paths.shard(index, count, attempt, "parquet")
    assert paths.shard_index(name) == paths.shard_index(f"/base-of-all/00007-of-x/{name}") == index


def test_everything_of_a_root_lies_below_it_and_every_stage_has_a_folder_of_its_own() -> None:
    root, date = paths.Root("/base"), dt.date(2026, 11, 21)
    assert (root.store, root.snapshots, root.nights) == ("/base/store", "/base/store/snapshots", "/base/nights")
    assert (root.published, root.lock) == ("/base/published.json", "/base/LOCK")
    folders = [root.stage(date, stage) for stage in STAGES]
    assert len(set(folders)) == len(STAGES)
    assert all(folder.startswith("/base/nights/2026-11-21/") for folder in folders)
    assert root.stage(date, "train") == "/base/nights/2026-11-21/model"
