"""Item to item compared with plain Python: one user and one pair at a time."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours, watch, watches_frame, write

from transforms.core.files import FileEntry
from transforms.core.records import WriteRecords, pop_records
from transforms.core.user_sampling import UserSample
from transforms.evaluation import item_to_item
from transforms.evaluation.item_to_item import (
    LAST,
    NEAREST,
    UNIT,
    CoWatched,
    WriteCoWatches,
    count_pairs,
    count_watchers,
    mirror_pairs,
    nearest_videos,
    recent_videos,
)
from transforms.logs.event_window import BucketFiles, Holdout, Window

ALL_USERS = UserSample(buckets=8, share=1.0)
VIDEOS = [f"v{i:02d}" for i in range(70)]
VOCABULARY = pl.DataFrame({"token": VIDEOS, "id": range(1, len(VIDEOS) + 1)})
ID = dict(VOCABULARY.iter_rows())
rows = st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.sampled_from([*VIDEOS, "rare"]), st.booleans())


def last_videos(watches: list[dict[str, Any]], user: str) -> list[int]:
    """Return the ids of the user's last distinct completed videos, newest first."""
    newest: dict[int, Any] = {}
    for w in watches:
        if w["user_id"] == user and w["completed"] and w["video_id"] in ID:
            video = ID[w["video_id"]]
            newest[video] = max(newest.get(video, w["time"]), w["time"])
    return [video for video, _ in sorted(newest.items(), key=lambda v: (-v[1].timestamp(), v[0]))][:LAST]


def near_by_hand(histories: list[list[int]], shown: set[int]) -> dict[int, list[tuple[int, int]]]:
    had = Counter(video for history in histories for video in history)
    both = Counter(pair for history in histories for pair in combinations(sorted(history), 2))
    found: dict[int, list[tuple[int, int]]] = {}
    for (one, other), count in both.items():
        weight = round(count / math.sqrt(had[one] * had[other]) / UNIT)
        for a, b in ((one, other), (other, one)):
            if b in shown:
                found.setdefault(a, []).append((b, weight))
    return {video: sorted(others, key=lambda o: (-o[1], o[0]))[:NEAREST] for video, others in found.items()}


def as_dict(near: pl.DataFrame) -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    for video, other, weight in near.iter_rows():
        found.setdefault(video, []).append((other, weight))
    return found


def made(seed: int, users: int, most: int) -> list[dict[str, Any]]:
    """Return watches of some users, each of 1 to `most` videos, popular ones more often."""
    draw = np.random.default_rng(seed)
    return [
        watch(f"u{user}", float(hour), VIDEOS[int(len(VIDEOS) * draw.random() ** 2)], bool(draw.random() < 0.9))
        for user in range(users)
        for hour in range(int(draw.integers(1, most + 1)))
    ]


@given(st.lists(rows, max_size=90))
def test_the_last_videos_equal_plain_python(given_rows: list[tuple[str, int, str, bool]]) -> None:
    watches = [watch(*row) for row in given_rows]
    found = recent_videos(pl.DataFrame(watches, schema=watches_frame([]).schema), VOCABULARY)
    for user in "abc":
        assert found.filter(user_id=user)["id"].to_list() == last_videos(watches, user)
    assert found["user_id"].is_sorted()


@pytest.mark.parametrize("parts", [1, 3])
def test_nearest_videos_equal_plain_python(parts: int) -> None:

    watches = made(1, 60, 40)
    users = sorted({w["user_id"] for w in watches})
    counted = []
    for part in range(parts):
        frame = watches_frame([w for w in watches if users.index(w["user_id"]) % parts == part])
        counted.append(count_pairs(recent_videos(frame, VOCABULARY)))
    pairs = pl.concat(counted)
    near = nearest_videos(mirror_pairs(pairs), count_watchers(pairs))
    expected = near_by_hand([last_videos(watches, user) for user in users], set(ID.values()))
    assert as_dict(near) == expected
    assert max(map(len, expected.values())) == NEAREST  # some lists are cut


def test_a_very_active_user_costs_no_more_than_others() -> None:
    hot = watches_frame([watch("hot", n / 100, VIDEOS[n % len(VIDEOS)]) for n in range(5_000)])
    pairs = count_pairs(recent_videos(hot, VOCABULARY))
    assert pairs.height == LAST * (LAST + 1) // 2
    assert pairs["count"].unique().to_list() == [1]


@pytest.mark.parametrize("watches", [[], [watch("a", 1, "v01")], [watch("a", 1, "rare"), watch("a", 2, "v01", False)]])
def test_without_pairs_no_video_is_near(watches: list[dict[str, Any]]) -> None:
    pairs = count_pairs(recent_videos(watches_frame(watches), VOCABULARY))
    near = nearest_videos(mirror_pairs(pairs), count_watchers(pairs))
    assert near.is_empty() and near.schema == item_to_item.NEAR
    none = CoWatched.from_frame(near, videos=len(VIDEOS))
    own = pl.DataFrame({"row": [0], "id": [2]})
    found = none.candidates(
        own, users=2, position_of=np.arange(71, dtype=np.int32), fallback=np.array([[3, 1], [0, -1]])
    )
    assert found.positions.tolist() == [[3, 1], [0, -1]]
    assert found.scores.tolist() == [[0, 0], [0, -math.inf]]


def test_scores_are_sums_over_a_user_s_last_videos() -> None:
    watches = made(2, 80, 30)
    users = sorted({w["user_id"] for w in watches})
    shown = {video for video in ID.values() if video % 3}
    histories = {user: last_videos(watches, user) for user in users}
    near = near_by_hand(list(histories.values()), set(ID.values()))
    position_of = np.full(len(VIDEOS) + 1, -1, np.int32)
    candidates = sorted(shown, key=lambda video: -video)  # positions are in another order than ids
    position_of[candidates] = np.arange(len(candidates))
    frame = pl.DataFrame(
        [(v, o, w) for v, others in near.items() for o, w in others], schema=item_to_item.NEAR, orient="row"
    )
    own_rows = [(at, video) for at, user in enumerate(users) for video in histories[user]]
    own = pl.DataFrame(own_rows, schema=["row", "id"], orient="row")
    fallback = np.tile(np.array([5, 0, 9, -1], np.int32), (len(users), 1))
    found = CoWatched.from_frame(frame, videos=len(VIDEOS)).candidates(
        own, users=len(users), position_of=position_of, fallback=fallback
    )
    for at, user in enumerate(users):
        sums: Counter[int] = Counter()
        for video in histories[user]:
            for other, weight in near.get(video, []):
                if other in shown:
                    sums[int(position_of[other])] += weight
        expected = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
        listed = [int(p) for p in found.positions[at] if p >= 0]
        assert listed == [p for p, _ in expected] + [p for p in (5, 0, 9) if p not in sums]
        score = dict(zip(found.positions[at].tolist(), found.scores[at].tolist(), strict=True))
        assert all(score[p] == pytest.approx(weight * UNIT) for p, weight in expected)


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    watches = made(3, 50, 30)
    write(pl.DataFrame({"token": VIDEOS, "count": range(70, 0, -1)}), tmp_path / "counts")
    write(pl.DataFrame({"id": [n for n in ID.values() if n != 3]}), tmp_path / "shown")
    return watches, {"counts": str(tmp_path / "counts"), "shown": str(tmp_path / "shown")}


def test_the_file_combines_all_buckets(inputs: tuple[list[dict[str, Any]], dict[str, Any]], tmp_path: Path) -> None:
    watches, made_of = inputs
    held_out = Holdout(start=hours(20), share=0.5, seed=1)
    window = Window(start=hours(2), end=hours(40))
    buckets = [BucketFiles(bucket=9)]
    for bucket in range(3):
        own = [w for w in watches if int(w["user_id"][1:]) % 3 == bucket]
        buckets.append(BucketFiles(bucket=bucket, watches=(write(watches_frame(own), tmp_path / f"w{bucket}"),)))
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        count = WriteCoWatches(window, held_out, **made_of, sample=ALL_USERS, folder=str(tmp_path), name="near.parquet")
        pipeline | beam.Create(buckets) | count | WriteRecords(str(tmp_path / "records"))
    (record,) = pop_records(str(tmp_path / "records"), FileEntry).of(FileEntry)
    assert record.name == "near.parquet"
    frame = held_out.learnable(watches_frame([w for w in watches if w["time"] >= hours(2)]))
    learned = frame.to_dicts()
    histories = [last_videos(learned, user) for user in sorted({w["user_id"] for w in learned})]
    assert as_dict(pl.read_parquet(tmp_path / "near.parquet")) == near_by_hand(histories, set(ID.values()) - {3})


def test_no_users_write_no_file(inputs: tuple[list[dict[str, Any]], dict[str, Any]], tmp_path: Path) -> None:
    window, no_users = Window(start=hours(0), end=hours(1)), Holdout(start=hours(1), share=1.0, seed=1)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        count = WriteCoWatches(
            window, no_users, **inputs[1], sample=ALL_USERS, folder=str(tmp_path), name="near.parquet"
        )
        pipeline | beam.Create([BucketFiles(bucket=0)]) | count | WriteRecords(str(tmp_path / "records"))
    assert pop_records(str(tmp_path / "records"), FileEntry).of(FileEntry) == []
