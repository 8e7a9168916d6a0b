"""Video vectors from what the catalogue says: a vector for a video that nobody has watched yet.

A trained vector [v; b] of a video is taken as the sum of a common part, of one row for each of the video's features
(channel, language, length, title tokens) and of a row of the video's own:

    [v; b] = base + sum of rows[feature] + own

The rows are those of a ridge regression of the trained vectors on the features, so the own row is what the features
leave unexplained. A video without a trained vector has no own row: its vector is base plus its features' rows.

The content part is fitted to the trained vectors after the training, and not learned jointly: a linear map from
attributes to the factors of a trained model, as in Gantner, Drumond, Freudenthaler, Rendle, Schmidt-Thieme: Learning
Attribute-to-Feature Mappings for Cold-Start Recommendations, ICDM 2010. It takes seconds, and works for every loss,
encoder and sampler, for warm starts and for models of earlier nights. Rows that were learned jointly with the model
found no more of the watches of new videos (docs/log.md).

    rows = fit_content_rows(features, vectors, weights)
    vectors_of_new = rows.vectors(features_of_new, videos=len(new))
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

RIDGE = 20.0  # weight of the squared rows, in videos of mean weight
LEAST_VIDEOS = 2  # that have a feature with a row
MOST_FEATURES = 100_000  # with a row: the most frequent ones
MOST_VIDEOS = 200_000  # to fit to, which bounds time and memory
ITERATIONS = 50  # of conjugate gradients; fewer if they converge
TOLERANCE = 1e-4  # of the residual, relative to the right-hand side

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ContentRows:
    """The content part of video vectors."""

    base: Floats  # [d]
    rows: Floats  # [features, d]
    names: pl.DataFrame  # feature, column: the row of each feature

    def vectors(self, features: pl.DataFrame, *, videos: int) -> Floats:
        """Return the content part of videos: float [videos, d]. Features without a row add nothing.

        features: row, feature, distinct; row counts the videos from 0.
        """
        return np.asarray(self.base + _matrix(features, self.names, videos) @ self.rows, np.float32)


def fit_content_rows(features: pl.DataFrame, vectors: Floats, weights: Floats, *, ridge: float = RIDGE) -> ContentRows:
    """Return the rows that minimise

        sum over videos of weight * |vector - base - sum of rows[feature]|^2 + ridge * sum over features of |row|^2

    with `base` the weighted mean of the vectors and the weights scaled to mean 1.

    features: row, feature, distinct; row is that of `vectors` [videos, d]. weights: [videos], not negative, at least
    one of them positive.
    """
    videos = len(vectors)
    scaled = np.asarray(weights * (videos / weights.sum()), np.float32)
    base = np.asarray(scaled @ vectors / videos, np.float32)
    counted = features.group_by("feature").len("videos").filter(pl.col("videos") >= LEAST_VIDEOS)
    chosen = counted.sort(["videos", "feature"], descending=[True, False]).head(MOST_FEATURES)
    names = chosen.select("feature").with_row_index("column")
    matrix = _matrix(features, names, videos)
    rows = _ridge(matrix, vectors - base, scaled, ridge)
    return ContentRows(base=base, rows=rows, names=names)


def label_weights(label_counts: NDArray[np.int64]) -> Floats:
    """Return the weights of trained vectors by their number of labels, from 0 to 1: half of the limit at one label."""
    return np.asarray(label_counts / (label_counts + 1), np.float32)


def thin_out(rows: pl.DataFrame, most: int) -> pl.DataFrame:
    """Return at most `most` rows at even distances, in their order."""
    if rows.height <= most:
        return rows
    return rows[np.linspace(0, rows.height - 1, most).astype(np.int64)]


def _matrix(features: pl.DataFrame, names: pl.DataFrame, videos: int) -> sparse.csr_matrix:
    """Return float32 [videos, features with a row]: 1 if the video has the feature."""
    known = features.join(names, on="feature")
    places = known["row"].to_numpy(), known["column"].to_numpy()
    ones = np.ones(known.height, np.float32)
    return sparse.csr_matrix((ones, places), shape=(videos, names.height))


def _ridge(matrix: sparse.csr_matrix, targets: Floats, weights: Floats, ridge: float) -> Floats:
    """Solve the normal equations (X' W X + ridge) rows = X' W targets by conjugate gradients: [features, d].

    The columns of the targets are solved together, each with its own steps.
    """
    weighted = matrix.multiply(weights[:, np.newaxis]).tocsr().astype(np.float32)
    residual = np.asarray(weighted.T @ targets, np.float32)
    rows, direction = np.zeros_like(residual), residual.copy()
    size = np.square(residual).sum(axis=0)
    goal = TOLERANCE**2 * size
    for _ in range(ITERATIONS):
        if (size <= goal).all():
            break
        applied = weighted.T @ (matrix @ direction) + np.float32(ridge) * direction
        step = _ratio(size, (direction * applied).sum(axis=0))
        rows += step * direction
        residual -= step * applied
        following = np.square(residual).sum(axis=0)
        direction = residual + _ratio(following, size) * direction
        size = following
    return rows


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return numerator / denominator, and 0 where that is 0: a column that is solved stays as it is."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
