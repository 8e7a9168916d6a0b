"""Statistics of lists compared with plain Python over every video of every list."""

from __future__ import annotations

import math
from functools import reduce
from statistics import mean

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours

from transforms.evaluation.list_statistics import (
    DAYS,
    LENGTHS,
    VideoCounts,
    by_id,
    freshness_curve,
    length_shares,
    list_figures,
)
from transforms.logs.schemas import TIME

UPLOADS = [None, hours(3), hours(24 * 16.5), hours(0), None, hours(24 * 13)]
VIDEOS = pl.DataFrame({"id": [5, None, 4, 1, 2, 3], "upload_time": pl.Series(UPLOADS, dtype=TIME)})
UPLOAD_TIMES = by_id(VIDEOS, "upload_time")
AS_OF = hours(24 * 20)


def test_values_are_by_vocabulary_id() -> None:
    assert UPLOAD_TIMES.to_list() == [None, hours(0), None, hours(24 * 13), hours(24 * 16.5), None]
    assert UPLOAD_TIMES.dtype == by_id(VIDEOS.clear(), "upload_time").dtype == TIME


@given(st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=8))
def test_figures_are_over_every_video_shown(lists: list[list[int]]) -> None:
    parts = [VideoCounts.from_ids(np.array(ids, np.int64), videos=5) for ids in [[], *lists]]
    counts = reduce(VideoCounts.merge, parts)
    found = list_figures(counts, UPLOAD_TIMES, AS_OF)
    every = [video for ids in lists for video in ids]
    expected: dict[str, float] = {"videos": len(every), "distinct": len(set(every) - {0})}
    if every:
        expected["mean_log2_rank"] = mean(math.log2(video or 6) for video in every)
    ages = [{1: 20, 3: 7, 4: 3.5}[video] for video in every if video in (1, 3, 4)]
    if ages:
        expected |= {"mean_age_days": mean(ages), "new_uploads": mean(age <= 7 for age in ages)}
    assert found == pytest.approx(expected)


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 24 * 60))
def test_the_freshness_curve_is_over_earlier_uploads(ids: list[int], at: int) -> None:
    found = freshness_curve(VideoCounts.from_ids(np.array(ids, np.int64), videos=5), UPLOAD_TIMES, hours(at))
    ages = [(at - {1: 0, 3: 24 * 13, 4: 24 * 16.5}[video]) / 24 for video in ids if video in (1, 3, 4)]
    before = [age for age in ages if age >= 0]
    expected = [mean(day <= age < day + 1 for age in before) for day in range(DAYS)] if before else []
    assert found == pytest.approx(expected)


@given(st.lists(st.integers(0, 7), max_size=12))
def test_lengths_are_counted_by_class(ids: list[int]) -> None:
    lengths = [None, 0.5, 59.9, 60.0, 1_799.0, 1_800.0, None, 1e9]
    classes = {1: 0, 2: 0, 3: 1, 4: 3, 5: 4, 7: 4}
    assert LENGTHS == (60, 180, 600, 1_800)
    found = length_shares(VideoCounts.from_ids(np.array(ids, np.int64), videos=7), pl.Series(lengths, dtype=pl.Float64))
    known = [classes[video] for video in ids if video in classes]
    assert found == pytest.approx([mean(of == one for of in known) for one in range(5)] if known else [])
