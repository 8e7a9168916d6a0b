"""YoutubeDNN of the package DeepMatch, the same paper's candidate generator. See `protocol`.

Inputs, layers and the sampled softmax are those of the package's example for YoutubeDNN; the grid varies its sizes.
"""

# /// script
# dependencies = ["deepmatch==0.3.2", "tensorflow-cpu==2.15.1", "numpy==1.26.4", "polars==2.1.0"]
# [tool.peers]
# title = "DeepMatch: YoutubeDNN"
# [tool.peers.grid]
# dimension = [16, 64]
# negatives = [255, 1024]
# ///

from __future__ import annotations

import numpy as np
import tensorflow as tf
from deepctr.feature_column import SparseFeat, VarLenSparseFeat
from deepmatch.models import YoutubeDNN
from deepmatch.utils import NegativeSampler, sampledsoftmaxloss

from benchmarks.peers.protocol import Ints, Logs, Settings, run

LENGTH, BATCH, SEED = 50, 256, 1


class YoutubeDnn:
    def __init__(self, logs: Logs, settings: Settings) -> None:
        tf.compat.v1.disable_eager_execution()  # as the package's examples do
        tf.compat.v1.set_random_seed(SEED)
        self.logs = logs
        d, items = settings["dimension"], logs.items + 1
        user, rows, lengths, label = logs.prefixes(LENGTH)
        self.inputs = {"user_id": user + 1, "hist_movie_id": rows, "hist_len": lengths, "movie_id": label}
        self.label = label
        history = VarLenSparseFeat(
            SparseFeat("hist_movie_id", items, d, embedding_name="movie_id"), LENGTH, "mean", "hist_len"
        )
        counts = np.bincount(label, minlength=items) + 1
        sampler = NegativeSampler(
            "frequency", num_sampled=settings["negatives"], item_name="movie_id", item_count=counts
        )
        self.model = YoutubeDNN(
            [SparseFeat("user_id", logs.users + 1, d), history],
            [SparseFeat("movie_id", items, d)],
            user_dnn_hidden_units=(2 * d, d),
            sampler_config=sampler,
        )
        self.model.compile(optimizer="adam", loss=sampledsoftmaxloss)

    def train_epoch(self) -> None:
        self.model.fit(self.inputs, self.label, batch_size=BATCH, epochs=1, verbose=0)

    def recommend(self, users: Ints, k: int) -> Ints:
        rows, lengths = self.logs.recent(users, LENGTH)
        asked = {"user_id": users + 1, "hist_movie_id": rows, "hist_len": lengths}
        items = {"movie_id": np.arange(1, self.logs.items + 1)}
        user_tower = tf.keras.Model(self.model.user_input, self.model.user_embedding)
        item_tower = tf.keras.Model(self.model.item_input, self.model.item_embedding)
        users_by_d = user_tower.predict(asked, batch_size=4096, verbose=0).reshape(len(users), -1)
        items_by_d = item_tower.predict(items, batch_size=4096, verbose=0).reshape(self.logs.items, -1)
        return self.logs.best(users_by_d @ items_by_d.T, users, k)


if __name__ == "__main__":
    run(YoutubeDnn)
