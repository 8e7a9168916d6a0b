"""Search for the videos with the largest dot products, for many users at once: exact, or with ScaNN for many videos.

The rows of `vectors` are the videos ordered by id, so of two equal scores the lower position is the lower id. Vectors
[v; b] and queries [u; 1] include a bias in the score (paper, 3.1 and 3.5).

    index = build_index(vectors, k=200, queries=some_user_vectors)
    save_index(index, Path("index"))
    top = top_k(load_index(Path("index")), user_vectors, k=200, excluded=Excluded(offsets=offsets, positions=seen))

Exact and approximate search share one interface. Exact search is the oracle for the recall of approximate search, the
choice for small catalogues, and the fallback for users with so many exclusions that an approximate search would have to
score nearly all videos.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from transforms.search.exact_search import (
    BLOCK,
    MASKED_SCORE,
    Candidates,
    ExactIndex,
    ExactInfo,
    Floats,
    validate_queries,
)
from transforms.search.exclusions import ChannelCap, Excluded, QueryRules, build_query_rules, first_kept
from transforms.search.scann_index import ScannIndex, ScannInfo, load_scann, train_scann, tune_scann

EXACT_BELOW = 20_000  # vectors; ScaNN's documentation advises exact search below this
SAMPLED_QUERIES = 1_024  # queries that recall is measured on: a standard error of about .002 at .95
_EXACT_COST = 4  # cost of a score of exact search, which reads all vectors in order, in quantised scores
_DEEPENING = 4  # factor by which queries whose list is not full search deeper


IndexInfo = ExactInfo | ScannInfo
_INFO: TypeAdapter[IndexInfo] = TypeAdapter(IndexInfo)


class Index(Protocol):
    """Maximum inner product search over vectors [n, d]."""

    @property
    def vectors(self) -> Floats: ...

    @property
    def info(self) -> IndexInfo:
        """Its parameters and its recall."""

    @property
    def timings(self) -> dict[str, float]:
        """Seconds of building and tuning, and queries per second, if it was built in this process."""

    def search(self, queries: Floats, k: int) -> Candidates:
        """Return the k best positions of each of queries [b, d]."""


def build_index(
    vectors: Floats,
    *,
    k: int,
    queries: Floats | None = None,
    recall: float = 0.95,
    exact_below: int = EXACT_BELOW,
    seed: int = 0,
) -> Index:
    """Build an index over vectors [n, d]: exact for n < exact_below, else ScaNN, tuned to find `recall` of the k best.

    queries [q, d]: a sample of the queries to expect (user vectors). By default the vectors themselves are used, which
    are easier to find and so overstate the recall. Measurements are in `info` and `timings`. `seed` determines which
    queries are drawn; the same input gives the same index. Raises ValueError if there are no vectors, values are not
    finite, or `recall` is out of range.
    """
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise ValueError(f"vectors must be finite numbers [n, d], but are {vectors.shape}: was the model trained?")
    if not 0 < recall < 1:
        raise ValueError(f"recall must lie between 0 and 1, but is {recall}")
    vectors = np.ascontiguousarray(vectors, np.float32)
    exact = ExactIndex(vectors=vectors)
    queries = vectors if queries is None else queries
    sample, k = np.ascontiguousarray(queries[draw_sample(len(queries), seed)], np.float32), min(k, len(vectors))
    if len(vectors) < exact_below:
        return replace(exact, timings=_speed(exact, sample, k))
    began = time.perf_counter()
    trained, built = train_scann(vectors, k=k, queries=len(sample), recall=recall), time.perf_counter()
    index = tune_scann(trained, sample, truth=exact.search(sample, k).positions)
    seconds = {"build_seconds": built - began, "tuning_seconds": time.perf_counter() - built}
    return replace(index, timings=seconds | _speed(index, sample, k))


def _speed(index: Index, queries: Floats, k: int) -> dict[str, float]:
    began = time.perf_counter()
    index.search(queries, k)
    return {"queries_per_second": len(queries) / (time.perf_counter() - began)}


def save_index(index: Index, folder: Path) -> None:
    """Write the index to an existing local folder, which may be moved later: no absolute path is stored."""
    if isinstance(index, ScannIndex):
        index.searcher.serialize(str(folder), relative_path=True)
    else:
        np.save(folder / "dataset.npy", index.vectors)  # the name ScaNN uses for the same array
    (folder / "info.json").write_text(json.dumps(asdict(index.info), indent=1), encoding="utf-8")


def load_vectors(folder: Path) -> Floats:
    """Return the vectors of an index that `save_index` wrote, memory-mapped: read when needed, and shared between the
    processes of a machine."""
    return np.asanyarray(np.load(folder / "dataset.npy", mmap_mode="r"))


def load_index(folder: Path) -> Index:
    """Return the index that `save_index` wrote; its vectors are memory-mapped."""
    info, vectors = _INFO.validate_json((folder / "info.json").read_bytes()), load_vectors(folder)
    return load_scann(folder, vectors, info) if isinstance(info, ScannInfo) else ExactIndex(vectors=vectors)


def top_k(index: Index, queries: Floats, *, k: int, excluded: Excluded, cap: ChannelCap | None = None) -> Candidates:
    """Return the k best allowed positions of each of queries [b, d], at most cap.limit of them of one channel.

    Lists are min(k, allowed positions) long; with a cap they are filled greedily in the order of scores. An approximate
    index has no filter: it is searched for k results and as many more as the exclusions could remove, and again,
    deeper, for queries whose list is short. Queries are grouped by the depth they need, so that one user with thousands
    of exclusions does not slow down the others.
    Raises ValueError if the queries, the exclusions or the cap do not fit the index.
    """
    queries = validate_queries(queries, index.vectors, k)
    b, rules = len(queries), build_query_rules(excluded, cap, len(queries), len(index.vectors))
    positions, scores = np.full((b, k), -1, np.int32), np.full((b, k), MASKED_SCORE, np.float32)
    wanted = np.minimum(rules.max_lengths, k)
    depths = _first_depths(k, rules) if isinstance(index, ScannIndex) else np.full(b, k)
    pending = np.flatnonzero(wanted)
    while len(pending):
        short = []
        for depth, rows in _rows_by_depth(pending, depths[pending]):
            found, whole = _search_depth(index, queries[rows], depth, k, rules.select(rows))
            positions[rows], scores[rows] = found.positions, found.scores
            if not whole:
                short.append(rows[found.lengths < wanted[rows]])
        pending = np.concatenate(short) if short else pending[:0]
        depths[pending] *= _DEEPENING
    return Candidates(positions=positions, scores=scores)


def _search_depth(index: Index, queries: Floats, depth: int, k: int, rules: QueryRules) -> tuple[Candidates, bool]:
    """Return the k best allowed ones of the `depth` best, and whether a deeper search could not find more."""
    n = len(index.vectors)
    if isinstance(index, ScannIndex) and index.cost(depth) <= _EXACT_COST * n:
        return rules.first_allowed(index.search(queries, depth), k), False
    exact, deep = ExactIndex(vectors=index.vectors), n if rules.cap is None else min(depth, n)
    found = exact.search_masked(queries, min(k, deep) if rules.cap is None else deep, mask=rules.mask_scores)
    return first_kept(found, found.positions >= 0, k, rules.cap), deep == n


def _first_depths(k: int, rules: QueryRules) -> NDArray[np.int64]:
    """Return the depth to search each query to, so that about k are allowed even if all excluded pairs come first: [b].

    Depths are rounded up to powers of the fourth root of two, so that few searches serve all queries.
    """
    visible_share = np.maximum((rules.allowed_counts + rules.excluded_counts) / rules.n, 1 / rules.n)  # not hidden
    steps = np.ceil(4 * np.log2((k + rules.excluded_counts) / visible_share))
    return np.asarray(np.ceil(2 ** (steps / 4)), np.int64)


def _rows_by_depth(rows: NDArray[np.int64], depths: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield (depth, rows to search to that depth), in parts whose candidates fit a block."""
    for depth in np.unique(depths).tolist():
        same = rows[depths == depth]
        size = max(1, BLOCK // 4 // depth)
        yield from ((depth, same[start : start + size]) for start in range(0, len(same), size))


def draw_sample(rows: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the rows, ascending, of at most `SAMPLED_QUERIES` queries drawn to measure recall on."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:SAMPLED_QUERIES])
