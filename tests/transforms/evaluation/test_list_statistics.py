"""What lists are made of, against plain Python over every video of every list."""

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

from transforms.evaluation.list_statistics import DAYS, Tally, by_day, figures, uploads_of
from transforms.logs.schemas import TIME

UPLOADS = [None, hours(3), hours(24 * 16.5), hours(0), None, hours(24 * 13)]
VIDEOS = pl.DataFrame({"id": [5, None, 4, 1, 2, 3], "upload_time": pl.Series(UPLOADS, dtype=TIME)})
AS_OF = hours(24 * 20)


def test_uploads_go_by_vocabulary_id() -> None:
    assert uploads_of(VIDEOS).to_list() == [None, hours(0), None, hours(24 * 13), hours(24 * 16.5), None]
    assert uploads_of(VIDEOS).dtype == uploads_of(VIDEOS.clear()).dtype == TIME


@given(st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=8))
def test_figures_are_those_of_every_video_shown(lists: list[list[int]]) -> None:
    parts = [Tally.of(np.array(ids, np.int64), videos=5) for ids in [[], *lists]]
    counts = reduce(Tally.merge, parts)
    found = figures(counts, uploads_of(VIDEOS), AS_OF)
    every = [video for ids in lists for video in ids]
    expected = {"videos": len(every), "distinct": len(set(every) - {0})}
    if every:
        expected["mean_log2_rank"] = mean(math.log2(video or 6) for video in every)
    ages = [{1: 20, 3: 7, 4: 3.5}[video] for video in every if video in (1, 3, 4)]
    if ages:
        expected |= {"mean_age_days": mean(ages), "new_uploads": mean(age <= 7 for age in ages)}
    assert found == pytest.approx(expected)


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 24 * 60))
def test_the_freshness_curve_is_of_what_was_uploaded_before(ids: list[int], at: int) -> None:
    found = by_day(Tally.of(np.array(ids, np.int64), videos=5), uploads_of(VIDEOS), hours(at))
    ages = [(at - {1: 0, 3: 24 * 13, 4: 24 * 16.5}[video]) / 24 for video in ids if video in (1, 3, 4)]
    before = [age for age in ages if age >= 0]
    expected = [mean(day <= age < day + 1 for age in before) for day in range(DAYS)] if before else []
    assert found == pytest.approx(expected)


def test_where_no_upload_is_known_ages_are_left_out() -> None:
    tally, uploads = (
        Tally.of(np.array([1, 1, 2]), videos=5),
        uploads_of(VIDEOS.with_columns(upload_time=pl.lit(None, TIME))),
    )
    assert by_day(tally, uploads, AS_OF) == []
    assert figures(tally, uploads, AS_OF) == {"videos": 3, "distinct": 2, "mean_log2_rank": pytest.approx(1 / 3)}
