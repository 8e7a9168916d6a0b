"""Serving rules of an index compared with plain Python: countries and the limit per channel."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.search.serving_rules import (
    ServingRules,
    build_serving_rules,
    channel_codes,
    country_masks,
    max_per_channel,
)

CODES = st.lists(st.sampled_from(["DE", "AT", "SE"]), unique=True).map(lambda codes: ",".join(sorted(codes)) or None)


@given(st.lists(CODES, max_size=12))
def test_videos_restricted_to_other_countries_are_hidden(countries: list[str | None]) -> None:
    hidden, group_of = country_masks(pl.Series(countries, dtype=pl.String))
    if hidden is None:
        assert not any(countries) and group_of == {}
        return
    for country in ("DE", "AT", "SE", "NO"):
        row = hidden[group_of.get(country, 0)]
        assert row.tolist() == [codes is not None and country not in codes.split(",") for codes in countries]
    assert len({row.tobytes() for row in hidden}) == len(hidden), "masks are distinct"


def test_unknown_and_unlisted_countries_share_group_0() -> None:
    rules = ServingRules(hidden=np.zeros((3, 1), np.bool_), country_groups={"DE": 1, "SE": 2})
    assert rules.groups(["SE", None, "DE", "NO"]).tolist() == [2, 0, 1, 0] and rules.groups([]).tolist() == []
    assert rules.by_country and not ServingRules().by_country


def test_channels_have_codes_and_null_is_minus_one() -> None:
    codes = channel_codes(pl.Series(["b", None, "a", "b"]))
    assert codes.tolist() == [1, -1, 0, 1] and codes.dtype == np.int32
    assert channel_codes(pl.Series([None, None], dtype=pl.String)).tolist() == [-1, -1]


@given(st.integers(1, 100), st.integers(1, 1_000))
def test_a_share_is_taken_as_its_decimal_value(hundredths: int, k: int) -> None:
    assert max_per_channel(hundredths / 100, k) == max(1, int(Fraction(hundredths, 100) * k))


CATALOGUE = pl.DataFrame(
    {"video_id": ["c", "a", "other"], "channel": ["x", "x", "y"], "countries": [None, "DE", "SE"]},
    schema_overrides={"countries": pl.String},
)


def test_rules_are_in_the_order_of_the_positions() -> None:
    rules = build_serving_rules(pl.DataFrame({"video_id": ["a", "b", "c"]}), CATALOGUE, k=4, max_share_per_channel=0.5)
    assert rules.cap is not None and rules.hidden is not None
    assert (rules.cap.channel.tolist(), rules.cap.limit) == ([0, -1, 0], 2)
    assert rules.hidden[0].tolist() == [True, False, False]
    assert rules.hidden[rules.country_groups["DE"]].tolist() == [False] * 3
    selected = rules.select(np.array([0, 2]))
    assert selected.cap is not None and selected.hidden is not None
    assert (selected.cap.channel.tolist(), selected.cap.limit) == ([0, 0], 2)
    assert selected.hidden[0].tolist() == [True, False] and selected.country_groups == rules.country_groups


@pytest.mark.parametrize("catalogue", [None, CATALOGUE.with_columns(channel=None, countries=None)])
def test_no_channels_and_countries_means_no_rules(catalogue: pl.DataFrame | None) -> None:
    if catalogue is not None:
        catalogue = catalogue.cast({"channel": pl.String, "countries": pl.String})
    found = build_serving_rules(pl.DataFrame({"video_id": ["a", "b"]}), catalogue, k=4, max_share_per_channel=0.5)
    assert (found.hidden, found.country_groups, found.cap) == (None, {}, None)
    assert found.select(np.array([1])) == found


def test_a_share_of_1_is_no_limit() -> None:
    videos = pl.DataFrame({"video_id": ["a", "c"]})
    assert build_serving_rules(videos, CATALOGUE, k=4, max_share_per_channel=1.0).cap is None
    assert build_serving_rules(videos, CATALOGUE, k=1, max_share_per_channel=0.5).cap is None, (
        "a limit of one video is no limit for k = 1"
    )


def test_positions_hidden_later_are_hidden_from_all_groups() -> None:
    gone = np.array([False, True])
    rules = ServingRules(hidden=np.array([[True, False], [False, False]]), country_groups={"DE": 1})
    alone, both, same = ServingRules().hide(gone), rules.hide(gone), rules.hide(~gone & gone)
    assert alone.hidden is not None and both.hidden is not None and same is rules
    assert (alone.hidden.tolist(), both.hidden.tolist()) == ([[False, True]], [[True, True], [False, True]])
