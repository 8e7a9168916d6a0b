"""Served lists compared with the videos completed: plain loops, and the whole day in Beam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours, search, searches_frame, watch, watches_frame, write

from transforms.contracts.retrieval_metrics import RankingMetrics, UserMetrics
from transforms.evaluation.next_day import MeasureNextDay, ServedBucket, completed_since, match_lists
from transforms.evaluation.night_metrics import ALL_USERS, OF_NEW, PLACES, WITH_A_LIST, Key, ServedPlaces
from transforms.logs.event_window import BucketFiles, Window
from transforms.search.new_videos import NEW_VIDEOS, NewVideos

DAY = hours(24)
WINDOW = Window(start=hours(0), end=hours(48), max_events_per_day=4)
LISTS = pl.Schema({"user_id": pl.String(), "video_ids": pl.List(pl.String())})
videos = st.lists(st.sampled_from("abcdefg"), unique=True, max_size=5)


def frames(lists: dict[str, list[str]], wanted: dict[str, list[str]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    pairs = [(user, video) for user, own in wanted.items() for video in own]
    return (
        pl.DataFrame({"user_id": list(lists), "video_ids": list(lists.values())}, schema=LISTS),
        pl.DataFrame(pairs, schema={"user_id": pl.String, "video_id": pl.String}, orient="row"),
    )


@given(
    st.dictionaries(st.sampled_from("pqrst"), videos),
    st.dictionaries(st.sampled_from("pqrst"), videos),
    st.sets(st.sampled_from("abcdefg")),
)
def test_hits_are_the_completed_videos_of_each_list(
    lists: dict[str, list[str]], wanted: dict[str, list[str]], new: set[str]
) -> None:
    found = match_lists(*frames(lists, wanted), pl.Series(sorted(new), dtype=pl.String))
    users = sorted(user for user, own in wanted.items() if own)
    assert found.user_ids.to_list() == users
    assert found.wanted.tolist() == [len(wanted[user]) for user in users]
    assert found.served.tolist() == [user in lists for user in users]
    longest = max((len(lists.get(user, [])) for user in users), default=0)
    expected = [[video in wanted[user] for video in lists.get(user, [])] for user in users]
    assert found.hits.tolist() == [row + [False] * (longest - len(row)) for row in expected]
    assert found.wanted_new.tolist() == [len(new & set(wanted[user])) for user in users]
    shown = [(video in new, video in wanted[user]) for user in users for video in lists.get(user, [])]
    assert found.places == ServedPlaces(
        new=sum(is_new for is_new, _ in shown),
        new_completed=sum(is_new and hit for is_new, hit in shown),
        others=sum(not is_new for is_new, _ in shown),
        others_completed=sum(hit and not is_new for is_new, hit in shown),
    )


def test_distinct_completed_videos_of_the_day_count(tmp_path: Path) -> None:
    rows = [
        watch("a", 23.9, "before"),
        watch("a", 24, "x"),
        watch("a", 30, "x"),
        watch("a", 47, "not completed", False),
        watch("a", 48, "after"),
        watch("b", 40, "y"),
        *(watch("robot", 25 + n, f"r{n}") for n in range(3)),
    ]
    asked = [search("robot", 26 + n, "q") for n in range(2)]
    bucket = BucketFiles(
        bucket=0,
        watches=(write(watches_frame(rows), tmp_path / "w"),),
        searches=(write(searches_frame(asked), tmp_path / "s"),),
    )
    assert completed_since(WINDOW, bucket, DAY).rows() == [("a", "x"), ("b", "y")]
    within = completed_since(WINDOW, bucket, hours(27))  # the robot's day started earlier
    assert within.rows() == [("a", "x"), ("b", "y")]
    without_limit = Window(start=hours(0), end=hours(48))
    assert ("robot", "r0") in completed_since(without_limit, bucket, DAY).rows()


def test_a_day_s_figures_equal_those_of_its_lists(tmp_path: Path) -> None:
    draw = np.random.default_rng(8)
    names = [f"v{n}" for n in range(30)]
    lists = {f"u{n}": draw.permutation(names)[: draw.integers(1, 9)].tolist() for n in range(40)}
    watched = {f"u{n}": sorted(set(draw.choice(names, draw.integers(1, 9)).tolist())) for n in range(20, 60)}
    every_list, _ = frames(lists, {})
    paths = [write(every_list[part::2], tmp_path / f"lists-{part}") for part in range(2)]
    buckets = [ServedBucket(files=BucketFiles(bucket=9), lists=(paths[0],))]
    for part in range(4):
        rows = [watch(u, 30, v) for u, own in watched.items() if int(u[1:]) % 4 == part for v in own]
        files = BucketFiles(bucket=part, watches=(write(watches_frame(rows), tmp_path / f"w{part}"),))
        buckets.append(ServedBucket(files=files, lists=(paths[part % 2],)))

    is_new = {f"v{n}": hours(20) for n in range(12)} | {"v12": hours(30), "never shown": hours(23)}
    rows_of_new = [(video, None, time, 0, [0.0]) for video, time in is_new.items()]
    path = write(pl.DataFrame(rows_of_new, schema=NEW_VIDEOS, orient="row"), tmp_path / "new")
    new = NewVideos(path=path, since=hours(0), until=DAY)

    def check(groups: list[tuple[Key, Any]]) -> None:
        whole = match_lists(*frames(lists, watched), pl.Series([f"v{n}" for n in range(12)]))
        expected = RankingMetrics.from_hits(whole.hits, whole.wanted, ks=(2, 8))
        served = UserMetrics.from_hits(whole.hits, whole.wanted, ks=(2, 8)).select(whole.served).total()
        found = dict(groups)
        assert found.pop(("served", PLACES)) == whole.places
        assert 0 < whole.places.new_completed < whole.places.new
        of_new = RankingMetrics.from_hits(whole.hits & whole.new, whole.wanted_new, ks=(2, 8))
        assert {name: measured.metrics for name, measured in found.items()} == {
            ("served", ALL_USERS): expected,
            ("served", WITH_A_LIST): served,
            ("served", OF_NEW): of_new,
        }
        assert 0 < served.sums["users"] < expected.sums["users"] == 40

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        window = Window(start=hours(0), end=hours(48))
        assert_that(pipeline | beam.Create(buckets) | MeasureNextDay(window, DAY, (8, 2), new), check)


def test_a_day_without_watches_has_no_figures(tmp_path: Path) -> None:
    path = write(frames({"a": ["x"]}, {})[0], tmp_path / "lists")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        empty = pipeline | beam.Create([ServedBucket(files=BucketFiles(bucket=0), lists=(path,))])
        assert_that(empty | MeasureNextDay(WINDOW, DAY, (5,)), lambda found: pytest.fail(str(found)) if found else None)
