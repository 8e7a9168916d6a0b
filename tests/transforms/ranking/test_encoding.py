"""The graph of the numbers compared with numpy's interpolation, and the sample that it is built from."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from ranking_records import SPEC, write_graph

from transforms.core.tensorflow_import import import_tensorflow
from transforms.ranking import encoding
from transforms.ranking.encoding import (
    BELOW_ONE,
    add_earlier_numbers,
    analysis_table,
    draw_numbers,
    graph_inputs,
    interpolate_quantiles,
    merge_drawn_numbers,
)

tf = import_tensorflow()


def impressions(rows: int) -> pl.DataFrame:
    draw = np.random.default_rng(3)
    return pl.DataFrame(
        {
            "user_id": [f"u{i % 7}" for i in range(rows)],
            "video_id": [f"v{i % 11}" for i in range(rows)],
            "time": pl.Series([i // 2 for i in range(rows)]).cast(pl.Datetime("ms", "UTC")),
            "score": draw.normal(size=rows),
            "age": pl.Series([None if i % 3 else float(i) for i in range(rows)]),
        }
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_interpolation_equals_numpy_s_over_distinct_boundaries(seed: int) -> None:
    draw = np.random.default_rng(seed)
    boundaries = np.sort(draw.integers(0, 12, (3, 20)), axis=1).astype(np.float32)  # many coincide
    values = draw.uniform(-2, 14, (200, 3)).astype(np.float32)
    values[::5] = np.rint(values[::5])
    values[::7] = np.nan
    values[0], values[1] = np.inf, -np.inf
    quantiles, known = (of.numpy() for of in interpolate_quantiles(tf.constant(values), tf.constant(boundaries)))
    for column, row in enumerate(boundaries):
        distinct = np.unique(row)
        expected = np.interp(values[:, column], distinct, np.linspace(0, 1, len(distinct)))
        expected = np.where(np.isnan(values[:, column]), 0, np.minimum(expected, BELOW_ONE))
        np.testing.assert_allclose(quantiles[:, column], expected, atol=1e-5)
    np.testing.assert_array_equal(known, ~np.isnan(values))
    assert quantiles.min() == 0 and quantiles.max() < 1


def test_a_constant_number_is_0() -> None:
    quantiles, _ = interpolate_quantiles(tf.constant([[5.0], [4.0], [6.0]]), tf.constant([[5.0, 5.0, 5.0]]))
    assert quantiles.numpy().ravel().tolist() == [0, 0, 0]


def test_the_sample_does_not_depend_on_the_split_and_the_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ANALYSED_ROWS", 100)
    rows, numbers = impressions(900), ["score", "age"]
    parts = [
        draw_numbers(rows[start : start + 150], numbers=numbers, seed=1, zone="UTC") for start in range(0, 900, 150)
    ]

    def table(drawn: pl.DataFrame) -> list[list[float]]:
        return analysis_table(drawn, parts={"all": numbers}).to_pydict()["all"]

    whole = table(draw_numbers(rows, numbers=numbers, seed=1, zone="UTC"))
    assert len(whole) == 100
    tree = [merge_drawn_numbers(parts[3:], numbers=numbers), *parts[:3]]
    for merged in (merge_drawn_numbers(parts[::-1], numbers=numbers), merge_drawn_numbers(tree, numbers=numbers)):
        np.testing.assert_array_equal(table(merged), whole)
    other = table(draw_numbers(rows, numbers=numbers, seed=2, zone="UTC"))
    assert len(other) == 100 and not np.array_equal(other, whole, equal_nan=True)


def test_rows_with_equal_digests_are_drawn_in_a_fixed_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ANALYSED_ROWS", 5)
    drawn = {"score": pl.Float32, "drawn": pl.UInt64, "day": pl.Date}
    scores, day = [float(i) for i in range(9)], dt.date(2026, 11, 20)
    rows = pl.DataFrame({"score": scores, "drawn": [7] * 9, "day": [day] * 9}, schema=drawn)
    for merged in (rows, rows.reverse(), rows.sample(fraction=1, shuffle=True, seed=4)):
        assert merge_drawn_numbers([merged[:4], merged[4:]], numbers=["score"])["score"].to_list() == [0, 1, 2, 3, 4]


def test_earlier_numbers_are_added_without_days_that_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ANALYSED_ROWS", 6)
    days = [dt.date(2026, 11, day) for day in (1, 2, 3)]
    schema = {"age": pl.Float32, "drawn": pl.UInt64, "day": pl.Date}
    earlier = pl.DataFrame({"age": [1.0, 2, 3, 4], "drawn": [1, 2, 8, 9], "day": [*days[:2], *days[:2]]}, schema=schema)
    drawn = pl.DataFrame(
        {"score": [5.0, 6.0, 7.0], "age": [5.0, 6.0, 7.0], "drawn": [3, 4, 7], "day": [days[2]] * 3},
        schema={"score": pl.Float32, **schema},
    )
    found = add_earlier_numbers(drawn, earlier, numbers=["score", "age"], days=days[1:]).sort("drawn")
    assert found["age"].to_list() == [2.0, 5.0, 6.0, 7.0, 4.0] and found["score"].is_nan().to_list()[::4] == [
        True,
        True,
    ]
    monkeypatch.setattr(encoding, "ANALYSED_ROWS", 3)
    found = add_earlier_numbers(drawn, earlier, numbers=["score", "age"], days=days[1:])
    assert sorted(found["drawn"]) == [2, 3, 4], "those with the lowest digests"


def test_the_analysis_table_has_a_list_per_part_and_a_value_per_number() -> None:
    drawn = pl.DataFrame(
        {"score": [2.0, 1.0], "age": [float("nan")] * 2, "drawn": [9, 3], "day": [None, None]},
        schema={"score": pl.Float32, "age": pl.Float32, "drawn": pl.UInt64, "day": pl.Date},
    )
    table = analysis_table(drawn, parts={"query": ["age"], "impression": ["score"]}).to_pydict()
    np.testing.assert_array_equal(table["query"], [[0.0], [np.nan]])
    assert table["impression"] == [[1.0], [2.0]]
    nothing = analysis_table(merge_drawn_numbers([], numbers=["score"]), parts={"impression": ["score"]})
    assert nothing.to_pydict() == {"impression": [[0.0]]}


def test_the_graph_returns_quantiles_squares_roots_and_flags(tmp_path: Path) -> None:
    graph = tf.saved_model.load(write_graph(tmp_path, rows=2_000))
    assert graph_inputs(SPEC) == {"query": ["age"], "impression": ["score", "video_seconds", "seconds_since_video"]}
    values = np.linspace(-4, 4, 101, dtype=np.float32)
    asked = np.stack([values, values, np.full(101, np.nan, np.float32)], axis=1)
    found = graph.transform_fn({"query": tf.constant(values[:2, np.newaxis]), "impression": tf.constant(asked)})
    assert found["query_quantiles"].shape == (2, 1)
    quantiles = found["impression_quantiles"].numpy()
    assert (np.diff(quantiles[:, :2], axis=0) >= 0).all()
    normal = np.random.default_rng(11).normal(size=100_000)
    share = [(normal <= value).mean() for value in values]
    np.testing.assert_allclose(quantiles[:, 0], share, atol=0.05)
    assert found["impression_known"].numpy()[:, 2].max() == quantiles[:, 2].max() == 0
    np.testing.assert_allclose(found["impression_squares"], quantiles**2, rtol=1e-6)
    np.testing.assert_allclose(found["impression_roots"], np.sqrt(quantiles), rtol=1e-6)
