"""The exported user tower, applied to serving and holdout records: one vector a user. TensorFlow is loaded on first
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
    """A SavedModel with the signature `examples`: serialized records -> user_id, vector [u; 1]."""

    def __init__(self, folder: str) -> None:
        self._tf = import_tensorflow()
        local = files.local_copy(folder)
        self._model: Any = self._tf.saved_model.load(local)  # keeps the variables of the signature alive
        self._signature = self._model.signatures["examples"]

    def users(self, path: str) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """(user ids, vectors [n, dimension + 1]) of a record file, at most `BATCH` users at a time, in its order."""
        with files.local_while(path) as local:
            for records in self._tf.data.TFRecordDataset(local, "GZIP").batch(BATCH).prefetch(1):
                found = self._signature(examples=records)
                yield [user.decode() for user in found["user_id"].numpy()], found["vector"].numpy()

    def sample(self, paths: Sequence[str], users: int) -> NDArray[np.float32]:
        """Vectors of about `users` users, evenly from all files: buckets are drawn by digest, so each is a fair
        sample."""
        share = -(-users // max(1, len(paths)))
        found = [vectors[:share] for path in paths for _, vectors in [next(self.users(path), ([], np.zeros((0, 1))))]]
        return np.concatenate([vectors for vectors in found if len(vectors)]).astype(np.float32)


@process_cache
def load_tower(folder: str) -> Tower:
    """The tower at `folder`, once a process."""
    return Tower(folder)


def vectors_frame(user_ids: list[str], vectors: NDArray[np.float32]) -> pl.DataFrame:
    """user_id, vector (list<float>: [u; 1])."""
    offsets = pa.array(np.arange(len(user_ids) + 1) * vectors.shape[1], pa.int64())
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(vectors.ravel(), pa.float32()))
    return pl.DataFrame({"user_id": user_ids, "vector": lists})
