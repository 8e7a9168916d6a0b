"""The rows of Faiss in `benchmarks.peers.search`, in an environment of its own.

python -m benchmarks.peers.faiss_search OUT hnsw
"""

# /// script
# dependencies = ["faiss-cpu==1.13.0", "numpy==2.3.5", "polars==2.1.0"]
# [tool.peers]
# title = "Faiss"
# ///

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.protocol import Floats, Ints, peak_bytes

K, RECALL = 200, 0.95
BATCH = 4_096
EXACT_BATCH, EXACT_SHARE = 1_024, 16
RUNS = 2
CONNECTIONS = 32  # of HNSW; its effort of construction is the default
SUB_DIMENSION = 4  # dimensions of one code of a product quantiser
# Grids in the order of their cost: the first that reaches the recall is taken.
HNSW_DEPTHS = [200, 256, 320, 400, 512, 640, 800, 1024, 1280, 1600, 2048, 3072, 4096]  # efSearch
PROBES, REFINED = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512], [2, 4, 8]


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Vectors, users, the videos that each has watched, and true lists: what `search.prepare` wrote."""

    vectors: Floats
    users: Floats
    offsets: Ints  # of the watched videos of each user, and their end
    watched: Ints
    true: Ints  # of the last users, without watched videos
    tuning: Ints  # of the first users, with watched videos

    @classmethod
    def read(cls, out: Path) -> Searched:
        return cls(**{name: np.load(out / f"{name}.npy") for name in cls.__dataclass_fields__})

    @property
    def compared(self) -> slice:
        """The users that recall is measured on."""
        return slice(len(self.users) - len(self.true), len(self.users))

    def exclusions(self, rows: slice) -> tuple[Ints, Ints]:
        """Return offsets and positions of the watched videos of some users."""
        offsets = self.offsets[rows.start : rows.stop + 1]
        return offsets - offsets[0], self.watched[offsets[0] : offsets[-1]]


def recall_of(found: NDArray[Any], true: NDArray[Any]) -> float:
    return float(np.mean([np.isin(best, row).mean() for best, row in zip(true, found, strict=True)]))


def users_per_second(lists: Callable[[slice], Any], users: int) -> float:
    """Return the rate of the fastest of some runs over the first users, in one call of `lists` each."""
    rates = []
    for _ in range(RUNS):
        began = time.perf_counter()
        lists(slice(0, users))
        rates.append(users / (time.perf_counter() - began))
    return max(rates)


def record(out: Path, name: str, *, build: float, tuning: float, recall: float, rate: float, parameters: str) -> None:
    """Write the figures of a row, with the peak memory of this process."""
    row = {"name": name, "build_seconds": build, "tuning_seconds": tuning, "recall": recall, "users_per_second": rate}
    row |= {"peak_bytes": peak_bytes(), "parameters": parameters}
    print(json.dumps(row), flush=True)
    (out / "rows" / f"{name}.json").write_text(json.dumps(row, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("name", choices=KINDS)
    args = parser.parse_args()
    given = Searched.read(args.out)
    began = time.perf_counter()
    index, grid = KINDS[args.name](given.vectors)
    built = time.perf_counter() - began
    began = time.perf_counter()
    parameters = tuned(index, grid, given)
    seconds = time.perf_counter() - began
    batch, share = (EXACT_BATCH, EXACT_SHARE) if args.name == "flat" else (BATCH, 1)

    def lists(rows: slice) -> NDArray[Any]:
        return without_watched(index, parameters, given, rows, batch)

    rate = users_per_second(lists, len(given.users) // share)
    found = recall_of(lists(given.compared), given.true)
    record(args.out, args.name, build=built, tuning=seconds, recall=found, rate=rate, parameters=str(parameters))


Parameters = dict[str, int]


def hnsw(vectors: Floats) -> tuple[Any, list[Parameters]]:
    """A dimension more makes all vectors equally long, as Faiss' wiki describes: the nearest then have the largest
    products. A graph by inner products itself did not reach the recall."""
    import faiss

    squares = np.einsum("nd,nd->n", vectors, vectors)
    rest = np.sqrt(squares.max() - squares)[:, np.newaxis]
    index = faiss.IndexHNSWFlat(vectors.shape[1] + 1, CONNECTIONS, faiss.METRIC_L2)
    index.add(np.concatenate([vectors, rest], axis=1))
    return index, [{"ef": ef} for ef in HNSW_DEPTHS]


def ivf_pq(vectors: Floats, codes: str) -> tuple[Any, list[Parameters]]:
    """Lists: four times the square root of the number of vectors, as a power of two, as Faiss' wiki advises."""
    import faiss

    d = -(-vectors.shape[1] // SUB_DIMENSION) * SUB_DIMENSION  # with zeros at the end: must be a multiple
    lists = 2 ** round(np.log2(4 * np.sqrt(len(vectors))))
    index = faiss.index_factory(d, f"IVF{lists},PQ{d // SUB_DIMENSION}{codes},RFlat", faiss.METRIC_INNER_PRODUCT)
    wide = padded(vectors, d)
    index.train(wide[np.random.default_rng(0).permutation(len(wide))[: 64 * lists]])
    index.add(wide)
    grid = [{"nprobe": probes, "refined": refined} for probes in PROBES if probes <= lists for refined in REFINED]
    return index, sorted(grid, key=lambda point: point["nprobe"] * 2 + point["refined"] * 8)


def flat(vectors: Floats) -> tuple[Any, list[Parameters]]:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index, [{}]


KINDS: dict[str, Callable[[Floats], tuple[Any, list[Parameters]]]] = {
    "hnsw": hnsw,
    "ivf_pq_fast": lambda vectors: ivf_pq(vectors, "x4fs"),
    "ivf_pq": lambda vectors: ivf_pq(vectors, "x8"),
    "flat": flat,
}


def padded(vectors: Floats, d: int) -> Floats:
    return np.pad(vectors, ((0, 0), (0, d - vectors.shape[1])))


def tuned(index: Any, grid: list[Parameters], given: Searched) -> Parameters:
    """Return the first parameters that reach the recall; the last ones if none does."""
    queries = given.users[: len(given.tuning)]
    for parameters in grid:
        found = recall_of(search(index, parameters, queries, K), given.tuning)
        print(f"{parameters}: recall@{K} {found:.4f}", flush=True)
        if found >= RECALL:
            break
    return parameters


def search(index: Any, parameters: Parameters, queries: Floats, depth: int) -> NDArray[Any]:
    """Search so deep, with as much more effort as the depth is more than K."""
    import faiss

    if "ef" in parameters:
        index.hnsw.efSearch = max(depth, parameters["ef"] * depth // K)
    elif "nprobe" in parameters:
        faiss.extract_index_ivf(index).nprobe = parameters["nprobe"]
        faiss.downcast_index(index).k_factor = parameters["refined"]
    return np.asarray(index.search(padded(queries, index.d), depth)[1])


def without_watched(index: Any, parameters: Parameters, given: Searched, rows: slice, batch: int) -> NDArray[Any]:
    """Return lists of K without watched videos: Faiss is searched for K and as many as a user has watched."""
    offsets, watched = given.exclusions(rows)
    queries, counts = given.users[rows], np.diff(offsets)
    lists = np.full((len(queries), K), -1)
    for depth, some in _groups(counts, batch):
        found = search(index, parameters, queries[some], depth)
        n = len(given.vectors)
        own = np.concatenate([watched[offsets[row] : offsets[row + 1]] for row in some])
        keys = np.repeat(np.arange(len(some)), counts[some]) * n + own
        allowed = (found >= 0) & ~np.isin(np.arange(len(some))[:, np.newaxis] * n + found, keys)
        places = np.cumsum(allowed, axis=1) - 1
        row, column = np.nonzero(allowed & (places < K))
        lists[some[row], places[row, column]] = found[row, column]
    return lists


def _groups(counts: Ints, batch: int) -> Iterator[tuple[int, Ints]]:
    """Yield (depth, users), with depths rounded up to powers of the fourth root of two, as the product does."""
    depths = np.ceil(2 ** (np.ceil(4 * np.log2(K + counts)) / 4)).astype(np.int64)
    for depth in np.unique(depths).tolist():
        same = np.flatnonzero(depths == depth)
        yield from ((depth, same[start : start + batch]) for start in range(0, len(same), batch))


if __name__ == "__main__":
    main()
