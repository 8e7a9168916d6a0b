"""Measure the processor time of lists with and without re-ranking for diversity, and how similar their videos are.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.diversity [--videos 20000] [--dimension 64] [--k 200] [--scann]

Vectors are those of `benchmarks.search`, with a bias of 0. Exact search by default; `--scann` builds and tunes an index
first. Users are searched for in batches of the stage's size. Times are processor seconds of this process, the least of
three runs. With several BLAS threads they include threads that wait for each other, which on a busy machine is most of
the time of products as small as those of the cosines. The similarity is the mean cosine of two videos of a list.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.search import draw
from transforms.search.diversity import CANDIDATES_PER_PLACE, diversify
from transforms.search.exact_search import Floats, Positions
from transforms.search.exclusions import Excluded
from transforms.search.index_files import unit_directions
from transforms.search.top_k import build_index, top_k
from transforms.search.tower import BATCH

RUNS = 3
LISTS = 256  # whose similarity is computed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--users", type=int, default=2_048)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--diversity", type=float, nargs="+", default=[0.1, 0.3, 0.5])
    parser.add_argument("--scann", action="store_true")
    args = parser.parse_args()
    videos, users = draw(args.videos, args.users, args.dimension)
    vectors = np.concatenate([videos, np.zeros_like(videos[:, :1])], axis=1)
    queries = np.concatenate([users, np.ones_like(users[:, :1])], axis=1)
    index = build_index(vectors, k=args.k, queries=queries, exact_below=0 if args.scann else args.videos + 1)

    def lists(depth: int, diversity: float) -> Positions:
        found = []
        for start in range(0, len(queries), BATCH):
            batch = queries[start : start + BATCH]
            candidates = top_k(index, batch, k=depth, excluded=Excluded.empty(len(batch)))
            found.append(diversify(candidates, vectors, k=args.k, diversity=diversity).positions)
        return np.concatenate(found)

    print(f"{args.videos:,} videos x {args.dimension}, {index.info.kind} search, lists of {args.k}")
    deep = args.k * CANDIDATES_PER_PLACE
    for name, depth, diversity in [("none", args.k, 0.0), ("none, 2k", deep, 0.0)] + [
        (f"{weight:g}", deep, weight) for weight in args.diversity
    ]:
        seconds, found = processor_seconds(partial(lists, depth, diversity))
        similar = mean_cosine(found[:LISTS], unit_directions(vectors))
        rate = args.users / seconds
        print(f"diversity {name}: {rate:,.0f} users per processor second, mean cosine {similar:.3f}", flush=True)


def processor_seconds(search: Callable[[], Positions]) -> tuple[float, Positions]:
    """Return the least processor time of `RUNS` runs, and the result."""
    seconds = []
    for _ in range(RUNS):
        began = time.process_time()
        found = search()
        seconds.append(time.process_time() - began)
    return min(seconds), found


def mean_cosine(lists: Positions, directions: Floats) -> float:
    """Return the mean cosine of two different videos of a list. lists: [users, k]; directions: [n, d], unit vectors."""
    k = lists.shape[1]
    sums = np.square(directions[lists].sum(axis=1)).sum(axis=1)  # over all pairs, also of a video and itself
    return float(np.mean((sums - k) / (k * (k - 1))))


if __name__ == "__main__":
    main()
