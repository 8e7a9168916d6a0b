"""Count the transitions of `transforms.contracts.transitions` in training records.

histories = read_histories(records, spec, newest_labels=True)
write_transitions(count_transitions(histories, videos=spec.videos), "model/transitions.parquet")
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from trainer.co_watches import Histories
from transforms.contracts.transitions import FOLLOWERS, lag_weights
from transforms.core.tensorflow_import import tf

SHRINKAGE = 5.0  # added to the number of watches that follow a video: the shares of rare videos are small
SCHEMA = pa.schema([("id", pa.int64()), ("followers", pa.list_(pa.int32())), ("shares", pa.list_(pa.float32()))])


def count_transitions(histories: Histories, *, videos: int, followers: int = FOLLOWERS) -> sparse.csr_matrix:
    """Return the largest shares of followers, float32 [videos, videos], by id - 1; at most `followers` in a row.

    Watches that were not completed are ignored, and so is a video that follows itself.
    """
    completed = histories.ids <= videos
    ids = (histories.ids[completed] - 1).astype(np.int32)
    users = np.repeat(np.arange(len(histories.offsets) - 1, dtype=np.int32), np.diff(histories.offsets))[completed]
    counts = sparse.csr_matrix((videos, videos), dtype=np.float32)
    for lag, weight in enumerate(lag_weights()[::-1], start=1):
        follows = (users[lag:] == users[:-lag]) & (ids[lag:] != ids[:-lag])
        first, then = ids[:-lag][follows], ids[lag:][follows]
        counts += sparse.csr_matrix((np.full(len(first), weight), (first, then)), shape=counts.shape)
    totals = np.asarray(counts.sum(axis=1)).ravel() + SHRINKAGE
    counts.data /= np.repeat(totals, np.diff(counts.indptr)).astype(np.float32)
    return _largest(counts, followers)


def _largest(shares: sparse.csr_matrix, most: int) -> sparse.csr_matrix:
    """Return the matrix with the `most` largest values of each row, in falling order; equal ones by column."""
    rows, videos = np.repeat(np.arange(shares.shape[0]), np.diff(shares.indptr)), shares.shape[0]
    # Most pairs occur once. A row with enough values above its mean needs no other ones, and sorting is what costs.
    sums, counts = (np.bincount(rows, weights, videos) for weights in (shares.data, None))
    above = shares.data > (sums / np.maximum(counts, 1))[rows]
    needed = above | (np.bincount(rows[above], minlength=videos) < most)[rows]
    rows, columns, data = rows[needed], shares.indices[needed], shares.data[needed]
    order = np.lexsort((columns, -data, rows))
    starts = np.searchsorted(rows, np.arange(videos + 1))
    kept = order[np.arange(len(order)) - starts[rows] < most]
    offsets = np.concatenate([[0], np.cumsum(np.minimum(np.diff(starts), most))])
    return sparse.csr_matrix((data[kept], columns[kept], offsets), shape=shares.shape)


def write_transitions(shares: sparse.csr_matrix, path: str) -> None:
    """Write the Parquet file of `transforms.contracts.transitions` from shares by id - 1, [videos, videos]."""
    offsets = pa.array(shares.indptr, pa.int32())
    columns = [
        pa.array(np.arange(1, shares.shape[0] + 1)),
        pa.ListArray.from_arrays(offsets, pa.array(shares.indices + 1, pa.int32())),
        pa.ListArray.from_arrays(offsets, pa.array(shares.data, pa.float32())),
    ]
    with tempfile.TemporaryDirectory() as folder:
        local = str(Path(folder) / "transitions.parquet")
        pq.write_table(pa.table(columns, schema=SCHEMA), local, compression="zstd")
        tf.io.gfile.copy(local, path, overwrite=True)
