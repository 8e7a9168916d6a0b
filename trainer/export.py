"""The outputs of a training: the user tower as a SavedModel, the video vectors, and JSON files.

    tower = tf.saved_model.load(result.tower)
    tower.signatures["examples"](examples=tf.constant([record]))["vector"]  # [1, dimension + 1]

The last component of a user vector is 1 and that of a video vector is its bias, so a score is one dot product. With
trends, the components before it are those of `Trends.served_columns`, and the dimension includes them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.batch import WATCHES, Batch, feature_specs
from trainer.examples import Vocabulary
from trainer.inputs import cut_windows, parse_records
from trainer.model import Model, UserTower
from trainer.raw import RawFeatures
from transforms.contracts.transitions import LAGS
from transforms.core.tensorflow_import import tf

ROWS_AT_ONCE = 65_536


def served_trends(tower: UserTower) -> tf.Tensor:
    """Return which columns of the trends are exported, int32 [columns]; none without trends."""
    columns = tower.trends.served_columns(tower.spec.holdout_days or 0) if tower.trends else []
    return tf.constant(columns, tf.int32)


class ServedTower(tf.Module):
    """The user tower with the functions of its signatures; with `raw` it reads raw features too."""

    def __init__(self, tower: UserTower, raw: RawFeatures | None = None) -> None:
        super().__init__(name="served_tower")
        self.tower, self.raw = tower, raw

    def vectors(self, batch: Batch) -> tf.Tensor:
        """Return float [batch, dimension + 1] for a batch of windows."""
        users, width = self.tower.vectors(batch, self.tower.look_up(batch)), self.tower.tables[WATCHES].dimension
        trends = tf.gather(users[:, width:], served_trends(self.tower), axis=1)
        return tf.concat([users[:, :width], trends, tf.ones([tf.shape(users)[0], 1])], axis=1)

    def from_features(self, features: Batch) -> dict[str, tf.Tensor]:
        """Return `vector`, float [batch, dimension + 1], for the inputs of `batch.feature_specs`."""
        return {"vector": self.vectors(features)}

    def from_raw(self, raw: Batch) -> dict[str, tf.Tensor]:
        """Return `vector`, float [users, dimension + 1], for the inputs of `raw.RawFeatures.specs`."""
        assert self.raw is not None
        return {"vector": self.vectors(self.raw(raw))}

    def from_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return `user_id`, `vector` and `recent` (`last_watches`) of serialized records, string [users].

        Fails unless each has one pointer.
        """
        records = parse_records(examples, self.tower.spec, training=False)
        one_each = tf.debugging.Assert(
            tf.reduce_all(tf.equal(records.pointer_counts, 1)),
            ["a record to be served must have exactly one pointer (watches_end)", records.pointer_counts],
        )
        with tf.control_dependencies([one_each]):
            batch = cut_windows(records.lists, records.pointers, self.tower.spec)
        recent = last_watches(batch[WATCHES], videos=self.tower.spec.videos)
        return {"user_id": records.user_id, "vector": self.vectors(batch), "recent": recent}


def last_watches(watches: tf.Tensor, *, videos: int) -> tf.Tensor:
    """Return the last `LAGS` watches of videos in vocabulary that were completed, int32 [users, LAGS].

    The most recent is in the last column; 0 is padding. `watches`: int32 [users, length], windows of a batch.
    """
    is_known = (watches > 0) & (watches <= videos)
    back = tf.cumsum(tf.cast(is_known, tf.int32), axis=1, reverse=True)  # 1 is the most recent
    column = tf.where(is_known & (back <= LAGS), LAGS - back, -1)
    return tf.reduce_sum(watches[:, :, tf.newaxis] * tf.one_hot(column, LAGS, dtype=tf.int32), axis=1)


def export_tower(tower: UserTower, folder: str, *, raw: RawFeatures | None = None) -> None:
    """Write a SavedModel with the signatures `examples` (string [users]), `features` (`batch.feature_specs`) and, with
    `raw`, also `raw` (`RawFeatures.specs`)."""
    served = ServedTower(tower, raw)
    examples = tf.TensorSpec([None], tf.string, name="examples")
    signatures = {
        "examples": tf.function(served.from_examples, input_signature=[examples], autograph=False),
        "features": tf.function(served.from_features, input_signature=[feature_specs(tower.spec)], autograph=False),
    }
    if raw is not None:
        signatures["raw"] = tf.function(served.from_raw, input_signature=[raw.specs()], autograph=False)
    tf.saved_model.save(served, folder, signatures=signatures)


def write_video_vectors(model: Model, counts: Vocabulary, path: str) -> None:
    """Write Parquet with a row for each video, in order of the ids: id, video_id, label_count, vector.

    `vector` has dimension + 1 floats.
    """
    with tempfile.TemporaryDirectory() as folder:
        local = str(Path(folder) / "video_vectors.parquet")
        with pq.ParquetWriter(local, VIDEO_VECTORS, compression="zstd") as writer:
            for start in range(0, model.videos.size, ROWS_AT_ONCE):
                writer.write_table(_video_rows(model, counts, start, min(start + ROWS_AT_ONCE, model.videos.size)))
        tf.io.gfile.copy(local, path, overwrite=True)


VIDEO_VECTORS = pa.schema(
    [("id", pa.int64()), ("video_id", pa.string()), ("label_count", pa.int64()), ("vector", pa.list_(pa.float32()))]
)


def _video_rows(model: Model, counts: Vocabulary, start: int, stop: int) -> pa.Table:
    """Return the rows of the videos with the ids start + 1 to stop."""
    rows = [table.read(start + 1, stop + 1).numpy() for table in (model.videos, model.biases)]
    if (trends := model.tower.trends) is not None:
        features = trends.features[start + 1 : stop + 1]
        rows.insert(1, tf.gather(features, served_trends(model.tower), axis=1).numpy())
    vectors = np.concatenate(rows, axis=1)
    offsets = np.arange(0, vectors.size + 1, vectors.shape[1], dtype=np.int32)
    return pa.table(
        [
            pa.array(np.arange(start + 1, stop + 1)),
            counts.names.slice(start, stop - start),
            pa.array(counts.counts[start:stop]),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel())),
        ],
        schema=VIDEO_VECTORS,
    )


def write_json(value: Mapping[str, object], path: str) -> None:
    """Write a value as indented JSON."""
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps(value, indent=1, ensure_ascii=False))
