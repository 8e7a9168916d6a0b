"""The fit of content rows compared with a dense ridge regression, and what it says of videos that nobody watched."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from transforms.search.content_vectors import LEAST_VIDEOS, ContentRows, fit_content_rows, label_weights, thin_out

VIDEOS, DIMENSION = 60, 5


def drawn(seed: int) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Return features, vectors and weights. The feature `rare` belongs to one video, `x0` is frequent."""
    draw = np.random.default_rng(seed)
    pairs = [(row, f"x{column}") for row in range(VIDEOS) for column in range(8) if draw.random() < 0.5 / (column + 1)]
    features = pl.DataFrame([*pairs, (3, "rare")], schema={"row": pl.UInt32, "feature": pl.String}, orient="row")
    vectors = draw.standard_normal((VIDEOS, DIMENSION)).astype(np.float32)
    return features, vectors, (draw.random(VIDEOS) * 10).astype(np.float32)


def dense(features: pl.DataFrame, names: list[str]) -> np.ndarray:
    """Return the matrix of videos and features in float64."""
    matrix = np.zeros((VIDEOS, len(names)))
    for row, name in features.iter_rows():
        if name in names:
            matrix[row, names.index(name)] = 1
    return matrix


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ridge", [0.3, 20.0])
def test_rows_solve_the_ridge_regression(seed: int, ridge: float) -> None:
    features, vectors, weights = drawn(seed)
    rows = fit_content_rows(features, vectors, weights, ridge=ridge)
    names = rows.names["feature"].to_list()
    counts = dict(features["feature"].value_counts().iter_rows())
    assert names == sorted((n for n in counts if counts[n] >= LEAST_VIDEOS), key=lambda name: (-counts[name], name))
    matrix, scaled = dense(features, names), weights.astype(np.float64) / weights.mean()
    base = np.average(vectors, axis=0, weights=weights)
    normal = matrix.T @ (scaled[:, None] * matrix) + ridge * np.eye(len(names))
    expected = np.linalg.solve(normal, matrix.T @ (scaled[:, None] * (vectors - base)))
    np.testing.assert_allclose(rows.base, base, atol=1e-5)
    np.testing.assert_allclose(rows.rows, expected, atol=2e-3)


def test_a_vector_is_the_base_and_the_rows_of_the_features() -> None:
    names = pl.DataFrame({"column": [0, 1], "feature": ["a", "b"]})
    base, table = np.array([1, 0], np.float32), np.array([[10, 1], [100, 2]], np.float32)
    rows = ContentRows(base=base, rows=table, names=names)
    features = pl.DataFrame({"row": [0, 0, 2, 2], "feature": ["a", "b", "b", "unknown"]})
    assert rows.vectors(features, videos=3).tolist() == [[111, 3], [1, 0], [101, 2]]


def test_videos_of_a_channel_get_its_vector_the_more_videos_it_has() -> None:
    """Own rows of the channel's videos cancel out; a ridge of 20 videos shrinks a channel of 20 videos to a half."""
    draw = np.random.default_rng(5)
    for size in (20, 180):
        channel = np.where(np.arange(2 * size) < size, "a", "b")
        true = np.where(channel == "a", 1.0, -1.0)[:, None]
        vectors = (true + 0.1 * draw.standard_normal((2 * size, 3))).astype(np.float32)
        features = pl.DataFrame({"row": np.arange(2 * size), "feature": channel})
        rows = fit_content_rows(features, vectors, np.ones(2 * size, np.float32))
        new = rows.vectors(pl.DataFrame({"row": [0], "feature": ["a"]}), videos=1)
        np.testing.assert_allclose(new, np.full((1, 3), size / (size + 20)), atol=0.07)


def test_videos_without_features_are_learned_as_the_mean() -> None:
    vectors = np.array([[1, 2], [3, 4], [9, 9]], np.float32)
    nothing = pl.DataFrame(schema={"row": pl.UInt32, "feature": pl.String})
    rows = fit_content_rows(nothing, vectors, np.array([1, 1, 0], np.float32))
    assert rows.vectors(nothing, videos=2).tolist() == [[2, 3], [2, 3]]


def test_weights_rise_with_labels() -> None:
    assert label_weights(np.array([0, 1, 9])).tolist() == pytest.approx([0, 0.5, 0.9])


def test_thinned_rows_keep_their_order_and_ends() -> None:
    rows = pl.DataFrame({"id": range(100)})
    assert thin_out(rows, 100).equals(rows)
    kept = thin_out(rows, 10)["id"].to_list()
    assert kept == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
