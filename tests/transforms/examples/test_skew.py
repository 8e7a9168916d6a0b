from __future__ import annotations

import math

import polars as pl
import pytest

from transforms.contracts.example_spec import MISSING, FeatureSpec
from transforms.examples.skew import (
    MAX_VALUES,
    TOKENS,
    WATCHES,
    histograms,
    last_pointers,
    merge_histograms,
    stability_index,
)

SPEC = FeatureSpec(
    videos=9, tokens=9, watch_history=20, search_history=5, categories={"device": ["tv", "phone"]}, numbers=["age"]
)


def pointers(rows: list[tuple[str, int, int, int, float]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "watches_end", "tokens_end", "device", "age"], orient="row")


def test_last_pointer_has_the_longest_history() -> None:
    found = last_pointers(
        pointers([("a", 3, 0, 1, 0.1), ("a", 7, 1, 2, 0.1), ("b", 2, 0, 1, 0.1), ("a", 5, 1, 1, 0.1)])
    )
    assert sorted(found.rows()) == [("a", 7, 1, 2, 0.1), ("b", 2, 0, 1, 0.1)]


def test_users_of_both_sides_are_counted_by_class() -> None:
    train = pointers([("a", 4, 0, 1, 0.05), ("b", 99, 7, 2, MISSING), ("new", 0, 0, 0, 0.5), ("gone", 5, 0, 1, 0.5)])
    serving = pointers([("a", 5, 1, 1, 0.05), ("b", 100, 7, 40, 1.0), ("new", 1, 0, 1, 0.5), ("c", 1, 0, 1, 0.5)])
    assert histograms(train, serving, SPEC) == {
        WATCHES: {"train": {"5": 1, "20": 1}, "serving": {"5": 1, "20": 1}},
        TOKENS: {"train": {"0": 1, "5": 1}, "serving": {"1": 1, "5": 1}},
        "device": {"train": {"1": 1, "2": 1}, "serving": {"1": 1, str(MAX_VALUES + 1): 1}},
        "age": {"train": {"0": 1, "-1": 1}, "serving": {"0": 1, "9": 1}},
    }


def test_parts_are_merged_and_empty_parts_add_nothing() -> None:
    one = histograms(pointers([("a", 4, 0, 1, 0.5)]), pointers([("a", 5, 0, 1, 0.5)]), SPEC)
    nobody = pointers([("a", 1, 1, 1, 0.5)]).clear()
    none = histograms(nobody, nobody, SPEC)
    assert none["device"] == {"train": {}, "serving": {}}
    assert merge_histograms([one, none, one])["device"] == {"train": {"1": 2}, "serving": {"1": 2}}


def test_models_without_tokens_have_no_search_history() -> None:
    spec = FeatureSpec(videos=9, tokens=0, watch_history=20, search_history=5)
    one = pointers([("a", 4, 0, 1, 0.5)])
    assert set(histograms(one, one, spec)) == {WATCHES}


def test_stability_index() -> None:
    assert stability_index({"1": 10, "2": 30}, {"2": 30, "1": 10}) == 0
    p, q = [100.5 / 201, 100.5 / 201], [50.5 / 201, 150.5 / 201]
    expected = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert stability_index({"1": 100, "2": 100}, {"1": 50, "2": 150}) == pytest.approx(expected)
    assert 1 < stability_index({"1": 100}, {"2": 100}) < math.inf
