"""Tune simple methods on the validation events of real logs, then score each once on the test events.

    python -m benchmarks.simple_methods PATH LastFM OUT

PATH is that of `real_logs`; OUT is a new folder. The methods are those of the
package `implicit` (extra `bench`): item-to-item neighbours by cosine, TF-IDF and BM25, and ALS. Each learns from the
completed watches of the logs, without their order, and lists videos that the user has not completed. The settings with
the best first figure of `CHOSEN_BY` on the validation events are used for the test. Lists are scored by the same scorer
as the lists of a night.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender, bm25_weight
from scipy.sparse import csr_matrix

from benchmarks.real_logs import CHOSEN_BY, CUTS, NIGHTS, write_logs
from benchmarks.score_lists import read_pairs, score

NEIGHBOURS = {"K": [20, 50, 100, 200, 500, 1000]}
GRIDS: dict[str, tuple[Any, Mapping[str, list[Any]]]] = {
    "item-to-item, cosine": (CosineRecommender, NEIGHBOURS),
    "item-to-item, TF-IDF": (TFIDFRecommender, NEIGHBOURS),
    "item-to-item, BM25": (BM25Recommender, {**NEIGHBOURS, "K1": [0.5, 1.2, 10], "B": [0.2, 0.75]}),
    "ALS": (
        AlternatingLeastSquares,
        {"factors": [32, 64, 128, 256], "regularization": [0.01, 0.1, 1.0], "alpha": [1.0, 10.0, 40.0]},
    ),
    "ALS, BM25 weights": (
        AlternatingLeastSquares,
        {"factors": [64, 128, 256], "regularization": [0.01, 0.1, 1.0], "alpha": [1.0, 4.0]},
    ),
}
SEED, ITERATIONS, USERS_AT_ONCE = 1, 15, 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("logs", choices=NIGHTS)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    truths = {
        part: write_logs(args.path, args.logs, args.out / part, validation=part == "validation")
        for part in ("validation", "test")
    }
    watches = {part: Watches(args.out / part / "watches", truth) for part, truth in truths.items()}
    cuts, chosen_by = CUTS[args.logs], CHOSEN_BY[args.logs]
    for name, (method, grid) in GRIDS.items():
        tried = []
        for settings in _combinations(grid):
            figures = watches["validation"].score(name, method, settings, cuts)
            tried.append((figures[chosen_by], settings))
        best, settings = max(tried, key=lambda pair: pair[0])
        began = time.monotonic()
        figures = watches["test"].score(name, method, settings, cuts)
        shown = {figure: figures[figure] for k in cuts for figure in (f"recall@{k}", f"hit@{k}")}
        print(f"{name} {settings}: validation {chosen_by} {best:.4f}; test {shown}; {time.monotonic() - began:.0f} s")


def _combinations(grid: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))


class Watches:
    """The completed watches of some logs as a matrix of users and videos, and the events that lists are scored on."""

    def __init__(self, folder: Path, truth: Path) -> None:
        columns = ["user_id", "video_id", "completed"]
        rows = pl.concat([pl.read_parquet(path, columns=columns) for path in sorted(folder.glob("*.parquet"))])
        pairs = rows.filter("completed").select("user_id", "video_id").unique(maintain_order=True)
        self.truth = read_pairs(truth)
        self.users, self.videos = (pairs[name].unique().sort() for name in ("user_id", "video_id"))
        row, column = (
            pairs[name].cast(pl.Enum(ids)).to_physical().to_numpy()
            for name, ids in (("user_id", self.users), ("video_id", self.videos))
        )
        ones = np.ones(len(row), np.float32)
        self.matrix = csr_matrix((ones, (row, column)), shape=(len(self.users), len(self.videos)))

    def score(self, name: str, method: Any, settings: Mapping[str, Any], cuts: tuple[int, ...]) -> dict[str, float]:
        """Fit a method and return the figures of the lists of the users of the truth."""
        is_als = method is AlternatingLeastSquares
        model = method(**settings, **({"iterations": ITERATIONS, "random_state": SEED} if is_als else {}))
        weighted = bm25_weight(self.matrix.T.tocsr()).T.tocsr() if "BM25 weights" in name else self.matrix
        model.fit(weighted, show_progress=False)
        rows = np.flatnonzero(self.users.is_in(self.truth["user_id"].unique().implode()).to_numpy())
        frames = []
        for part in np.array_split(rows, -(-len(rows) // USERS_AT_ONCE)):
            ids, scores = model.recommend(part, weighted[part], N=max(cuts), filter_already_liked_items=True)
            lists = [
                self.videos.gather(line[(line >= 0) & (score > -np.finfo(np.float32).max)]).to_list()
                for line, score in zip(ids, scores, strict=True)
            ]
            frames.append(pl.DataFrame({"user_id": self.users.gather(part), "video_ids": lists}))
        return score(pl.concat(frames), self.truth, cuts)


if __name__ == "__main__":
    main()
