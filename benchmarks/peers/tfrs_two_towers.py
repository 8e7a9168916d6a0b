"""Two towers with TensorFlow Recommenders, as in its tutorials on retrieval. See `protocol`.

`query = "user"` is the tutorial "Retrieval", an embedding per user; `query = "history"` is "Retrieval using a
sequential model", a GRU over the last watches. Both train with in-batch negatives, corrected by the items' frequency,
and Adagrad.
"""

# /// script
# dependencies = ["tensorflow-recommenders==0.7.7", "tensorflow-cpu==2.15.1", "numpy==1.26.4", "polars==2.1.0"]
# [tool.peers]
# title = "TensorFlow Recommenders: two towers"
# [tool.peers.grid]
# query = ["user", "history"]
# dimension = [32, 128]
# ///

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from benchmarks.peers.protocol import Ints, Logs, Settings, run

LENGTH, BATCH, LEARNING_RATE, SEED = 50, 1_024, 0.1, 1


class Retrieval(tfrs.Model):
    def __init__(self, logs: Logs, settings: Settings) -> None:
        super().__init__()
        d, self.by_user = settings["dimension"], settings["query"] == "user"
        embedding = tf.keras.layers.Embedding
        self.items = embedding(logs.items + 1, d)
        if self.by_user:
            self.query = embedding(logs.users, d)
        else:
            self.query = tf.keras.Sequential([embedding(logs.items + 1, d, mask_zero=True), tf.keras.layers.GRU(d)])
        self.task = tfrs.tasks.Retrieval(remove_accidental_hits=True)

    def vectors(self, batch: dict[str, Any]) -> Any:
        return self.query(batch["user" if self.by_user else "history"])

    def compute_loss(self, batch: dict[str, Any], training: bool = False) -> Any:
        return self.task(
            self.vectors(batch),
            self.items(batch["label"]),
            candidate_sampling_probability=batch["probability"],
            candidate_ids=batch["label"],
            compute_metrics=False,
        )


class TwoTowers:
    def __init__(self, logs: Logs, settings: Settings) -> None:
        tf.keras.utils.set_random_seed(SEED)
        self.logs, self.model = logs, Retrieval(logs, settings)
        user, rows, _, label = logs.prefixes(LENGTH)
        share = np.bincount(label, minlength=logs.items + 1) / len(label)
        given = {"user": user, "history": rows, "label": label, "probability": share[label].astype(np.float32)}
        batches = tf.data.Dataset.from_tensor_slices(given).shuffle(len(label), seed=SEED)
        self.batches = batches.batch(BATCH).prefetch(2)
        self.model.compile(optimizer=tf.keras.optimizers.Adagrad(LEARNING_RATE))

    def train_epoch(self) -> None:
        self.model.fit(self.batches, epochs=1, verbose=0)

    def recommend(self, users: Ints, k: int) -> Ints:
        rows, _ = self.logs.recent(users, LENGTH)
        vectors = self.model.vectors({"user": tf.constant(users), "history": tf.constant(rows)}).numpy()
        items = self.model.items.embeddings.numpy()[1:]
        return self.logs.best(vectors @ items.T, users, k)


if __name__ == "__main__":
    run(TwoTowers)
