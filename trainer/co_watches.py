"""Start values of the video tables from co-watch counts, so that a training begins at the quality of item-to-item.

Let X have a row for each user and a column for each video: 1 / sqrt(watchers of the video) if the user watched it, else
0. Its truncated singular value decomposition X ~ U S V' gives both tables: V S^1.25 the inputs, V the outputs. With
shared vectors both are V S^0.625, and the videos' own rows start at zero. The product of an input row and an output row
is then a low-rank form of the cosine between the users of two videos, and a decaying sum of a user's input rows
(`history.Shortcut`) ranks videos about as item-to-item does (Cremonesi, Koren, Turrin: Performance of Recommender
Algorithms on Top-N Recommendation Tasks, RecSys 2010). Training improves from there. A watch that was not completed
counts `PARTIAL_WEIGHT` of a completed one, in X and in the sum.

    histories = read_histories(records, spec)
    start = factorise(histories, dimension=64, label_counts=counts, length=50, seed=1)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from trainer.batch import LABEL, WATCHES
from trainer.record_files import RecordFiles
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

POWER = 1.25  # exponent of the singular values in the product of an input row and an output row
DECAY = 0.9  # initial weight of a watch, compared with the one after it
PARTIAL_WEIGHT = 0.5  # of a watch that was not completed, compared with a completed one
ITERATIONS = 4  # of the subspace iteration
OVERSAMPLING = 8  # further directions of the iteration, which are dropped
MOST_WATCHES = 20_000_000  # of the histories that are factorised, which bounds time and memory
SAMPLE_USERS, SAMPLE_VIDEOS = 1_500, 20_000  # of the choice of gain and popularity
GAINS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
POPULARITIES = (1.0, 0.75, 0.5, 0.25)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Histories:
    """The watches of users, oldest first: those of user i are ids[offsets[i] : offsets[i + 1]]."""

    ids: Ints  # of videos, from 1; plus the number of videos for watches that were not completed
    offsets: Ints  # [users + 1]


@dataclass(frozen=True, kw_only=True)
class TableStart:
    """Start values of a model with a shortcut. Rows of videos that no user watched are zeros."""

    inputs: Floats  # [1 + 2 * videos, dimension]; row 0 is zeros; the last are of watches that were not completed
    outputs: Floats  # [1 + videos, dimension]; row 0 is zeros
    gain: float  # factor of the shortcut
    popularity: float  # factor of the initial biases, the logarithms of the videos' shares of the labels


def read_histories(
    records: RecordFiles, spec: FeatureSpec, *, newest_labels: bool = False, most_watches: int = MOST_WATCHES
) -> Histories:
    """Return the watches before the newest label of each training record, up to `most_watches` of them.

    Ids out of vocabulary and shared rows are dropped. With `newest_labels`, each history ends with the newest label.
    The start of a training leaves these out because early stopping measures those of some users.
    """
    names = (WATCHES, LABEL) if newest_labels else (WATCHES,)
    features = {name: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64) for name in names}
    ids, lengths, total = list[Ints](), list[Ints](), 0
    for block in records.read_blocks():
        parsed = tf.io.parse_example(block, features)
        watches = parsed[WATCHES]
        if newest_labels:
            watches = tf.concat([watches, parsed[LABEL][:, -1:]], axis=1)
        is_partial = watches > spec.partial_offset
        known = tf.ragged.boolean_mask(watches, ((watches > 0) & (watches <= spec.videos)) | is_partial)
        ids.append(known.values.numpy())
        lengths.append(known.row_lengths().numpy())
        total += len(ids[-1])
        if total >= most_watches:
            break
    offsets, flat = np.cumsum(np.concatenate([[0], *lengths])), np.concatenate([np.zeros(0, np.int64), *ids])
    flat = np.where(flat > spec.videos, flat - spec.shared_rows, flat)
    return Histories(ids=flat, offsets=offsets.astype(np.int64))


def factorise(
    histories: Histories, *, label_counts: Ints, dimension: int, length: int, seed: int, shared: bool = False
) -> TableStart:
    """Return the start values of tables with `dimension` columns, for histories of `length` watches.

    `label_counts`: int64 [videos], of the ids from 1. `shared`: whether inputs and outputs are equal. Gain and
    popularity are those that make the last completed watches of some users most likely, given the watches before them.
    """
    videos, draws = len(label_counts), np.random.default_rng(seed)
    vectors, values = _right_singular(_watch_matrix(histories, videos=videos), min(dimension, videos), draws)
    powers = (POWER / 2, POWER / 2) if shared else (POWER, 0)
    inputs, outputs = (_table(vectors * values**power, dimension=dimension) for power in powers)
    inputs = np.concatenate([inputs, PARTIAL_WEIGHT * inputs[1:]])
    gain, popularity = _most_likely(histories, inputs, outputs, label_counts, length=length, draws=draws)
    return TableStart(inputs=inputs, outputs=outputs, gain=gain, popularity=popularity)


def decay_weights(length: int) -> Floats:
    """Return the initial weights of the positions of a history, float [length]; the most recent, the last, has 1."""
    return (DECAY ** np.arange(length - 1, -1, -1)).astype(np.float32)


def _watch_matrix(histories: Histories, *, videos: int) -> sparse.csr_matrix:
    """Return the matrix X of the module, float32 [users, videos]."""
    weights = np.where(histories.ids <= videos, 1, PARTIAL_WEIGHT)
    shape = (len(histories.offsets) - 1, videos)
    matrix = sparse.csr_matrix((weights, (histories.ids - 1) % videos, histories.offsets), shape=shape)
    matrix.sum_duplicates()
    matrix.data = np.minimum(matrix.data, 1)
    watchers = np.bincount(matrix.indices, weights=matrix.data, minlength=videos)
    matrix.data = (matrix.data / np.sqrt(watchers[matrix.indices])).astype(np.float32)
    return matrix


def _right_singular(matrix: sparse.csr_matrix, rank: int, draws: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the first right singular vectors [videos, rank] and values [rank] of a matrix, largest first.

    Subspace iteration from random directions (Halko, Martinsson, Tropp: Finding Structure with Randomness, 2011).
    """
    width = min(rank + OVERSAMPLING, matrix.shape[1])
    basis = draws.standard_normal((matrix.shape[1], width), np.float32)
    for _ in range(ITERATIONS):
        basis = np.linalg.qr(matrix.T @ (matrix @ basis))[0]
    projected = matrix @ basis
    squares, rotation = np.linalg.eigh(projected.T @ projected)  # in ascending order
    values = np.sqrt(np.maximum(squares[::-1], 0))[:rank]
    return basis @ rotation[:, ::-1][:, :rank], values


def _table(rows: Floats, *, dimension: int) -> Floats:
    """Return rows [videos, rank] as a table, float [1 + videos, dimension], with rows of mean square length 1."""
    table = np.zeros((len(rows) + 1, dimension), np.float32)
    square = np.square(rows).sum() / max(len(rows), 1)
    table[1:, : rows.shape[1]] = rows / np.sqrt(square) if square > 0 else rows
    return table


def _most_likely(
    histories: Histories,
    inputs: Floats,
    outputs: Floats,
    label_counts: Ints,
    *,
    length: int,
    draws: np.random.Generator,
) -> tuple[float, float]:
    """Return the gain and the popularity of a `TableStart`.

    The last completed watch of each sampled user is compared with all videos, or with a sample of them.
    """
    starts = histories.offsets[:-1]
    ends = _after_last_completed(histories, videos=len(label_counts))
    users = draws.permutation(np.flatnonzero(ends - starts > 1))[:SAMPLE_USERS]
    if not len(users):
        return 1.0, 1.0
    place = ends[users, np.newaxis] - 1 - np.arange(length, 0, -1)
    inside = place >= starts[users, np.newaxis]
    weights = decay_weights(length) * inside
    rows = inputs[np.where(inside, histories.ids[np.maximum(place, 0)], 0)]
    vectors = np.einsum("ul,uld->ud", weights, rows) / np.sqrt(weights.sum(axis=1, keepdims=True))
    labels = histories.ids[ends[users] - 1]
    videos = 1 + draws.permutation(len(label_counts))[:SAMPLE_VIDEOS]
    share = np.log((label_counts + 1) / (label_counts + 1).sum()).astype(np.float32)
    similar, similar_label = vectors @ outputs[videos].T, np.sum(vectors * outputs[labels], axis=1)

    def loss(gain: float, popularity: float) -> float:
        logits = gain * similar + popularity * share[videos - 1]
        positive = gain * similar_label + popularity * share[labels - 1]
        peak = np.maximum(logits.max(axis=1), positive)
        others = np.where(videos == labels[:, np.newaxis], 0, np.exp(logits - peak[:, np.newaxis])).sum(axis=1)
        return float(np.mean(np.log(others + np.exp(positive - peak)) + peak - positive))

    _, gain, popularity = min((loss(g, p), g, p) for g in GAINS for p in POPULARITIES)
    return float(gain), popularity


def _after_last_completed(histories: Histories, *, videos: int) -> Ints:
    """Return for each user the place after the last completed watch, int64 [users]; at most the start without one."""
    is_completed = histories.ids <= videos
    place = np.maximum.accumulate(np.where(is_completed, np.arange(1, len(is_completed) + 1), 0))
    return np.concatenate([[0], place])[histories.offsets[1:]]
