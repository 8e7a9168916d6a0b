"""Lists of every user and every video, against a search by hand."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_frames import hours, user_vector, watch, watches_frame, write

from transforms.collect import WriteRecords, take_records
from transforms.indexing import VIDEOS, IndexInputs, to_matrix, write_index
from transforms.neighbours import (
    LISTS,
    BucketRecords,
    Exclude,
    SearchInputs,
    WriteNeighbours,
    WriteSimilar,
    excluded_for,
    seen_pairs,
    to_lists,
    vectors_frame,
)
from transforms.search import TopK
from transforms.tfrecords import write_tfrecords
from transforms.window import BucketFiles, Window

N = 12
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


def by_hand(user: str, exclude: Exclude, k: int) -> list[tuple[str, float]]:
    kept = [w for w in WATCHES if w["user_id"] == user and w["time"] < WINDOW.end]
    gone = {w["video_id"] for w in kept if exclude == "watched" or (exclude == "completed" and w["completed"])}
    scores = {
        video: float(np.dot(vector, user_vector(user, 3)))
        for video, vector in VECTORS.select("video_id", "vector").iter_rows()
        if video not in gone
    }
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]


@pytest.fixture
def search(tmp_path: Path, tower: str) -> SearchInputs:
    vectors = write(VECTORS, tmp_path / "vectors")
    made_of = IndexInputs(vectors=vectors, catalogue=None, tower=tower, serving=(), k=5, similar=3, recall=0.9)
    for kind in ("candidates", "similar"):
        list(write_index(kind, made_of, str(tmp_path), "1"))
    return SearchInputs(
        tower=tower, index=str(tmp_path / "candidates-1"), videos=str(tmp_path / VIDEOS), k=5, exclude="completed"
    )


@pytest.mark.parametrize("exclude", ["completed", "watched", "none"])
@pytest.mark.parametrize("k", [1, 5, 100])
def test_lists_are_those_found_by_hand(exclude: Exclude, k: int, search: SearchInputs, tmp_path: Path) -> None:
    watches = write(watches_frame(WATCHES), tmp_path / "watches")
    write_tfrecords(pl.DataFrame({"user_id": USERS}), str(tmp_path), "serving")
    buckets = [
        BucketRecords(files=BucketFiles(bucket=0, watches=(watches,)), records=str(tmp_path / "serving")),
        BucketRecords(files=BucketFiles(bucket=1), records=""),
    ]
    folder = tmp_path / "neighbours"
    inputs = SearchInputs(**{**vars(search), "k": k, "exclude": exclude})
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        written = pipeline | beam.Create(buckets) | WriteNeighbours(WINDOW, inputs, str(folder), "{bucket}.parquet")
        written | WriteRecords(str(tmp_path / "records"))
    lists = pl.read_parquet(folder / "0.parquet")
    assert lists.schema == LISTS
    expected = {user: by_hand(user, exclude, k) for user in USERS}
    assert lists["user_id"].to_list() == USERS
    for user, videos, scores in lists.iter_rows():
        assert list(zip(videos, scores, strict=True)) == expected[user]
        assert len(set(videos)) == len(videos)
    assert pl.read_parquet(folder / "1.parquet").equals(pl.DataFrame(schema=LISTS))
    vectors = pl.read_parquet(tmp_path / "user_vectors" / "0.parquet")
    assert vectors.rows() == [(user, user_vector(user, 3)) for user in USERS]
    counts = [r["counts"] for r in take_records(str(tmp_path / "records")) if "counts" in r]
    short = sum(len(found) < k for found in expected.values())
    assert sorted(counts, key=lambda c: c["users"]) == [
        {"users": 0, "short_lists": 0, "empty_lists": 0},
        {"users": len(USERS), "short_lists": short, "empty_lists": 0},
    ]


def test_a_user_who_has_had_everything_gets_an_empty_list(search: SearchInputs, tmp_path: Path) -> None:
    watches = write(watches_frame([watch("a", 1, f"v{i:02d}") for i in range(N)]), tmp_path / "watches")
    write_tfrecords(pl.DataFrame({"user_id": ["a"]}), str(tmp_path), "serving")
    bucket = BucketRecords(files=BucketFiles(bucket=0, watches=(watches,)), records=str(tmp_path / "serving"))
    found = [bucket] | WriteNeighbours(WINDOW, search, str(tmp_path / "n"), "{bucket}")
    assert [r["counts"] for r in found if "counts" in r] == [{"users": 1, "short_lists": 1, "empty_lists": 1}]
    assert pl.read_parquet(tmp_path / "n" / "0").rows() == [("a", [], [])]


@pytest.mark.parametrize("k", [3, 100])
def test_similar_videos_are_the_nearest_by_angle_without_itself(k: int, search: SearchInputs, tmp_path: Path) -> None:
    write_similar = WriteSimilar(str(tmp_path / "similar-1"), search.videos, k, str(tmp_path / "n"), "{block}.parquet")
    [(0, 0, 7), (1, 7, N)] | write_similar
    rows = pl.concat([pl.read_parquet(tmp_path / "similar" / f"{block}.parquet") for block in range(2)])
    ordered = VECTORS.sort("video_id")
    matrix = to_matrix(ordered["vector"])[:, :3].astype(np.float64)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    cosine = (matrix / np.where(lengths, lengths, 1)) @ (matrix / np.where(lengths, lengths, 1)).T
    assert rows["video_id"].to_list() == ordered["video_id"].to_list()
    for at, (video, videos, scores) in enumerate(rows.iter_rows()):
        others = np.delete(cosine[at], at)
        assert video not in videos
        assert len(set(videos)) == len(videos) == min(k, N - 1)
        np.testing.assert_allclose(scores, np.sort(others)[::-1][:k], atol=1e-6)
        positions = [ordered["video_id"].to_list().index(other) for other in videos]
        np.testing.assert_allclose(cosine[at][positions], scores, atol=1e-6)


PAIR = st.tuples(st.sampled_from(["u1", "u2", "other"]), st.sampled_from(["a", "b", "c", "gone"]))
PAIRS = st.lists(PAIR, max_size=15)


@settings(max_examples=40)
@given(PAIRS, st.permutations(["u1", "u2", "u3"]))
def test_what_a_user_has_had_is_excluded_for_that_user(pairs: list[tuple[str, str]], users: list[str]) -> None:
    videos = pl.DataFrame({"position": pl.Series([0, 1, 2], dtype=pl.Int32), "video_id": ["a", "b", "c"]})
    seen = pl.DataFrame(pairs, schema={"user_id": pl.String, "video_id": pl.String}, orient="row")
    found = excluded_for(users, seen, videos)
    for at, user in enumerate(users):
        positions = found.positions[found.offsets[at] : found.offsets[at + 1]].tolist()
        assert set(positions) == {"abc".index(video) for who, video in pairs if who == user and video != "gone"}
    assert len(found.offsets) == 4
    assert excluded_for([], seen, videos).offsets.tolist() == [0]


def test_what_counts_as_had() -> None:
    watches = watches_frame([watch("a", 1, "x"), watch("a", 2, "x"), watch("a", 3, "y", False)])
    assert seen_pairs(watches, "completed").rows() == [("a", "x"), ("a", "x")]
    assert seen_pairs(watches, "watched").rows() == [("a", "x"), ("a", "x"), ("a", "y")]
    assert seen_pairs(watches, "none").rows() == []


def test_results_as_lists_of_their_lengths() -> None:
    top = TopK(
        positions=np.array([[2, 0], [1, -1], [-1, -1]], np.int32),
        scores=np.array([[2, 1], [3, -np.inf], [-np.inf, -np.inf]], np.float32),
        lengths=np.array([2, 1, 0], np.int32),
    )
    lists = to_lists(["a", "b", "c"], top, pl.Series(["x", "y", "z"]))
    assert lists.schema == LISTS
    assert lists.rows() == [("a", ["z", "x"], [2.0, 1.0]), ("b", ["y"], [3.0]), ("c", [], [])]
    assert vectors_frame(["a"], np.array([[1, 2]], np.float32)).rows() == [("a", [1.0, 2.0])]
