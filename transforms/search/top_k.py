"""The videos with the largest dot product, for many users at once: exactly, or with ScaNN where there are many videos.

The rows of `vectors` are the videos ordered by id, so the lower of two equal scores' positions is the lower id. A bias
is searched for too when the vectors are [v; b] and the queries [u; 1] (paper, 3.1 and 3.5).

    index = build_index(vectors, k=200, queries=some_user_vectors)
    save_index(index, Path("index"))
    top = top_k(load_index(Path("index")), user_vectors, k=200, excluded=Excluded(offsets=offsets, positions=seen))

Exact and approximate search share one interface. The exact one is the oracle of the other's recall, the choice for
small catalogues, and the way out for users who have seen so much that an approximate search would have to look at
everything.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from transforms.search.exact_search import BLOCK, MASKED_SCORE, Candidates, ExactIndex, Floats, checked
from transforms.search.exclusions import Cap, Excluded, QueryRules, query_rules
from transforms.search.scann_index import ScannIndex, load_scann, train_scann, tune_scann

__all__ = [
    "Candidates",
    "Cap",
    "ExactIndex",
    "Excluded",
    "Index",
    "ScannIndex",
    "TopK",
    "build_index",
    "drawn",
    "load_index",
    "load_vectors",
    "save_index",
    "top_k",
]

EXACT_BELOW = 20_000  # ScaNN's own advice: nothing is gained by an index below
SAMPLED_QUERIES = 1_024  # on which recall is measured: a standard error of about .002 at .95
_EXACT = 4  # a score of exact search, which goes through all of them in order, costs as much as about 4 quantised ones
_DEEPER = 4  # times as deep, for queries whose list is not full


@dataclass(frozen=True, kw_only=True)
class TopK(Candidates):
    """Candidates with the number of them a query: the first lengths[i] columns of row i count."""

    lengths: NDArray[np.int32]  # [b]


class Index(Protocol):
    """Maximum inner product search over vectors [n, d]."""

    @property
    def vectors(self) -> Floats: ...

    @property
    def info(self) -> dict[str, Any]:
        """How it was built and how well it searches, ready for JSON."""

    @property
    def timings(self) -> dict[str, float]:
        """How long building and tuning took, and queries a second, where it was built in this process."""

    def search(self, queries: Floats, k: int) -> Candidates:
        """The k best for each of queries [b, d]."""


def build_index(
    vectors: Floats,
    *,
    k: int,
    queries: Floats | None = None,
    recall: float = 0.95,
    exact_below: int = EXACT_BELOW,
    seed: int = 0,
) -> Index:
    """An index over vectors [n, d], exact for n < exact_below, else ScaNN tuned to find `recall` of the true k best.

    queries [q, d] are a sample of what will be asked for (user vectors); without them, vectors stand in, which is
    easier and so overstates the recall. What was measured is in `info` and `timings`. The seed draws the sample;
    the same input gives the same index. Raises ValueError for no vectors, values that are not finite, or settings out
    of range.
    """
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise ValueError(f"vectors must be finite numbers [n, d], but are {vectors.shape}: was the model trained?")
    if not 0 < recall < 1:
        raise ValueError(f"recall must lie between 0 and 1, but is {recall}")
    vectors = np.ascontiguousarray(vectors, np.float32)
    shape = {"rows": len(vectors), "dimension": vectors.shape[1]}
    exact = ExactIndex(vectors=vectors, info={"kind": "exact", **shape, "recall": 1.0})
    asked = vectors if queries is None else queries
    sample, k = np.ascontiguousarray(asked[drawn(len(asked), seed)], np.float32), min(k, len(vectors))
    if len(vectors) < exact_below:
        return replace(exact, timings=_speed(exact, sample, k))
    began = time.perf_counter()
    info = {"kind": "scann", **shape, "k": k, "queries": len(sample), "recall_wanted": recall}
    trained, built = train_scann(vectors, info), time.perf_counter()
    index = tune_scann(trained, sample, truth=exact.search(sample, k).positions)
    seconds = {"build_seconds": built - began, "tuning_seconds": time.perf_counter() - built}
    return replace(index, timings=seconds | _speed(index, sample, k))


def _speed(index: Index, queries: Floats, k: int) -> dict[str, float]:
    began = time.perf_counter()
    index.search(queries, k)
    return {"queries_per_second": len(queries) / (time.perf_counter() - began)}


def save_index(index: Index, folder: Path) -> None:
    """Writes the index into an existing local folder, which may be moved afterwards: no absolute path is kept."""
    if isinstance(index, ScannIndex):
        index.searcher.serialize(str(folder), relative_path=True)
    else:
        np.save(folder / "dataset.npy", index.vectors)  # the name ScaNN uses for the same array
    (folder / "info.json").write_text(json.dumps(index.info, indent=1), encoding="utf-8")


def load_vectors(folder: Path) -> Floats:
    """The vectors of the index `save_index` wrote; they stay on disk until needed, shared by the processes of a
    machine."""
    return np.asanyarray(np.load(folder / "dataset.npy", mmap_mode="r"))


def load_index(folder: Path) -> Index:
    """The index `save_index` wrote, its vectors as `load_vectors` gives them."""
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    vectors = load_vectors(folder)
    if info["kind"] == "exact":
        return ExactIndex(vectors=vectors, info=info)
    return load_scann(folder, vectors, info)


def top_k(index: Index, queries: Floats, *, k: int, excluded: Excluded, cap: Cap | None = None) -> TopK:
    """The k best for each of queries [b, d] that are not excluded for it, and at most cap.most of them of one channel.

    Lists are min(k, positions left) long, whatever was excluded; with a cap they are filled in the order of scores with
    all that it lets in. An approximate index has no filter: it is asked for k and as many more as could be left out,
    and again, deeper, for queries that fall short. Queries are grouped by the depth they need, so that one user who has
    seen thousands does not slow down the others.
    Raises ValueError for queries, exclusions or a cap that do not fit the index.
    """
    queries = checked(queries, index.vectors, k)
    b, rules = len(queries), query_rules(excluded, cap, len(queries), len(index.vectors))
    positions, scores = np.full((b, k), -1, np.int32), np.full((b, k), MASKED_SCORE, np.float32)
    wanted = np.minimum(rules.most, k)
    depths = _first_depths(k, rules) if isinstance(index, ScannIndex) else np.full(b, k)
    pending = np.flatnonzero(wanted)
    while len(pending):
        short = []
        for depth, rows in _groups(pending, depths[pending]):
            found, whole = _search_to(index, queries[rows], depth, k, rules.of(rows))
            positions[rows], scores[rows] = found.positions, found.scores
            if not whole:
                short.append(rows[(found.positions >= 0).sum(axis=1) < wanted[rows]])
        pending = np.concatenate(short) if short else pending[:0]
        depths[pending] *= _DEEPER
    return TopK(positions=positions, scores=scores, lengths=(positions >= 0).sum(axis=1).astype(np.int32))


def _search_to(index: Index, queries: Floats, depth: int, k: int, rules: QueryRules) -> tuple[Candidates, bool]:
    """The k best that the rules leave of the `depth` best, and whether there is nothing deeper to look at."""
    n = len(index.vectors)
    if isinstance(index, ScannIndex) and index.work(depth) <= _EXACT * n:
        return rules.best(index.search(queries, depth), k), False
    exact, deep = ExactIndex(vectors=index.vectors), n if rules.cap is None else min(depth, n)
    found = exact.search_without(queries, min(k, deep) if rules.cap is None else deep, hide=rules.hide)
    return rules.capped(found, k), deep == n


def _first_depths(k: int, rules: QueryRules) -> NDArray[np.int64]:
    """How deep to search for each query, k left even if all that is excluded comes first.

    Rounded up to powers of the fourth root of two, so that few searches serve all."""
    shown = np.maximum((rules.left + rules.excluded) / rules.n, 1 / rules.n)  # not hidden
    steps = np.ceil(4 * np.log2((k + rules.excluded) / shown))
    return np.asarray(np.ceil(2 ** (steps / 4)), np.int64)


def _groups(rows: NDArray[np.int64], depths: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(depth, rows of that depth), in parts whose candidates fit a block."""
    for depth in np.unique(depths).tolist():
        same = rows[depths == depth]
        size = max(1, BLOCK // 4 // depth)
        yield from ((depth, same[start : start + size]) for start in range(0, len(same), size))


def drawn(rows: int, seed: int = 0) -> NDArray[np.int64]:
    """Which of so many queries measure the recall, rising."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:SAMPLED_QUERIES])
