"""The exported user tower, applied to serving and holdout records: one vector per user. TensorFlow is imported on first
use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.contracts.transitions import LAGS
from transforms.core import files
from transforms.core.process_cache import process_cache
from transforms.core.tensorflow_import import import_tensorflow

BATCH = 4_096


@dataclass(frozen=True, kw_only=True)
class UserBatch:
    """Some users in the order of their records."""

    user_ids: list[str]
    vectors: NDArray[np.float32]  # [users, dimension + 1]: [u; 1]
    recent: NDArray[np.int32]  # [users, LAGS]: ids of the last completed watches, the most recent last, 0 in front


class Tower:
    """A SavedModel whose signature `examples` maps serialized records to user_id, vector [u; 1] and recent watches."""

    def __init__(self, folder: str) -> None:
        self._tf = import_tensorflow()
        local = files.local_copy(folder)
        self._model: Any = self._tf.saved_model.load(local)  # keeps the variables of the signature alive
        self._signature = self._model.signatures["examples"]

    def users(self, path: str) -> Iterator[UserBatch]:
        """Yield the users of a record file in its order, up to `BATCH` at a time."""
        with files.temporary_local_copy(path) as local:
            for records in self._tf.data.TFRecordDataset(local, "GZIP").batch(BATCH).prefetch(1):
                found = self._signature(examples=records)
                user_ids, vectors = [user.decode() for user in found["user_id"].numpy()], found["vector"].numpy()
                # A tower of an earlier version does not return the recent watches.
                recent = found["recent"].numpy() if "recent" in found else np.zeros((len(user_ids), LAGS), np.int32)
                yield UserBatch(user_ids=user_ids, vectors=vectors, recent=recent)

    def sample_vectors(self, paths: Sequence[str], users: int) -> NDArray[np.float32]:
        """Return the vectors of about `users` users, equally many of each file.

        Users are assigned to buckets by digest, so the first users of each file are a fair sample.
        """
        share = -(-users // max(1, len(paths)))
        batches = (next(self.users(path), None) for path in paths)
        return np.concatenate([batch.vectors[:share] for batch in batches if batch]).astype(np.float32)


@process_cache
def load_tower(folder: str) -> Tower:
    """Return the tower at `folder`, loaded once per process."""
    return Tower(folder)


def vectors_frame(user_ids: list[str], vectors: NDArray[np.float32]) -> pl.DataFrame:
    """Return vectors [n, d] as a frame: user_id, vector (list<float>)."""
    offsets = pa.array(np.arange(len(user_ids) + 1) * vectors.shape[1], pa.int64())
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(vectors.ravel(), pa.float32()))
    return pl.DataFrame({"user_id": user_ids, "vector": lists})
