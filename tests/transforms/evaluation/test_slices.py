"""The slices of users and labels."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from made_frames import hours

from transforms.evaluation.slices import (
    MOST_VALUES,
    REST,
    UNKNOWN,
    by_category,
    by_first_event,
    by_history,
    by_upload,
    iterate_slices,
)
from transforms.logs.schemas import TIME


@pytest.mark.parametrize("count", [0, 1, MOST_VALUES, MOST_VALUES + 1, 300])
def test_rare_values_are_the_rest(count: int) -> None:
    values = [f"country {n}" for n in range(count)]
    found = by_category(np.arange(count + 1), values)
    assert found.tolist() == [UNKNOWN, *values[:MOST_VALUES], *[REST] * max(0, count - MOST_VALUES)]


def test_slices_by_length_of_history() -> None:
    lengths = {0: "0", 1: "1-4", 4: "1-4", 5: "5-19", 19: "5-19", 20: "20-49", 49: "20-49", 50: "50+", 1_000: "50+"}
    assert by_history(np.array(list(lengths))).tolist() == list(lengths.values())


def test_new_users_have_a_first_event_in_the_last_seven_days() -> None:
    micro = 1 / 3_600_000_000
    as_of, week = hours(240), 168
    first = pl.Series([hours(240 - week), hours(240 - week - micro), hours(239), None, hours(0)], dtype=TIME)
    assert by_first_event(first, as_of).tolist() == ["new", "known", "new", "new", "known"]


def test_fresh_videos_were_uploaded_in_the_last_seven_days() -> None:
    uploads = pl.Series([hours(72), hours(71), None, hours(250)], dtype=TIME)
    assert by_upload(uploads, hours(240)).tolist() == ["fresh", "older", UNKNOWN, "fresh"]


def test_every_user_is_in_one_slice_of_each_kind() -> None:
    kinds = {"device": np.array(["tv", "phone", "tv"]), "history": by_history(np.array([3, 0, 9]))}
    found = {group: mask.tolist() for group, mask in iterate_slices(kinds)}
    assert found == {
        ("device", "phone"): [False, True, False],
        ("device", "tv"): [True, False, True],
        ("history", "0"): [False, True, False],
        ("history", "1-4"): [True, False, False],
        ("history", "5-19"): [False, False, True],
    }


def test_no_users_have_no_slices() -> None:
    none = pl.Series([], dtype=TIME)
    assert by_upload(none, hours(0)).tolist() == by_first_event(none, hours(0)).tolist() == []
    kinds = {"history": by_history(np.zeros(0, np.int64)), "new": by_first_event(none, hours(0))}
    assert list(iterate_slices(kinds)) == []
