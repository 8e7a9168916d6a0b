"""The evaluation's figures against plain loops over the lists it wrote, as of the start of the held-out days."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from made_frames import hours, user_vector, watch, watches_frame, write

from transforms.collect import WriteRecords, take_records
from transforms.evaluation import (
    MOST_POPULAR,
    NEIGHBOURS,
    WriteEvaluation,
    cuts,
    merge_records,
    popularity_index,
    score_lists,
)
from transforms.indexing import VIDEOS, IndexInputs, write_index
from transforms.neighbours import BucketRecords, SearchInputs
from transforms.search import TopK
from transforms.tfrecords import write_tfrecords
from transforms.window import BucketFiles, Window

N, K = 15, 4
START = hours(24)  # of the held-out days
DRAW = np.random.default_rng(3)
VECTORS = pl.DataFrame(
    {
        "id": range(1, N + 1),
        "video_id": [f"v{i:02d}" for i in range(1, N + 1)],
        "vector": [[float(x) for x in DRAW.integers(-3, 4, 4)] for _ in range(N)],
    },
    schema_overrides={"vector": pl.List(pl.Float32)},
)
COUNTS = [int(count) for count in sorted(DRAW.integers(1, 9, N), reverse=True)]
UPLOADS = {"v01": START, "v02": hours(23.9), "v03": hours(30), "v04": None}
LATE = {"v01", "v03"}
LABELS = {"aa-b": [0, 1, 5, 6], "c-dd-e": [2, 7], "fff": [0], "g-h-ii": [3, 4, 9, 11, 12, 13]}
WATCHES = [watch(u, i, f"v{(i * 3 + n) % N + 1:02d}", i % 3 > 0) for n, u in enumerate(LABELS) for i in range(4)]


def allowed(user: str) -> list[str]:
    """What could have been shown to a user when the held-out days began."""
    seen = {w["video_id"] for w in WATCHES if w["user_id"] == user and w["completed"]}
    return [video for video in VECTORS["video_id"] if video not in seen | LATE]


def lists_by_hand(system: str) -> dict[str, list[str]]:
    vectors = dict(VECTORS.select("video_id", "vector").iter_rows())
    counts = dict(zip(VECTORS["video_id"], COUNTS, strict=True))
    found = {}
    for user in LABELS:
        score = {
            v: np.dot(vectors[v], user_vector(user, 3)) if system == NEIGHBOURS else counts[v] for v in allowed(user)
        }
        found[user] = sorted(score, key=lambda v: (-score[v], v))[:K]
    return found


def figures_by_hand(lists: dict[str, list[str]]) -> dict[str, float]:
    id_of = dict(VECTORS.select("video_id", "id").iter_rows())
    pairs = sum(len(labels) for labels in LABELS.values())
    hits = {user: [id_of[video] in LABELS[user] for video in videos] for user, videos in lists.items()}
    discount = [1 / np.log2(rank + 2) for rank in range(K)]
    gains = {user: sum(d for d, hit in zip(discount, row, strict=False) if hit) for user, row in hits.items()}
    ndcg = [gain / sum(discount[: len(LABELS[user])]) for user, gain in gains.items()]
    first = [1 / (row.index(True) + 1) if any(row) else 0 for row in hits.values()]
    return {
        f"recall@{K}": sum(map(sum, hits.values())) / pairs,
        f"hit@{K}": sum(map(any, hits.values())) / len(hits),
        f"ndcg@{K}": float(np.mean(ndcg)),
        "mrr": float(np.mean(first)),
        "users": len(LABELS),
        "pairs": pairs,
    }


@pytest.fixture
def evaluated(tmp_path: Path, tower: str) -> tuple[Path, list[dict[str, Any]]]:
    """The folder with the lists, and the records: two buckets of held-out users, one without."""
    uploads = [UPLOADS.get(video) for video in VECTORS["video_id"]]
    catalogue = pl.DataFrame({"video_id": VECTORS["video_id"], "available": [True] * N, "upload_time": uploads})
    made_of = IndexInputs(
        vectors=write(VECTORS, tmp_path / "vectors"),
        catalogue=write(catalogue, tmp_path / "catalogue"),
        tower=tower,
        serving=(),
        k=K,
        similar=0,
        recall=0.9,
    )
    list(write_index("candidates", made_of, str(tmp_path), "1"))
    watches = write(watches_frame(WATCHES), tmp_path / "watches")
    counts = write(pl.DataFrame({"token": VECTORS["video_id"], "count": COUNTS}), tmp_path / "counts")
    buckets = [BucketRecords(files=BucketFiles(bucket=9), records="")]
    for bucket, users in enumerate((list(LABELS)[:3], list(LABELS)[3:])):
        labels = pl.DataFrame({"user_id": users, "label": [LABELS[user] for user in users]})
        write_tfrecords(labels, str(tmp_path), f"{bucket}")
        of_window = BucketFiles(bucket=bucket, watches=(watches,))
        buckets.append(BucketRecords(files=of_window, records=str(tmp_path / f"{bucket}")))
    inputs = SearchInputs(
        tower=tower, index=str(tmp_path / "candidates-1"), videos=str(tmp_path / VIDEOS), k=K, exclude="completed"
    )
    window = Window(start=hours(0), end=START)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        evaluate = WriteEvaluation(window, inputs, counts, str(tmp_path), "{bucket}.parquet")
        pipeline | beam.Create(buckets) | evaluate | WriteRecords(str(tmp_path / "records"))
    return tmp_path / "lists", take_records(str(tmp_path / "records"))


def test_lists_are_as_of_the_start_of_the_held_out_days(evaluated: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, records = evaluated
    assert sorted(r["file"]["name"] for r in records if "file" in r) == ["lists/0.parquet", "lists/1.parquet"]
    written = {u: v for path in folder.iterdir() for u, v, _ in pl.read_parquet(path).iter_rows()}
    assert written == lists_by_hand(NEIGHBOURS)
    assert not LATE & {video for videos in written.values() for video in videos}


@pytest.mark.parametrize("system", [NEIGHBOURS, MOST_POPULAR])
def test_figures_are_those_of_the_lists(system: str, evaluated: tuple[Path, list[dict[str, Any]]]) -> None:
    figures = merge_records(evaluated[1], system, K)
    expected = figures_by_hand(lists_by_hand(system))
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert 0 < figures[f"recall@{K}"] < 1


def test_nobody_held_out_has_no_figures() -> None:
    assert merge_records([{"file": {}}], NEIGHBOURS, K) == {}


@pytest.mark.parametrize(
    ("k", "expected"), [(1, (1,)), (10, (10,)), (60, (10, 50, 60)), (1000, (10, 50, 100, 200, 1000))]
)
def test_lists_are_cut_at_the_usual_places(k: int, expected: tuple[int, ...]) -> None:
    assert cuts(k) == expected


def test_the_most_popular_come_first_ties_by_id() -> None:
    videos = pl.DataFrame({"video_id": ["a", "b", "c"], "id": [3, 1, 2]})
    index = popularity_index(videos, pl.DataFrame({"token": ["b", "c", "a"], "count": [7, 2, 2]}))
    assert index.search(np.ones((1, 1), np.float32), 3).positions.tolist() == [[1, 0, 2]]


def test_labels_that_cannot_be_found_count_as_missed() -> None:
    top = TopK(
        positions=np.array([[0, 1], [1, -1]], np.int32),
        scores=np.zeros((2, 2), np.float32),
        lengths=np.array([2, 1], np.int32),
    )
    labels = pl.Series([[0, 0, 8], [0]], dtype=pl.List(pl.Int64))
    figures = score_lists(top, labels, np.array([8, 5]), [1, 2]).compute()
    assert (figures["pairs"], figures["recall@2"], figures["hit@1"]) == (4, 0.25, 0.5)
