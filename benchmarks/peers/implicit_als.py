"""ALS of the package `implicit`. See `protocol`.

An epoch is an iteration; the package's default is 15 of them. The grid covers its documentation's weights, plain and
BM25, and the range of settings of `benchmarks.simple_methods`.
"""

# /// script
# dependencies = ["implicit==0.7.3", "polars==2.1.0", "threadpoolctl==3.6.0"]
# [tool.peers]
# title = "implicit: ALS"
# environment = "implicit"
# epochs = 30
# [tool.peers.grid]
# weights = ["plain", "bm25"]
# factors = [64, 128]
# regularization = [0.01, 0.1]
# alpha = [1.0, 10.0]
# ///

from __future__ import annotations

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import bm25_weight
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from benchmarks.peers.protocol import Ints, Logs, Settings, run

SEED = 1


class Als:
    def __init__(self, logs: Logs, settings: Settings) -> None:
        threadpool_limits(1, "blas")  # as implicit's documentation advises: it has threads of its own
        self.weights, weights = watch_matrix(logs), settings["weights"]
        if weights == "bm25":
            self.weights = bm25_weight(self.weights.T.tocsr()).T.tocsr()
        others = {name: value for name, value in settings.items() if name != "weights"}
        self.model = AlternatingLeastSquares(**others, iterations=1, random_state=SEED)

    def train_epoch(self) -> None:
        self.model.fit(self.weights, show_progress=False)  # goes on from the factors of the last call

    def recommend(self, users: Ints, k: int) -> Ints:
        return recommended(self.model, self.weights, users, k)


def watch_matrix(logs: Logs) -> csr_matrix:
    """Return 1 for each pair of a user and an item that they watched: [users, items]."""
    matrix = csr_matrix((np.ones(len(logs.user), np.float32), (logs.user, logs.item)), shape=(logs.users, logs.items))
    matrix.data[:] = 1
    return matrix


def recommended(model: AlternatingLeastSquares, weights: csr_matrix, users: Ints, k: int) -> Ints:
    """Return the lists of a model of `implicit`; it fills short lists with watched items of the lowest scores."""
    ids, scores = model.recommend(users, weights[users], N=k, filter_already_liked_items=True)
    return np.where((ids >= 0) & (scores > -np.finfo(np.float32).max), ids, -1)


if __name__ == "__main__":
    run(Als)
