"""Rules of an index against plain Python: who may be shown what, and how many of one channel."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.search.serving_rules import ServingRules, channel_codes, country_masks, most_per_channel, rules_of

CODES = st.lists(st.sampled_from(["DE", "AT", "SE"]), unique=True).map(lambda codes: ",".join(sorted(codes)) or None)


@given(st.lists(CODES, max_size=12))
def test_a_country_hides_the_videos_that_are_limited_to_others(countries: list[str | None]) -> None:
    hidden, group_of = country_masks(pl.Series(countries, dtype=pl.String))
    if hidden is None:
        assert not any(countries) and group_of == {}
        return
    for country in ("DE", "AT", "SE", "NO"):
        row = hidden[group_of.get(country, 0)]
        assert row.tolist() == [codes is not None and country not in codes.split(",") for codes in countries]
    assert len({row.tobytes() for row in hidden}) == len(hidden), "distinct masks alone"


def test_countries_with_the_same_videos_share_a_mask() -> None:
    hidden, group_of = country_masks(pl.Series(["AT,DE", None, "SE"]))
    assert hidden is not None and hidden.shape == (3, 3)
    assert group_of["AT"] == group_of["DE"] != group_of["SE"]


def test_users_of_unknown_and_unlisted_countries_are_one_group() -> None:
    rules = ServingRules(hidden=np.zeros((3, 1), np.bool_), group_of={"DE": 1, "SE": 2})
    assert rules.groups(["SE", None, "DE", "NO"]).tolist() == [2, 0, 1, 0] and rules.groups([]).tolist() == []
    assert rules.by_country and not ServingRules().by_country


def test_channels_are_numbered_and_none_is_minus_one() -> None:
    codes = channel_codes(pl.Series(["b", None, "a", "b"]))
    assert codes.tolist() == [1, -1, 0, 1] and codes.dtype == np.int32
    assert channel_codes(pl.Series([None, None], dtype=pl.String)).tolist() == [-1, -1]


@given(st.integers(1, 100), st.integers(1, 1_000))
def test_a_share_is_that_of_its_decimal_digits(hundredths: int, k: int) -> None:
    assert most_per_channel(hundredths / 100, k) == max(1, int(Fraction(hundredths, 100) * k))


CATALOGUE = pl.DataFrame(
    {"video_id": ["c", "a", "other"], "channel": ["x", "x", "y"], "countries": [None, "DE", "SE"]},
    schema_overrides={"countries": pl.String},
)


def test_rules_are_in_the_order_of_the_positions() -> None:
    rules = rules_of(pl.DataFrame({"video_id": ["a", "b", "c"]}), CATALOGUE, k=4, max_share_per_channel=0.5)
    assert rules.cap is not None and rules.hidden is not None
    assert (rules.cap.channel.tolist(), rules.cap.most) == ([0, -1, 0], 2)
    assert rules.hidden[0].tolist() == [True, False, False]
    assert rules.hidden[rules.group_of["DE"]].tolist() == [False] * 3
    part = rules.part(np.array([0, 2]))
    assert part.cap is not None and part.hidden is not None
    assert (part.cap.channel.tolist(), part.cap.most) == ([0, 0], 2)
    assert part.hidden[0].tolist() == [True, False] and part.group_of == rules.group_of


@pytest.mark.parametrize("catalogue", [None, CATALOGUE.with_columns(channel=None, countries=None)])
def test_without_channels_and_countries_there_is_no_rule(catalogue: pl.DataFrame | None) -> None:
    if catalogue is not None:
        catalogue = catalogue.cast({"channel": pl.String, "countries": pl.String})
    found = rules_of(pl.DataFrame({"video_id": ["a", "b"]}), catalogue, k=4, max_share_per_channel=0.5)
    assert (found.hidden, found.group_of, found.cap) == (None, {}, None)
    assert found.part(np.array([1])) == found


def test_a_share_of_all_is_no_limit() -> None:
    videos = pl.DataFrame({"video_id": ["a", "c"]})
    assert rules_of(videos, CATALOGUE, k=4, max_share_per_channel=1.0).cap is None
    assert rules_of(videos, CATALOGUE, k=1, max_share_per_channel=0.5).cap is None, "one of one is all"


def test_what_nobody_may_be_shown_is_hidden_from_all_groups() -> None:
    gone = np.array([False, True])
    rules = ServingRules(hidden=np.array([[True, False], [False, False]]), group_of={"DE": 1})
    alone, both, same = ServingRules().without(gone), rules.without(gone), rules.without(~gone & gone)
    assert alone.hidden is not None and both.hidden is not None and same is rules
    assert (alone.hidden.tolist(), both.hidden.tolist()) == ([[False, True]], [[True, True], [False, True]])
