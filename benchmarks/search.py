"""Measure queries per second of exact search and of ScaNN, and the cost of excluding watched videos.

    python -m benchmarks.search --videos 1000000 --dimension 256

Vectors are drawn around common centres, with lengths that vary like popularity; user vectors around the same centres.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from transforms.search.exact_search import ExactIndex, Floats
from transforms.search.exclusions import Excluded
from transforms.search.top_k import Index, build_index, top_k


def draw(videos: int, users: int, dimension: int, *, seed: int = 7) -> tuple[Floats, Floats]:
    """Return (video vectors [videos, dimension], user vectors [users, dimension])."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(2, videos // 500), dimension), np.float32)

    def around(rows: int, spread: float) -> Floats:
        noise = rng.standard_normal((rows, dimension), np.float32)
        return np.asarray(centres[rng.integers(len(centres), size=rows)] + np.float32(spread) * noise)

    lengths = rng.lognormal(0, 0.25, (videos, 1)).astype(np.float32)
    return around(videos, 0.7) * lengths, around(users, 0.7)


def seen(index: Index, queries: Floats, *, most: int, seed: int = 7) -> Excluded:
    """Return exclusions: each user has watched up to `most` of their nearest videos, a long tail of users many."""
    rng = np.random.default_rng(seed)
    counts = np.minimum(rng.geometric(4 / most, len(queries)), most)
    best = index.search(queries, most).positions
    return Excluded(offsets=np.concatenate([[0], np.cumsum(counts)]), positions=best[np.arange(most) < counts[:, None]])


def rate(queries: Floats, search: Callable[[], object]) -> float:
    """Return queries per second, the best of three runs."""
    runs = []
    for _ in range(3):
        start = time.perf_counter()
        search()
        runs.append(time.perf_counter() - start)
    return len(queries) / min(runs)


def report(name: str, index: Index, queries: Floats, k: int) -> None:
    bare = rate(queries, lambda: index.search(queries, k))
    excluded = seen(index, queries, most=200)
    whole = rate(queries, lambda: top_k(index, queries, k=k, excluded=excluded))
    none = rate(queries, lambda: top_k(index, queries, k=k, excluded=Excluded.empty(len(queries))))
    each = len(excluded.positions) / len(queries)
    print(
        f"{name}: search {bare:,.0f}/s, top_k {none:,.0f}/s, top_k less {each:.0f} seen each {whole:,.0f}/s", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--users", type=int, default=8_192)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--recall", type=float, default=0.95)
    args = parser.parse_args()
    vectors, queries = draw(args.videos, args.users, args.dimension)
    start = time.perf_counter()
    index = build_index(vectors, k=args.k, queries=queries, recall=args.recall, exact_below=0)
    print(f"ScaNN built and tuned in {time.perf_counter() - start:.1f} s: {index.info}", flush=True)
    report("ScaNN", index, queries, args.k)
    report("exact", ExactIndex(vectors=vectors), queries[: max(1, args.users // 8)], args.k)


if __name__ == "__main__":
    main()
