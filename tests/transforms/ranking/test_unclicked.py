"""The sample of unclicked impressions: which, their weights, and that it does not depend on other impressions."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from shown import IMPRESSIONS, events_of, impression

from transforms.ranking.unclicked import WEIGHT, sample_unclicked

KEYS = ["user_id", "time", "video_id", "page_id", "clicked", "watch_seconds"]


def many(users: int = 40, hours: int = 50) -> pl.DataFrame:
    rows = [
        impression(f"u{u}", h, "v", f"p{h % 7}", 3.0 if (u + h) % 9 == 0 else None)
        for u in range(users)
        for h in range(hours)
    ]
    return events_of(impressions=rows).impressions


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_clicked_impressions_stay_and_the_others_weigh_as_much_as_they_stand_for(share: float) -> None:
    shown = many()
    found = sample_unclicked(shown, share=share, seed=1)
    clicked, others = found.filter("clicked"), found.filter(~pl.col("clicked"))
    assert clicked.drop(WEIGHT).equals(shown.filter("clicked")) and set(clicked[WEIGHT]) == {1.0}
    assert others[WEIGHT].to_list() == pytest.approx([1 / share] * others.height)
    wanted = shown.height - clicked.height
    assert others[WEIGHT].sum() == pytest.approx(wanted, rel=4.5 * ((1 - share) / share / wanted) ** 0.5 + 1e-6)


def test_sums_over_samples_have_the_expectation_of_the_sum_over_all() -> None:
    shown = many(users=12, hours=20).with_row_index("row")
    totals = [
        float((found["row"] * found[WEIGHT]).sum())
        for seed in range(400)
        if (found := sample_unclicked(shown, share=0.25, seed=seed)) is not None
    ]
    series = pl.Series(totals)
    deviation, mean = series.std(), series.mean()
    assert isinstance(deviation, float) and isinstance(mean, float)
    assert abs(mean - float(shown["row"].sum())) < 4.5 * deviation / len(totals) ** 0.5


@given(IMPRESSIONS)
def test_an_impression_is_drawn_whatever_else_was_shown(rows: list[dict[str, object]]) -> None:
    shown = events_of(impressions=rows).impressions
    whole = sample_unclicked(shown, share=0.5, seed=2)
    parts = [sample_unclicked(part, share=0.5, seed=2) for part in (shown[::2], shown[1::2])]
    assert whole.sort(KEYS).equals(pl.concat(parts).sort(KEYS))


def test_pages_and_seeds_are_drawn_independently() -> None:
    shown = events_of(impressions=[impression("u", 1, "v", f"p{n}") for n in range(400)]).impressions
    found = [sample_unclicked(shown, share=0.5, seed=seed)["page_id"].to_list() for seed in (1, 2)]
    assert 140 < len(found[0]) < 260 and found[0] != found[1]


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_outside_its_range_is_an_error(share: float) -> None:
    with pytest.raises(ValueError, match="share must lie in"):
        sample_unclicked(many(1, 1), share=share, seed=1)
