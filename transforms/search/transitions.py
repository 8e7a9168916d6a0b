"""Add transitions to the candidates of users: the videos that others completed soon after the user's last watches.

    source = TransitionSource(path="model/transitions.parquet", videos="index/videos.parquet", share=0.3)
    found = add_transitions(candidates, users, read_transitions(source), vectors, excluded=excluded, cap=cap)

The probability that video b is next is a mixture of the model's and of the Markov chain's (`contracts.transitions`),

    (1 - share * sum of chain) * model(b) + share * chain(b),    model(b) = exp(SHARPNESS * score(b)) / Z

with Z summed over the user's candidates, the best by the model. Followers that are no candidates become candidates if
their probability is high enough, under all rules of the lists. The new score of b is the logarithm of the mixture,
scaled back to the model's scores: it is the score by the model for a user without a known last watch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.contracts.transitions import lag_weights
from transforms.core import files
from transforms.core.process_cache import process_cache
from transforms.core.runs import run_indices, sum_by_key
from transforms.search.diversity import VideoVectors
from transforms.search.exact_search import MASKED_SCORE, Candidates, Floats
from transforms.search.exclusions import ChannelCap, Excluded, build_query_rules
from transforms.search.index_files import read_videos
from transforms.search.tower import UserBatch

LEAST_CANDIDATES = 200  # over which Z is summed: with fewer, the model's probabilities are too large
SHARPNESS = 0.7  # exponent of the model's probabilities, which are too concentrated, compared with those of the chain
_ROWS_AT_ONCE = 1 << 16  # vectors gathered at once

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TransitionSource:
    """The transitions of a night, and their share of a user's next watches."""

    path: str
    videos: str  # path of `index_files.VIDEOS`
    share: float


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """Followers of each video by position in the index: those of id i are in offsets[i] : offsets[i + 1]."""

    offsets: Ints  # [ids + 2]; id 0 has no followers
    positions: NDArray[np.int32]
    shares: Floats
    share: float  # of `TransitionSource`


@process_cache
def read_transitions(source: TransitionSource) -> Transitions:
    """Return the transitions to videos of the index, read once per process."""
    rows, videos = files.read_parquet(source.path), read_videos(source.videos)
    position_of = np.full(rows.height + 1, -1, np.int32)
    position_of[videos["id"].to_numpy()] = videos["position"].to_numpy()
    followers, shares = (rows[name].explode(empty_as_null=False).to_numpy() for name in ("followers", "shares"))
    ids = np.repeat(rows["id"].to_numpy(), rows["followers"].list.len().to_numpy())
    positions = position_of[followers]
    kept = positions >= 0
    counts = np.bincount(ids[kept], minlength=rows.height + 1)
    return Transitions(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        positions=positions[kept],
        shares=shares[kept].astype(np.float32),
        share=source.share,
    )


def add_transitions(
    candidates: Candidates,
    users: UserBatch,
    transitions: Transitions,
    vectors: VideoVectors,
    *,
    excluded: Excluded,
    cap: ChannelCap | None,
) -> Candidates:
    """Return the best videos by the mixture of model and chain: [b, m], as many as `candidates` has columns.

    candidates: [b, m], the best of the index by the model's scores. vectors: [v; b] by position. excluded, cap: the
    rules that the candidates were searched under.
    """
    n, (b, m) = vectors.shape[0], candidates.positions.shape
    chain = _chain(users.recent, transitions, n)
    if not len(chain.keys):
        return candidates
    listed, chances = _chances_of(candidates, chain, n)
    others = chain.select(~listed)
    row, position = np.divmod(others.keys, n)
    scores = _scores(users.vectors, vectors, row, position)
    slot = np.arange(len(row)) - np.searchsorted(row, row)
    width = int(slot.max(initial=-1)) + 1
    more = Candidates(positions=np.full((b, width), -1, np.int32), scores=np.full((b, width), MASKED_SCORE, np.float32))
    more_chances = np.zeros((b, width))
    more.positions[row, slot], more.scores[row, slot], more_chances[row, slot] = position, scores, others.chances
    positions = np.concatenate([candidates.positions, more.positions], axis=1)
    mixed = _mix(
        np.concatenate([candidates.scores, more.scores], axis=1),
        np.concatenate([chances, more_chances], axis=1),
        transitions.share,
        columns=m,
    )
    order = np.lexsort((positions, -mixed), axis=1)
    found = Candidates(
        positions=np.take_along_axis(positions, order, axis=1), scores=np.take_along_axis(mixed, order, axis=1)
    )
    return build_query_rules(excluded, cap, b, n).first_allowed(found, m)


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """The chain's probabilities above 0, by key: user * n + position, sorted."""

    keys: Ints
    chances: NDArray[np.float64]

    def select(self, rows: NDArray[np.bool_]) -> _Chain:
        return _Chain(keys=self.keys[rows], chances=self.chances[rows])


def _chain(recent: NDArray[np.int32], transitions: Transitions, n: int) -> _Chain:
    """Return the chain's probabilities of users by their last watches, ids [b, LAGS], the most recent last."""
    ids = np.where(recent < len(transitions.offsets) - 1, recent, 0)
    weights = lag_weights() * (ids > 0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    starts = transitions.offsets[ids].ravel()
    counts = transitions.offsets[ids + 1].ravel() - starts
    index = run_indices(starts, counts)
    user = np.repeat(np.repeat(np.arange(len(recent)), recent.shape[1]), counts)
    chances = np.repeat(weights.ravel(), counts) * transitions.shares[index]
    keys, sums = sum_by_key(user * n + transitions.positions[index], chances.astype(np.float64))
    return _Chain(keys=keys, chances=sums)


def _chances_of(candidates: Candidates, chain: _Chain, n: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which keys of the chain are candidates, [keys], and the chain's probability of each candidate, [b, m]."""
    rows = np.arange(len(candidates.positions), dtype=np.int64)[:, None]
    wanted = np.where(candidates.positions >= 0, rows * n + candidates.positions, -1)
    nearest = np.minimum(np.searchsorted(chain.keys, wanted), len(chain.keys) - 1)
    found = chain.keys[nearest] == wanted
    listed = np.zeros(len(chain.keys), np.bool_)
    listed[nearest[found]] = True
    return listed, np.where(found, chain.chances[nearest], 0)


def _scores(queries: Floats, vectors: VideoVectors, row: Ints, position: Ints) -> Floats:
    """Return the model's score of each pair of a query and a position, [pairs]."""
    found = np.empty(len(row), np.float32)
    for start in range(0, len(row), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        found[part] = np.einsum("nd,nd->n", queries[row[part]], vectors[position[part].astype(np.int32)])
    return found


def _mix(scores: Floats, chances: NDArray[np.float64], share: float, *, columns: int) -> Floats:
    """Return the scores by the mixture of model and chain, [b, m], for scores and the chain's probabilities [b, m].

    The model's probabilities sum to 1 over the first `columns`.
    """
    highest = scores.max(axis=1, initial=np.finfo(np.float32).min, keepdims=True)
    odds = np.exp(SHARPNESS * (scores.astype(np.float64) - highest))
    total = odds[:, :columns].sum(axis=1, keepdims=True)
    model = (1 - share * chances.sum(axis=1, keepdims=True)) * odds
    with np.errstate(divide="ignore"):
        return (highest + np.log(model + share * chances * total) / SHARPNESS).astype(np.float32)
