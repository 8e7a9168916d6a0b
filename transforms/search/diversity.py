"""Greedy re-ranking of lists by maximal marginal relevance (Carbonell, Goldstein 1998).

    top = diversify(candidates, index.vectors, k=200, diversity=0.3)  # candidates: the 400 best of each user

A list starts with the video of the highest score. Each further place goes to the candidate c that maximises

    (1 - diversity) * relevance(c) - diversity * max over the chosen videos j of cosine(v_c, v_j)

Scores are dot products of any scale, so relevance(c) = (s_c - s_min) / (s_max - s_min), with the lowest and the highest
score of the user's candidates: it lies in [0, 1], which is comparable with a cosine. It is 0 if all scores are equal.
The cosine is that of the videos' v, without the bias; that of a zero vector is 0. Of equal values the candidate with
the higher score is taken, then the lower position.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transforms.search.exact_search import BLOCK, MASKED_SCORE, Candidates, Floats, Positions
from transforms.search.index_files import POSITIONS, directions
from transforms.search.top_k import load_vectors

CANDIDATES_PER_PLACE = 2  # candidates of a list, as a multiple of its length


class VideoVectors(Protocol):
    """Vectors [v; b] by position: an array [n, d + 1], or `ShardVectors`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, positions: NDArray[np.int32], /) -> Floats: ...


@dataclass(frozen=True)
class ShardVectors:
    """The vectors of an index of several shards, by position in the whole index.

    They are memory-mapped: only the pages with the vectors of candidates are read.
    """

    folders: tuple[Path, ...]  # of the shards, local

    @cached_property
    def _vectors(self) -> list[Floats]:
        return [load_vectors(folder) for folder in self.folders]

    @cached_property
    def _places(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The shard of each position, and its row there: [n], [n]."""
        positions = [np.load(folder / POSITIONS) for folder in self.folders]
        shards, rows = np.empty((2, sum(map(len, positions))), np.int32)
        for shard, in_shard in enumerate(positions):
            shards[in_shard], rows[in_shard] = shard, np.arange(len(in_shard))
        return shards, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns of the whole index: (n, d + 1)."""
        return sum(map(len, self._vectors)), self._vectors[0].shape[1]

    def __getitem__(self, positions: NDArray[np.int32]) -> Floats:
        """Return the vectors of positions [m]: [m, d + 1]."""
        found = np.empty((len(positions), self.shape[1]), np.float32)
        shards, row_of = (places[positions] for places in self._places)
        for shard, vectors in enumerate(self._vectors):
            rows = np.flatnonzero(shards == shard)
            found[rows] = vectors[row_of[rows]]
        return found


def first(candidates: Candidates, k: int) -> Candidates:
    """Return the first k of each row of candidates [b, at least k]."""
    return Candidates(positions=candidates.positions[:, :k], scores=candidates.scores[:, :k])


def diversify(
    candidates: Candidates, vectors: VideoVectors, *, k: int, diversity: float, trends: int = 0
) -> Candidates:
    """Return min(k, candidates) of each row's candidates in the order of marginal relevance: [b, k].

    candidates: [b, m] with m >= k, as a search returns them. vectors: [v; b] by position; the last
    `trends` components of v do not count. diversity: in [0, 1), the weight of the similarity to the videos before; 0
    returns the first k candidates. Each video keeps its score, so the
    scores of a row need not fall. Under a channel cap the candidates may hold at most its limit of a channel, and so
    does the result.

    A row takes m^2 (d + 1) multiplications for the cosines, O(k m) for the choice, and 4 m^2 bytes; memory is bounded
    by blocks of rows.
    Raises ValueError if `diversity` or k is out of range.
    """
    if not 0 <= diversity < 1:
        raise ValueError(f"diversity must be at least 0 and below 1, but is {diversity}")
    if not 1 <= k <= candidates.positions.shape[1]:
        raise ValueError(f"k must lie between 1 and the {candidates.positions.shape[1]} candidates, but is {k}")
    if not diversity:
        return first(candidates, k)
    lengths = candidates.lengths
    chosen = np.zeros((len(lengths), k), np.intp)
    m = max(1, int(lengths.max(initial=0)))  # columns after that are padding
    rows = max(1, BLOCK // (m * max(m, vectors.shape[1])))
    for start in range(0, len(lengths), rows):
        block = slice(start, start + rows)
        cosines = _cosines(candidates.positions[block, :m], vectors, trends)
        cosines *= np.float32(diversity)
        relevance = np.float32(1 - diversity) * _relevance(candidates.scores[block, :m], lengths[block])
        chosen[block, : min(k, m)] = _choose(relevance, cosines, min(k, m))
    filled = np.arange(k) < lengths[:, None]
    return Candidates(
        positions=np.where(filled, np.take_along_axis(candidates.positions, chosen, axis=1), np.int32(-1)),
        scores=np.where(filled, np.take_along_axis(candidates.scores, chosen, axis=1), MASKED_SCORE),
    )


def _relevance(scores: Floats, lengths: NDArray[np.intp]) -> Floats:
    """Return falling scores [b, m] scaled to [0, 1] in each row, and -inf for padding."""
    filled = np.arange(scores.shape[1]) < lengths[:, None]
    lowest = np.take_along_axis(scores, np.maximum(lengths - 1, 0)[:, None], axis=1)
    above = np.subtract(scores, lowest, where=filled, out=np.zeros_like(scores))
    highest = above[:, :1]
    return np.where(filled, above / np.where(highest > 0, highest, np.float32(1)), MASKED_SCORE)


def _cosines(positions: Positions, vectors: VideoVectors, trends: int) -> Floats:
    """Return the cosines between the candidates of each row of positions [b, m]: [b, m, m]. Padding has any value."""
    b, m = positions.shape
    found = np.asarray(vectors[np.maximum(positions, 0).reshape(-1)], np.float32)
    found = np.ascontiguousarray(directions(found, trends=trends))
    lengths = np.sqrt(np.einsum("ij,ij->i", found, found))
    found /= np.where(lengths > 0, lengths, np.float32(1))[:, None]
    units = found.reshape(b, m, -1)
    return np.matmul(units, units.transpose(0, 2, 1))


def _choose(relevance: Floats, similarity: Floats, k: int) -> NDArray[np.intp]:
    """Return the columns in greedy order: [b, k].

    relevance [b, m], -inf for padding, which comes last; similarity [b, m, m]; both are weighted. Changes relevance.
    """
    row = np.arange(len(relevance))
    chosen = np.zeros((len(relevance), k), np.intp)  # the first column has the highest score
    nearest = similarity[:, 0, :].copy()  # similarity to the most similar chosen video
    value = np.empty_like(relevance)
    relevance[:, 0] = MASKED_SCORE
    for place in range(1, k):
        np.subtract(relevance, nearest, out=value)
        best = value.argmax(axis=1)  # the first of equal values
        chosen[:, place] = best
        relevance[row, best] = MASKED_SCORE
        np.maximum(nearest, similarity[row, best], out=nearest)
    return chosen
