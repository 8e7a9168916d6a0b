"""Tests of the choice of settings and of tables."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.peers.results import chosen, quality_table, settings_digest


def _point(epochs: int, seconds: float, hit: float) -> dict[str, Any]:
    return {"epochs": epochs, "train_seconds": seconds, "figures": {"hit@10": hit}}


def test_the_best_point_of_all_tries_is_chosen() -> None:
    tries = [
        {"settings": {"d": 16}, "points": [_point(1, 5, 0.1), _point(2, 10, 0.3)]},
        {"settings": {"d": 64}, "points": [_point(1, 8, 0.3), _point(2, 16, 0.2)]},
    ]
    best = chosen(tries, "hit@10")
    assert (best["settings"], best["epochs"]) == ({"d": 64}, 1)  # as good as two epochs of the other, but sooner


def test_nothing_to_choose_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="no settings were tried"):
        chosen([], "hit@10")


def test_the_digest_of_settings_does_not_depend_on_their_order() -> None:
    assert settings_digest({"a": 1, "b": 2}) == settings_digest({"b": 2, "a": 1}) != settings_digest({"a": 2, "b": 1})


def test_the_table_has_watchnext_first_and_then_the_best() -> None:
    row: dict[str, Any] = {
        "settings": {},
        "epochs": None,
        "tries": 0,
        "train_seconds": 60.4,
        "list_seconds": 2,
        "listed_users": 9_000,
    }
    row |= {"peak_bytes": 3 * 2**29, "whole_seconds": 99.6}
    rows = [
        row | {"peer": name, "title": name, "figures": {"hit@10": hit, "hit@50": 2 * hit, "ndcg@50": hit / 2}}
        for name, hit in (("worse", 0.1), ("better", 0.3), ("watchnext", 0.2))
    ]
    rows[1] |= {"settings": {"factors": 64, "loss": "bpr"}, "epochs": 12, "tries": 8}
    table = quality_table(rows, (10, 50), "hit").splitlines()
    assert table[0].startswith("| method | hit@10 / 50 | NDCG@50 |")
    assert table[2] == "| watchnext | .200 / .400 | .100 | 60 | 4,500 | 1.5 | 100 | 0 |  |"
    assert table[3] == "| better | .300 / .600 | .150 | 60 | 4,500 | 1.5 | 100 | 8 | factors 64, loss bpr, 12 epochs |"
    assert [line.split(" | ")[0] for line in table[2:]] == ["| watchnext", "| better", "| worse"]
