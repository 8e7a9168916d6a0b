"""The exported user tower, applied to serving and holdout records: one vector a user. TensorFlow is loaded on first
use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transforms.files import local_copy
from transforms.quiet import import_tensorflow

BATCH = 4_096


class Tower:
    """A SavedModel with the signature `examples`: serialized records -> user_id, vector [u; 1]."""

    def __init__(self, folder: str) -> None:
        self._tf = import_tensorflow()
        self._model: Any = self._tf.saved_model.load(folder)  # keeps the variables of the signature alive
        self._signature = self._model.signatures["examples"]

    def users(self, path: str) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """(user ids, vectors [n, dimension + 1]) of a record file, at most `BATCH` users at a time, in its order."""
        for records in self._tf.data.TFRecordDataset(local_copy(path), "GZIP").batch(BATCH):
            found = self._signature(examples=records)
            yield [user.decode() for user in found["user_id"].numpy()], found["vector"].numpy()

    def sample(self, paths: Sequence[str], users: int) -> NDArray[np.float32]:
        """Vectors of about `users` users, evenly from all files: buckets are drawn by digest, so each is a fair
        sample."""
        share = -(-users // max(1, len(paths)))
        found = [vectors[:share] for path in paths for _, vectors in [next(self.users(path), ([], np.zeros((0, 1))))]]
        return np.concatenate([vectors for vectors in found if len(vectors)]).astype(np.float32)


@lru_cache(maxsize=2)
def load_tower(folder: str) -> Tower:
    """The tower at `folder`, once a process."""
    return Tower(folder)
