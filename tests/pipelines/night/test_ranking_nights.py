"""Which earlier nights are asked what the generator said, and which of their files hold a bucket's users."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from nights import commit, night, write_job

from pipelines.base import manifest, paths
from pipelines.night import ranking_nights
from pipelines.night.night import Night
from pipelines.night.outputs import RankedLists, RankingOutputs
from transforms.core.files import FileEntry


def entry(name: str) -> FileEntry:
    return FileEntry(name=name, rows=1, bytes=1, digest=name)


def complete(of: Night, *, buckets: int = 8, vectors: bool = True, model: str = "") -> None:
    """A night's model and lists, as manifests say: the files themselves are not looked at."""
    date = of.date.isoformat()
    trained = commit(of, "train", counts={"night": date})
    names = [paths.shard(bucket, buckets, "aa", "parquet") for bucket in range(buckets)]
    beside = [f"../user_vectors/{name}" for name in names[1:]] if vectors else []
    listed, inputs = [entry(name) for name in [*names, *beside]], {"train": model or trained.digest}
    commit(of, "neighbours", listed, inputs=inputs, attempt="aa")


@pytest.fixture
def of(tmp_path: Path) -> Night:
    return night(write_job(tmp_path, 'watches = "w"', "[examples]\nwindow_days = 4\n"))


def before(of: Night, days: int) -> Night:
    return Night(of.job, of.date - dt.timedelta(days=days))


def dates(of: Night) -> list[int]:
    return [(of.date - dt.date.fromisoformat(date)).days for date in ranking_nights.newest(of)]


def test_asked_are_the_nights_of_the_window_and_the_newest_before_it(of: Night) -> None:
    for days in (9, 6, 4, 2, 1, 0):
        complete(before(of, days))
    assert dates(of) == [4, 2, 1], "the night whose date is the window's first day tells of all of it"
    for days in (4, 2, 1):
        manifest.revoke(before(of, days).folder("neighbours"))
    complete(before(of, 3))
    assert dates(of) == [6, 3]


def test_nights_that_were_withdrawn_or_are_no_longer_whole_are_not_asked(of: Night) -> None:
    complete(before(of, 4))
    complete(before(of, 3), model="another")
    complete(before(of, 2), vectors=False)
    complete(before(of, 1))
    assert dates(of) == [4, 1]
    Path(of.root.withdrawn).write_text(json.dumps([before(of, 1).date.isoformat()]))
    assert dates(of) == [4]


def test_what_was_fixed_stays(of: Night) -> None:
    complete(before(of, 2))
    fixed = ranking_nights.newest(of)
    ranked = RankedLists(neighbours_attempt="aa", ranker="ranker-aa", generators=fixed)
    outputs = RankingOutputs(ranked=ranked).model_dump(mode="json")
    commit(of, "ranking", outputs=outputs)
    complete(before(of, 1))
    assert ranking_nights.generators(of) == fixed
    manifest.revoke(before(of, 2).folder("neighbours"))
    assert ranking_nights.generators(of) == fixed, "by the digest that was written down"


@pytest.mark.parametrize(
    ("had", "bucket", "buckets", "expected"), [(8, 3, 8, [3]), (16, 3, 8, [3, 11]), (8, 11, 16, [3]), (8, 8, 16, [0])]
)
def test_the_files_of_a_bucket(of: Night, had: int, bucket: int, buckets: int, expected: list[int]) -> None:
    earlier = before(of, 2)
    complete(earlier, buckets=had)
    found = ranking_nights.of_bucket(of, earlier.date.isoformat(), bucket, buckets)
    assert [paths.shard_index(path) for path in found.lists] == expected
    assert [paths.shard_index(path) for path in found.vectors] == [one for one in expected if one]
    assert found.start == earlier.dates.end and found.videos == f"{earlier.folder('train')}/video_vectors.parquet"
