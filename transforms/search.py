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
import math
import sys
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from transforms.exact_search import BLOCK, NEVER, Candidates, ExactIndex, Floats, Positions, best, checked, padded
from transforms.excluded import Excluded, excluded_keys, keys_of, leave_out

__all__ = [
    "Candidates",
    "ExactIndex",
    "Excluded",
    "Index",
    "ScannIndex",
    "TopK",
    "build_index",
    "load_index",
    "save_index",
    "top_k",
]

EXACT_BELOW = 20_000  # ScaNN's own advice: nothing is gained by an index below
TREE_FROM = 100_000  # below, hashing and rescoring all points is fast enough without a partition tree
SAMPLED_QUERIES = 256  # on which recall is measured: a standard error of about .002 at .95
_RESCORING = 40  # an exact score costs as much as about 40 quantised ones (64 to 256 dimensions)
_EXACT = 4  # and one of exact search, which goes through all of them in order, as about 4


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

    def search(self, queries: Floats, k: int) -> Candidates:
        """The k best for each of queries [b, d]."""


@dataclass(frozen=True, kw_only=True)
class ScannIndex:
    """ScaNN: a partition tree where there are many vectors, quantised scores, the best of them scored exactly.

    A search for more than the k it was tuned for looks into more leaves and rescores more, by the root of the ratio,
    which measured keeps or improves recall. Which of several equal scores end a list is not defined.
    """

    searcher: Any
    vectors: Floats
    info: dict[str, Any]

    def effort(self, k: int) -> tuple[int, int]:
        """(points to rescore, leaves to search; 0 leaves: there is no tree) for the k best."""
        wider = math.sqrt(max(1.0, k / self.info["k"]))
        reorder = max(math.ceil(self.info["reorder"] * wider), 2 * k if k > self.info["k"] else k)
        leaves = min(self.info["leaves"], math.ceil(self.info["leaves_to_search"] * wider))
        return min(len(self.vectors), reorder), leaves

    def work(self, k: int) -> float:
        """What a query for the k best costs, in points whose quantised score is computed."""
        reorder, leaves = self.effort(k)
        searched = leaves / self.info["leaves"] if leaves else 1.0
        return len(self.vectors) * searched + _RESCORING * reorder

    def search(self, queries: Floats, k: int) -> Candidates:
        queries = checked(queries, self.vectors, k)
        if not len(queries):
            return best(np.zeros((0, len(self.vectors)), np.float32), k)
        reorder, leaves = self.effort(k)
        found, scores = self.searcher.search_batched_parallel(
            queries,
            final_num_neighbors=min(k, len(self.vectors)),
            pre_reorder_num_neighbors=reorder,
            leaves_to_search=leaves or None,
            batch_size=64,  # queries a thread takes at a time
        )
        missing = np.isnan(scores)  # ScaNN's sign for: the leaves held fewer
        positions = np.where(missing, -1, found.astype(np.int32)).astype(np.int32)
        return padded(*_ties_by_position(positions, np.where(missing, NEVER, scores)), k)


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
    easier and so overstates the recall. What was measured is in `info`. The seed draws the sample; the same input gives
    the same index. Raises ValueError for no vectors, values that are not finite, or settings out of range.
    """
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise ValueError(f"vectors must be finite numbers [n, d], but are {vectors.shape}: was the model trained?")
    if not 0 < recall < 1:
        raise ValueError(f"recall must lie between 0 and 1, but is {recall}")
    vectors = np.ascontiguousarray(vectors, np.float32)
    shape = {"rows": len(vectors), "dimension": vectors.shape[1]}
    exact = ExactIndex(vectors=vectors, info={"kind": "exact", **shape, "recall": 1.0})
    if len(vectors) < exact_below:
        return exact
    sample = _sample(vectors if queries is None else queries, seed)
    k = min(k, len(vectors))
    index = _train_scann(vectors, {"kind": "scann", **shape, "k": k, "queries": len(sample), "recall_wanted": recall})
    return _tuned(index, sample, truth=exact.search(sample, k).positions)


def save_index(index: Index, folder: Path) -> None:
    """Writes the index into an existing local folder, which may be moved afterwards: no absolute path is kept."""
    if isinstance(index, ScannIndex):
        index.searcher.serialize(str(folder), relative_path=True)
    else:
        np.save(folder / "dataset.npy", index.vectors)  # the name ScaNN uses for the same array
    (folder / "info.json").write_text(json.dumps(index.info, indent=1), encoding="utf-8")


def load_index(folder: Path) -> Index:
    """The index `save_index` wrote; vectors stay on disk until needed, shared by the processes of a machine."""
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    vectors = np.load(folder / "dataset.npy", mmap_mode="r")
    if info["kind"] == "exact":
        return ExactIndex(vectors=vectors, info=info)
    return ScannIndex(searcher=_scann().load_searcher(str(folder)), vectors=vectors, info=info)


def top_k(index: Index, queries: Floats, *, k: int, excluded: Excluded) -> TopK:
    """The k best for each of queries [b, d] that are not excluded for it.

    Lists are min(k, positions left) long, whatever was excluded. An approximate index has no filter: it is asked for
    k and as many more as could be left out, and again, deeper, for queries that fall short. Queries are grouped by the
    depth they need, so that one user who has seen thousands does not slow down the others.
    Raises ValueError for queries or exclusions that do not fit the index.
    """
    queries, n = checked(queries, index.vectors, k), len(index.vectors)
    keys, left = excluded_keys(excluded, len(queries), n)
    if isinstance(index, ScannIndex):
        return _search_deeper(index, queries, k, keys, left, excluded.unavailable)
    exact = ExactIndex(vectors=index.vectors)
    found = exact.search_without(queries, k, keys=keys, unavailable=excluded.unavailable)
    return TopK(positions=found.positions, scores=found.scores, lengths=np.minimum(left, k).astype(np.int32))


def _search_deeper(
    index: ScannIndex,
    queries: Floats,
    k: int,
    keys: NDArray[np.int64],
    left: NDArray[np.int64],
    unavailable: NDArray[np.bool_] | None,
) -> TopK:
    n, b = len(index.vectors), len(queries)
    positions, scores = np.full((b, k), -1, np.int32), np.full((b, k), NEVER, np.float32)
    lengths = np.minimum(left, k).astype(np.int32)
    depths = _first_depths(k, np.bincount(keys // n, minlength=b), n, unavailable)
    pending = np.flatnonzero(lengths)
    while len(pending):
        short = []
        for depth, rows in _groups(pending, depths[pending]):
            own = keys_of(keys, rows, b, n)
            if index.work(depth) > _EXACT * n:
                exact = ExactIndex(vectors=index.vectors)
                found = exact.search_without(queries[rows], k, keys=own, unavailable=unavailable)
            else:
                found = leave_out(index.search(queries[rows], depth), k, own, n, unavailable)
            positions[rows], scores[rows] = found.positions, found.scores
            short.append(rows[(found.positions >= 0).sum(axis=1) < lengths[rows]])
        pending = np.concatenate(short)
        depths[pending] *= 4
    return TopK(positions=positions, scores=scores, lengths=lengths)


def _first_depths(
    k: int, excluded: NDArray[np.int64], n: int, unavailable: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """How deep to search for each query, k left even if all that is excluded comes first.

    Rounded up to powers of the root of two, so that few searches serve all."""
    share = 1.0 if unavailable is None else max(1, n - int(unavailable.sum())) / n
    return np.asarray(np.ceil(2 ** (np.ceil(2 * np.log2((k + excluded) / share)) / 2)), np.int64)


def _groups(rows: NDArray[np.int64], depths: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(depth, rows of that depth), in parts whose candidates fit a block."""
    for depth in np.unique(depths).tolist():
        same = rows[depths == depth]
        size = max(1, BLOCK // 4 // depth)
        yield from ((depth, same[start : start + size]) for start in range(0, len(same), size))


def _ties_by_position(positions: Positions, scores: Floats) -> tuple[Positions, Floats]:
    rows = np.flatnonzero((scores[:, 1:] == scores[:, :-1]).any(axis=1))
    order = np.lexsort((positions[rows], -scores[rows]), axis=1)
    positions[rows] = np.take_along_axis(positions[rows], order, axis=1)
    scores[rows] = np.take_along_axis(scores[rows], order, axis=1)
    return positions, scores


def _sample(queries: Floats, seed: int) -> Floats:
    chosen = np.random.default_rng(seed).permutation(len(queries))[:SAMPLED_QUERIES]
    return np.ascontiguousarray(queries[np.sort(chosen)], np.float32)


def _scann() -> Any:
    """ScaNN's NumPy interface. Its TensorFlow ops do not load beside current releases and crash the import of the
    package, so they are hidden; and so is TensorFlow, which the package would otherwise import for them (seconds)."""
    sys.modules.setdefault("scann.scann_ops.py.scann_ops", None)  # type: ignore[arg-type]
    hide = "tensorflow" not in sys.modules
    if hide:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        from scann import scann_ops_pybind
    finally:
        if hide:
            del sys.modules["tensorflow"]
    return scann_ops_pybind


def _train_scann(vectors: Floats, info: dict[str, Any]) -> ScannIndex:
    n = len(vectors)
    leaves = round(math.sqrt(n)) if n >= TREE_FROM else 0
    builder = _scann().builder(vectors, info["k"], "dot_product")
    if leaves:
        # k-means++ with its fixed seed: with ScaNN's default, random centres, every build gives another index.
        sample = min(n, max(100_000, 100 * leaves))
        builder = builder.tree(leaves, 1, training_sample_size=sample, random_init=False)
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(2 * info["k"])
    tuning = {"leaves": leaves, "leaves_to_search": leaves, "reorder": min(n, 2 * info["k"])}
    return ScannIndex(searcher=builder.build(), vectors=vectors, info=info | tuning)


def _tuned(index: ScannIndex, sample: Floats, *, truth: Positions) -> ScannIndex:
    """The same searcher with the least work that reaches the recall wanted: how many leaves to search, how many of the
    points found there to rescore. Work is counted and not timed, so that the same night gives the same index.
    """
    n, k, wanted, chosen = len(index.vectors), index.info["k"], index.info["recall_wanted"], index
    reorder, work = index.info["reorder"], math.inf
    while _RESCORING * reorder < work:  # ends: all leaves and all rescored is exact
        option = _fewest_leaves(_with(index, reorder=min(reorder, n)), sample, truth)
        if option.info["recall"] >= wanted and option.work(k) < work:
            chosen, work = option, option.work(k)
        reorder *= 2
    return chosen


def _fewest_leaves(index: ScannIndex, sample: Floats, truth: Positions) -> ScannIndex:
    """Searches as few leaves as reach the recall wanted, within a fifth; all of them where none do."""
    every = index.info["leaves"]
    options = [_with(index, leaves_to_search=n) for n in sorted({math.ceil(every / 1.2**step) for step in range(30)})]
    at = bisect_left(options, index.info["recall_wanted"], key=lambda option: _recall(option, sample, truth))
    chosen = options[min(at, len(options) - 1)]
    return _with(chosen, recall=_recall(chosen, sample, truth))


def _with(index: ScannIndex, **info: float) -> ScannIndex:
    return ScannIndex(searcher=index.searcher, vectors=index.vectors, info=index.info | info)


def _recall(index: Index, queries: Floats, truth: Positions) -> float:
    """Share of truth [q, k] that the index finds. Rows hold distinct positions."""
    row = np.arange(len(truth), dtype=np.int64)[:, None] * len(index.vectors)
    found = index.search(queries, truth.shape[1]).positions
    return float(np.isin(row + truth, (row + found)[found >= 0]).mean())
