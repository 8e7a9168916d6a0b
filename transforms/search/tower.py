"""The exported user tower, applied to serving and holdout records: one vector per user. TensorFlow is imported on first
use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core import files
from transforms.core.tensorflow_import import import_tensorflow
from transforms.core.threads import process_cache

BATCH = 4_096


class Tower:
    """A SavedModel whose signature `examples` maps serialized records to user_id and vector [u; 1]."""

    def __init__(self, folder: str) -> None:
        self._tf = import_tensorflow()
        local = files.local_copy(folder)
        self._model: Any = self._tf.saved_model.load(local)  # keeps the variables of the signature alive
        self._signature = self._model.signatures["examples"]

    def user_vectors(self, path: str) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Yield (user ids, vectors [n, dimension + 1]) of a record file in its order, up to `BATCH` users at a time."""
        with files.temporary_local_copy(path) as local:
            for records in self._tf.data.TFRecordDataset(local, "GZIP").batch(BATCH).prefetch(1):
                found = self._signature(examples=records)
                yield [user.decode() for user in found["user_id"].numpy()], found["vector"].numpy()

    def sample_vectors(self, paths: Sequence[str], users: int) -> NDArray[np.float32]:
        """Return the vectors of about `users` users, equally many of each file.

        Users are assigned to buckets by digest, so the first users of each file are a fair sample.
        """
        share = -(-users // max(1, len(paths)))
        batches = (next(self.user_vectors(path), ([], np.zeros((0, 1))))[1] for path in paths)
        return np.concatenate([vectors[:share] for vectors in batches if len(vectors)]).astype(np.float32)


@process_cache
def load_tower(folder: str) -> Tower:
    """Return the tower at `folder`, loaded once per process."""
    return Tower(folder)


def vectors_frame(user_ids: list[str], vectors: NDArray[np.float32]) -> pl.DataFrame:
    """Return vectors [n, d] as a frame: user_id, vector (list<float>)."""
    offsets = pa.array(np.arange(len(user_ids) + 1) * vectors.shape[1], pa.int64())
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(vectors.ravel(), pa.float32()))
    return pl.DataFrame({"user_id": user_ids, "vector": lists})
