"""One order of videos under each user's rules, compared with plain Python; counts of completed watches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours, watch, watches_frame, write
from searches import apply_cap, excluding, rows

from transforms.core.records import WriteRecords, pop_records
from transforms.evaluation.baselines import CountVideos, lists_in_order, order_by_count
from transforms.examples.vocabulary import VocabularyFile
from transforms.logs.event_window import BucketFiles, Holdout, Window
from transforms.search.exclusions import ChannelCap, build_query_rules

N = 40


@given(
    st.lists(st.lists(st.integers(0, N - 1), max_size=N), min_size=1, max_size=5),
    st.integers(1, N + 5),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
def test_lists_are_the_first_allowed_videos_of_each_user(had: list[list[int]], k: int, most: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    order = draw.permutation(N).astype(np.int32)
    hidden, group = draw.random((2, N)) < 0.3, draw.integers(0, 2, len(had)).astype(np.int32)
    channel = draw.integers(-1, 6, N).astype(np.int32)
    cap = ChannelCap(channel=channel, limit=most)
    top = lists_in_order(order, build_query_rules(excluding(had, hidden, group), cap, len(had), N), k=k)
    listed = rows(top)
    for user, own in enumerate(had):
        left = [p for p in order.tolist() if p not in own and not hidden[group[user], p]]
        assert listed[user] == apply_cap(left, cap)[:k]


def test_users_with_nearly_everything_excluded_get_the_rest() -> None:
    n = 5_000
    had = np.setdiff1d(np.arange(n, dtype=np.int32), [3, 4_990])
    excluded = excluding([[], had.tolist(), list(range(n))])
    top = lists_in_order(np.arange(n, dtype=np.int32), build_query_rules(excluded, None, 3, n), k=3)
    assert top.positions.tolist() == [[0, 1, 2], [3, 4_990, -1], [-1, -1, -1]]
    assert top.lengths.tolist() == [3, 2, 0]


def test_videos_are_ordered_by_count_ties_by_position() -> None:
    videos = pl.DataFrame({"video_id": ["a", "b", "c", "d"]})
    counts = pl.DataFrame({"token": ["b", "gone", "c", "d"], "count": [2, 9, 7, 2]})
    assert order_by_count(counts, videos).tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_learnable_completed_watches_are_counted(share: float, tmp_path: Path) -> None:
    events = [watch(f"u{n}", n % 30, f"v{n * 5 % 11}", n % 3 > 0) for n in range(200)]
    holdout = Holdout(start=hours(20), share=share, seed=1)
    buckets = [BucketFiles(bucket=9)]
    for part in range(2):
        path = write(watches_frame(events[part::2]), tmp_path / f"w{part}")
        buckets.append(BucketFiles(bucket=part, watches=(path,)))
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        count = CountVideos(Window(start=hours(5), end=hours(25)), holdout, 5, str(tmp_path), "counts.parquet")
        pipeline | beam.Create(buckets) | count | WriteRecords(str(tmp_path / "records"))
    (record,) = pop_records(str(tmp_path / "records"), VocabularyFile).of(VocabularyFile)
    learnable = holdout.learnable(watches_frame(events)).filter(
        pl.col("time").is_between(hours(5), hours(25), closed="left")
    )
    expected = Counter(learnable.filter("completed")["video_id"])
    best = sorted(expected.items(), key=lambda item: (-item[1], item[0]))[:5]
    assert pl.read_parquet(tmp_path / record.file.name).rows() == best
    assert record.distinct == len(expected) > 5
