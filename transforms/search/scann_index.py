"""ScaNN: an index of many vectors, its training, and its tuning to a recall. No other module imports scann."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from transforms.core.tensorflow_import import import_without
from transforms.search.exact_search import (
    MASKED_SCORE,
    Candidates,
    Floats,
    Positions,
    pad_to_k,
    select_best,
    validate_queries,
)

TREE_FROM = 100_000  # vectors; with fewer, hashing and rescoring all of them is fast enough without a partition tree
POINTS_A_LEAF = 100  # training points per leaf centre; with half as many, a tree of a million points found 10 % less
HASHED_POINTS = 20_000  # training points of the 16 codes per two dimensions; five times as many did not find more
LEAVES = 0.7  # leaves of a tree / square root of its points
SPILLED = 2  # leaves that hold each point
_SOAR = 1.5  # weight of orthogonality: how much a point's second leaf must not repeat the error of its first
_RESCORE_COST = 40  # cost of an exact score in quantised scores (64 to 256 dimensions)


@dataclass(frozen=True, kw_only=True)
class ScannInfo:
    """The size of a ScaNN index, the parameters of its search, and the recall of a search for k with these."""

    kind: Literal["scann"] = "scann"
    rows: int
    dimension: int
    k: int
    queries: int  # in the sample that the recall is measured on
    recall_wanted: float
    leaves: int  # 0 without a tree
    leaves_to_search: int
    reorder: int  # points to rescore
    recall: float = 0.0  # measured by `tune_scann`


@dataclass(frozen=True, kw_only=True)
class ScannIndex:
    """A ScaNN index: a partition tree if there are many vectors, quantised scores, the best of them scored exactly.

    A search for more than the k it was tuned for rescores proportionally more points and searches more leaves, by the
    square root of the ratio; measurements show that this keeps or improves recall. Which of several equal scores end a
    list is undefined, and in a tree the last bit of a score may differ from search to search, because points arrive in
    any order and are scored three at a time.
    """

    searcher: Any
    vectors: Floats
    info: ScannInfo
    timings: dict[str, float] = field(default_factory=dict)

    def search_parameters(self, k: int) -> tuple[int, int]:
        """Return (points to rescore, leaves to search) for the k best. 0 leaves: there is no tree."""
        deeper = max(1.0, k / self.info.k)
        reorder = math.ceil(self.info.reorder * deeper)
        leaves = min(self.info.leaves, math.ceil(self.info.leaves_to_search * math.sqrt(deeper)))
        return min(len(self.vectors), reorder), leaves

    def cost(self, k: int) -> float:
        """Return the cost of a query for the k best, in quantised scores."""
        reorder, leaves = self.search_parameters(k)
        searched = SPILLED * leaves / self.info.leaves if leaves else 1.0
        return len(self.vectors) * searched + _RESCORE_COST * reorder

    def search(self, queries: Floats, k: int) -> Candidates:
        """Return about the k best positions of each of queries [b, d]."""
        queries = validate_queries(queries, self.vectors, k)
        if not len(queries):
            return select_best(np.zeros((0, len(self.vectors)), np.float32), k)
        reorder, leaves = self.search_parameters(k)
        found, scores = self.searcher.search_batched_parallel(
            queries,
            final_num_neighbors=min(k, len(self.vectors)),
            pre_reorder_num_neighbors=reorder,
            leaves_to_search=leaves or None,
            batch_size=64,  # queries per task of a thread
        )
        missing = np.isnan(scores)  # how ScaNN marks that the leaves hold fewer than k
        positions = np.where(missing, -1, found.astype(np.int32)).astype(np.int32)
        return pad_to_k(*_ties_by_position(positions, np.where(missing, MASKED_SCORE, scores)), k)


def load_scann(folder: Path, vectors: Floats, info: ScannInfo) -> ScannIndex:
    """Return the index whose searcher was serialized to a local folder."""
    return ScannIndex(searcher=_import_scann().load_searcher(str(folder)), vectors=vectors, info=info)


def _ties_by_position(positions: Positions, scores: Floats) -> tuple[Positions, Floats]:
    rows = np.flatnonzero((scores[:, 1:] == scores[:, :-1]).any(axis=1))
    order = np.lexsort((positions[rows], -scores[rows]), axis=1)
    positions[rows] = np.take_along_axis(positions[rows], order, axis=1)
    scores[rows] = np.take_along_axis(scores[rows], order, axis=1)
    return positions, scores


def _import_scann() -> Any:
    """Import ScaNN's NumPy interface without its TensorFlow ops and without TensorFlow.

    The ops do not load with current releases of TensorFlow and crash the import of the package; TensorFlow itself
    takes seconds to import and is needed only for them.
    """
    with import_without("tensorflow"):
        sys.modules.setdefault("scann.scann_ops.py.scann_ops", None)  # type: ignore[arg-type]
        from scann import scann_ops_pybind
    return scann_ops_pybind


def train_scann(vectors: Floats, *, k: int, queries: int, recall: float) -> ScannIndex:
    """Return an untuned index over vectors [n, d], which searches all leaves.

    k, recall: what it is to be tuned to, on a sample of so many queries.
    In a tree every point is in two leaves (SOAR: Sun et al., NeurIPS 2023), so that fewer need to be searched.
    """
    n, dimension = vectors.shape
    leaves = round(LEAVES * math.sqrt(n)) if n >= TREE_FROM else 0
    builder = _import_scann().builder(vectors, k, "dot_product")
    if leaves:
        # k-means++ has a fixed seed. With ScaNN's default, random centres, every build gives a different index.
        sample = {"training_sample_size": POINTS_A_LEAF * leaves, "random_init": False}
        builder = builder.tree(leaves, 1, **sample, soar_lambda=_SOAR, overretrieve_factor=float(SPILLED))
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2, training_sample_size=HASHED_POINTS)
    info = ScannInfo(
        rows=n,
        dimension=dimension,
        k=k,
        queries=queries,
        recall_wanted=recall,
        leaves=leaves,
        leaves_to_search=leaves,
        reorder=k,
    )
    return ScannIndex(searcher=builder.reorder(2 * k).build(), vectors=vectors, info=info)


def tune_scann(index: ScannIndex, sample: Floats, *, truth: Positions) -> ScannIndex:
    """Return the same searcher with the cheapest parameters that reach `recall_wanted`: leaves to search, and points
    to rescore.

    truth [q, k]: the positions of the k best for sample [q, d]. The recall counts as reached if it exceeds the target
    by one standard error of the sample. The cost is computed and not timed, so that the same night always gets the
    same index.
    """
    n, k, chosen = len(index.vectors), index.info.k, index
    reorder, cost = index.info.reorder, math.inf
    while _RESCORE_COST * reorder < cost and reorder < 1.5 * n:
        option, reached = _fewest_leaves(
            replace(index, info=replace(index.info, reorder=min(reorder, n))), sample, truth
        )
        if reached and option.cost(k) < cost:
            chosen, cost = option, option.cost(k)
        elif cost == math.inf:
            chosen = option  # in the end all leaves are searched and all points rescored, which is exact
        reorder = math.ceil(1.5 * reorder)
    return chosen


def _fewest_leaves(index: ScannIndex, sample: Floats, truth: Positions) -> tuple[ScannIndex, bool]:
    """Return the index that searches the fewest leaves (to within 20 %) that reach the target, and True; or the one
    that searches all leaves, and False."""
    options = sorted({math.ceil(index.info.leaves / 1.2**step) for step in range(30)})
    recalls: dict[int, float] = {}

    def reached(leaves: int) -> bool:
        found = _recalls(replace(index, info=replace(index.info, leaves_to_search=leaves)), sample, truth)
        recalls[leaves] = float(found.mean())
        return bool(found.mean() - found.std() / math.sqrt(len(found)) >= index.info.recall_wanted)

    first = bisect_left(options, True, key=reached)
    leaves = options[min(first, len(options) - 1)]  # bisection has tried it
    info = replace(index.info, leaves_to_search=leaves, recall=recalls[leaves])
    return replace(index, info=info), first < len(options)


def _recalls(index: ScannIndex, queries: Floats, truth: Positions) -> NDArray[np.float64]:
    """Return the share of each row of truth [q, k] that the index finds: [q]. The positions of a row are distinct."""
    row = np.arange(len(truth), dtype=np.int64)[:, None] * len(index.vectors)
    found = index.search(queries, truth.shape[1]).positions
    return np.asarray(np.isin(row + truth, (row + found)[found >= 0]).mean(axis=1))
