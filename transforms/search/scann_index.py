"""ScaNN: an index of many vectors, its training, and its tuning to a recall. The only module that imports scann."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transforms.core.tensorflow_import import import_without
from transforms.search.exact_search import MASKED_SCORE, Candidates, Floats, Positions, best, checked, padded

TREE_FROM = 100_000  # below, hashing and rescoring all points is fast enough without a partition tree
POINTS_A_LEAF = 100  # that centres are learned from; with half of them, a tree of a million found a tenth less
HASHED_POINTS = 20_000  # that 16 codes for every two dimensions are learned from; five times as many find no more
LEAVES = 0.7  # of a tree, times the root of the points
SPILLED = 2  # leaves that a point is in
_SOAR = 1.5  # how much a point's second leaf is to lie elsewhere, seen from it, than the first one's error
_RESCORING = 40  # an exact score costs as much as about 40 quantised ones (64 to 256 dimensions)


@dataclass(frozen=True, kw_only=True)
class ScannIndex:
    """ScaNN: a partition tree where there are many vectors, quantised scores, the best of them scored exactly.

    A search for more than the k it was tuned for rescores more by the ratio, and looks into more leaves by its root,
    which measured keeps or improves recall. Which of several equal scores end a list is not defined, and in a tree the
    last bit of a score may differ from search to search: points come in any order, and are scored three at a time.
    """

    searcher: Any
    vectors: Floats
    info: dict[str, Any]
    timings: dict[str, float] = field(default_factory=dict)

    def effort(self, k: int) -> tuple[int, int]:
        """(points to rescore, leaves to search; 0 leaves: there is no tree) for the k best."""
        deeper = max(1.0, k / self.info["k"])
        reorder = math.ceil(self.info["reorder"] * deeper)
        leaves = min(self.info["leaves"], math.ceil(self.info["leaves_to_search"] * math.sqrt(deeper)))
        return min(len(self.vectors), reorder), leaves

    def work(self, k: int) -> float:
        """What a query for the k best costs, in points whose quantised score is computed."""
        reorder, leaves = self.effort(k)
        searched = SPILLED * leaves / self.info["leaves"] if leaves else 1.0
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
        return padded(*_ties_by_position(positions, np.where(missing, MASKED_SCORE, scores)), k)


def load_scann(folder: Path, vectors: Floats, info: dict[str, Any]) -> ScannIndex:
    """The index whose searcher was serialized into a local folder."""
    return ScannIndex(searcher=_scann().load_searcher(str(folder)), vectors=vectors, info=info)


def _ties_by_position(positions: Positions, scores: Floats) -> tuple[Positions, Floats]:
    rows = np.flatnonzero((scores[:, 1:] == scores[:, :-1]).any(axis=1))
    order = np.lexsort((positions[rows], -scores[rows]), axis=1)
    positions[rows] = np.take_along_axis(positions[rows], order, axis=1)
    scores[rows] = np.take_along_axis(scores[rows], order, axis=1)
    return positions, scores


def _scann() -> Any:
    """ScaNN's NumPy interface. Its TensorFlow ops do not load beside current releases and crash the import of the
    package, so they are hidden; and so is TensorFlow, which the package would otherwise import for them (seconds)."""
    with import_without("tensorflow"):
        sys.modules.setdefault("scann.scann_ops.py.scann_ops", None)  # type: ignore[arg-type]
        from scann import scann_ops_pybind
    return scann_ops_pybind


def train_scann(vectors: Floats, info: dict[str, Any]) -> ScannIndex:
    """ScaNN over vectors [n, d], not tuned yet: it searches all leaves. info: k, and what is to be known of it.

    In a tree every point is in two leaves (SOAR: Sun et al., NeurIPS 2023), so that few have to be searched.
    """
    n = len(vectors)
    leaves = round(LEAVES * math.sqrt(n)) if n >= TREE_FROM else 0
    builder = _scann().builder(vectors, info["k"], "dot_product")
    if leaves:
        # k-means++ with its fixed seed: with ScaNN's default, random centres, every build gives another index.
        sample = {"training_sample_size": POINTS_A_LEAF * leaves, "random_init": False}
        builder = builder.tree(leaves, 1, **sample, soar_lambda=_SOAR, overretrieve_factor=float(SPILLED))
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2, training_sample_size=HASHED_POINTS)
    tuning = {"leaves": leaves, "leaves_to_search": leaves, "reorder": info["k"]}
    return ScannIndex(searcher=builder.reorder(2 * info["k"]).build(), vectors=vectors, info=info | tuning)


def tune_scann(index: ScannIndex, sample: Floats, *, truth: Positions) -> ScannIndex:
    """The same searcher with the least work that reaches the recall wanted: how many leaves to search, how many of the
    points found there to rescore.

    truth [q, k]: the positions of the k best of sample [q, d]. The recall counts as reached where it is by a standard
    error of the sample more. Work is counted and not timed, so that the same night gives the same index.
    """
    n, k, chosen = len(index.vectors), index.info["k"], index
    reorder, work = index.info["reorder"], math.inf
    while _RESCORING * reorder < work and reorder < 1.5 * n:
        option, reached = _fewest_leaves(_with(index, reorder=min(reorder, n)), sample, truth)
        if reached and option.work(k) < work:
            chosen, work = option, option.work(k)
        elif work == math.inf:
            chosen = option  # in the end all leaves and all rescored: as good as exact
        reorder = math.ceil(1.5 * reorder)
    return chosen


def _fewest_leaves(index: ScannIndex, sample: Floats, truth: Positions) -> tuple[ScannIndex, bool]:
    """Searches as few leaves as reach the recall wanted, within a fifth, and True; all of them where none do."""
    every = index.info["leaves"]
    options = sorted({math.ceil(every / 1.2**step) for step in range(30)})
    recalls: dict[int, float] = {}

    def reached(leaves: int) -> bool:
        found = _recalls(_with(index, leaves_to_search=leaves), sample, truth)
        recalls[leaves] = float(found.mean())
        return bool(found.mean() - found.std() / math.sqrt(len(found)) >= index.info["recall_wanted"])

    at = bisect_left(options, True, key=reached)
    leaves = options[min(at, len(options) - 1)]  # bisection has tried it
    return _with(index, leaves_to_search=leaves, recall=recalls[leaves]), at < len(options)


def _with(index: ScannIndex, **info: float) -> ScannIndex:
    return ScannIndex(searcher=index.searcher, vectors=index.vectors, info=index.info | info)


def _recalls(index: ScannIndex, queries: Floats, truth: Positions) -> NDArray[np.float64]:
    """Share of each row of truth [q, k] that the index finds: [q]. Rows hold distinct positions."""
    row = np.arange(len(truth), dtype=np.int64)[:, None] * len(index.vectors)
    found = index.search(queries, truth.shape[1]).positions
    return np.asarray(np.isin(row + truth, (row + found)[found >= 0]).mean(axis=1))
