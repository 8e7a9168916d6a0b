"""Item-to-item neighbours of the package `implicit`: cosine, TF-IDF and BM25. See `protocol`. There are no epochs."""

# /// script
# dependencies = ["implicit==0.7.3", "polars==2.1.0", "threadpoolctl==3.6.0"]
# [tool.peers]
# title = "implicit: item to item"
# environment = "implicit"
# epochs = 1
# [tool.peers.grid]
# weights = ["cosine", "tf-idf", "bm25 0.5 0.75", "bm25 1.2 0.75", "bm25 10 0.2"]
# neighbours = [20, 50, 100, 200, 500]
# ///

from __future__ import annotations

from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender

from benchmarks.peers.implicit_als import recommended, watch_matrix
from benchmarks.peers.protocol import Ints, Logs, Settings, run


class ItemToItem:
    def __init__(self, logs: Logs, settings: Settings) -> None:
        self.watches = watch_matrix(logs)
        name, *parameters = settings["weights"].split()
        k = settings["neighbours"]
        if name == "bm25":
            k1, b = map(float, parameters)
            self.model = BM25Recommender(K=k, K1=k1, B=b)
        else:
            self.model = {"cosine": CosineRecommender, "tf-idf": TFIDFRecommender}[name](K=k)

    def train_epoch(self) -> None:
        self.model.fit(self.watches, show_progress=False)

    def recommend(self, users: Ints, k: int) -> Ints:
        return recommended(self.model, self.watches, users, k)


if __name__ == "__main__":
    run(ItemToItem)
