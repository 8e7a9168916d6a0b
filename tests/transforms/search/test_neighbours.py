"""Lists of users by the vectors of the tower, compared with a search in plain Python.

test_user_search tests all rules together, with other settings of `exclude` and k.
"""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from made_frames import hours, user_vector, watch, watches_frame, write
from made_index import write_made_index

from transforms.core.files import FileEntry
from transforms.core.records import Counts, WriteRecords, pop_records
from transforms.examples.tfrecords import write_tfrecords
from transforms.logs.event_window import BucketFiles, Window
from transforms.search.exact_search import Candidates
from transforms.search.neighbours import LISTS, WriteNeighbours, to_lists
from transforms.search.user_limits import BucketRecords, SearchInputs

N, K = 12, 5
DRAW = np.random.default_rng(5)
VECTORS = pl.DataFrame(
    {
        "id": range(1, N + 1),
        "video_id": [f"v{i:02d}" for i in DRAW.permutation(N)],
        "vector": [[float(x) for x in DRAW.integers(-3, 4, 4)] for _ in range(N)],  # whole numbers: exact, with ties
    },
    schema_overrides={"vector": pl.List(pl.Float32)},
)
USERS = ["ab-c-def", "a", "x-yy", "long-list-seen"]
WINDOW = Window(start=hours(0), end=hours(48))
WATCHES = [
    *(watch("ab-c-def", i, f"v{i:02d}", i % 2 == 0) for i in range(5)),
    watch("ab-c-def", 60, "v11"),  # not in the window
    watch("a", 1, "no candidate"),
    *(watch("long-list-seen", i, f"v{i:02d}") for i in range(N - 2)),
    *(watch("long-list-seen", i + 20, f"v{i:02d}") for i in range(3)),  # twice
]


def by_hand(user: str) -> list[tuple[str, float]]:
    kept = [w for w in WATCHES if w["user_id"] == user and w["time"] < WINDOW.end]
    gone = {w["video_id"] for w in kept if w["completed"]}
    scores = {
        video: float(np.dot(vector, user_vector(user, 3)))
        for video, vector in VECTORS.select("video_id", "vector").iter_rows()
        if video not in gone
    }
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:K]


@pytest.fixture
def search(tmp_path: Path, tower: str) -> SearchInputs:
    ordered = VECTORS.sort("video_id")
    index, videos = write_made_index(tmp_path, np.array(ordered["vector"].to_list()), ordered["video_id"].to_list())
    return SearchInputs(
        tower=tower, index=index, videos=videos, k=K, exclude="completed", watched_window=WINDOW, window=WINDOW
    )


def test_lists_equal_a_search_in_plain_python(search: SearchInputs, tmp_path: Path) -> None:
    watches = write(watches_frame(WATCHES), tmp_path / "watches")
    write_tfrecords(pl.DataFrame({"user_id": USERS}), str(tmp_path), "serving")
    buckets = [
        BucketRecords(files=BucketFiles(bucket=0), records=str(tmp_path / "serving"), watched=(watches,)),
        BucketRecords(files=BucketFiles(bucket=1), records=""),
    ]
    folder = tmp_path / "neighbours"
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        written = pipeline | beam.Create(buckets) | WriteNeighbours(search, str(folder), "{bucket}.parquet")
        written | WriteRecords(str(tmp_path / "records"))
    lists = pl.read_parquet(folder / "0.parquet")
    assert lists.schema == LISTS
    expected = {user: by_hand(user) for user in USERS}
    assert lists["user_id"].to_list() == USERS
    for user, videos, scores in lists.iter_rows():
        assert list(zip(videos, scores, strict=True)) == expected[user]
        assert len(set(videos)) == len(videos)
    assert pl.read_parquet(folder / "1.parquet").equals(pl.DataFrame(schema=LISTS))
    vectors = pl.read_parquet(tmp_path / "user_vectors" / "0.parquet")
    assert vectors.rows() == [(user, user_vector(user, 3)) for user in USERS]
    counts = pop_records(str(tmp_path / "records"), FileEntry, Counts).of(Counts)
    short = sum(len(found) < K for found in expected.values())
    assert counts == [Counts({"users": len(USERS), "short_lists": short, "empty_lists": 0})]
    assert not (tmp_path / "user_vectors" / "1.parquet").exists()


def test_results_become_lists_of_their_lengths() -> None:
    top = Candidates(
        positions=np.array([[2, 0], [1, -1], [-1, -1]], np.int32),
        scores=np.array([[2, 1], [3, -np.inf], [-np.inf, -np.inf]], np.float32),
    )
    lists = to_lists(["a", "b", "c"], top, pl.Series(["x", "y", "z"]))
    assert lists.schema == LISTS
    assert lists.rows() == [("a", ["z", "x"], [2.0, 1.0]), ("b", ["y"], [3.0]), ("c", [], [])]
