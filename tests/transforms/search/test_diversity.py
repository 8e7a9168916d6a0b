"""Re-ranking by marginal relevance compared with the definition in plain Python, and its properties."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_index import write_made_index

from transforms.search import diversity as diversity_module
from transforms.search.diversity import ShardVectors, diversify
from transforms.search.exact_search import MASKED_SCORE, Candidates, ExactIndex, select_best

SHAPES = [(1, 1, 1, 1), (1, 1, -1, -1), (-1, 1, 1, -1), (2, 0, 0, 0), (0, 0, -4, 0), (0, 3, 0, 0), (0, 0, 0, 0)]
Row = list[tuple[int, float]]


def made_vectors(draw: np.random.Generator, n: int) -> np.ndarray:
    """Return [v; b] whose v have cosines that floats represent, so that many values tie exactly."""
    v = np.array(SHAPES)[draw.integers(len(SHAPES), size=n)]
    return np.concatenate([v, draw.integers(-9, 9, (n, 1))], axis=1).astype(np.float32)


def made_candidates(draw: np.random.Generator, b: int, n: int, m: int) -> Candidates:
    """Return m candidates of each row, with scores that tie, and padded rows of any length, also 0."""
    scores = draw.integers(0, 5, (b, n)).astype(np.float32)
    scores[draw.random((b, n)) < draw.random((b, 1))] = MASKED_SCORE
    return select_best(scores, m)


def rows_of(candidates: Candidates) -> list[Row]:
    return [
        [(p, s) for p, s in zip(positions, scores, strict=True) if p >= 0]
        for positions, scores in zip(candidates.positions.tolist(), candidates.scores.tolist(), strict=True)
    ]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / lengths if lengths else 0.0


def reranked(row: Row, vectors: np.ndarray, k: int, weight: float) -> Row:
    """Return the first k by marginal relevance, as the paper defines it."""
    left, chosen = list(row), list[tuple[int, float]]()
    lowest, highest = min((s for _, s in row), default=0.0), max((s for _, s in row), default=0.0)

    def value(candidate: tuple[int, float]) -> np.float32:
        position, score = candidate
        relevance = np.float32(score - lowest) / np.float32((highest - lowest) or 1)
        nearest = max((cosine(vectors[position, :-1], vectors[p, :-1]) for p, _ in chosen), default=0.0)
        return np.float32(1 - weight) * relevance - np.float32(weight * nearest)

    while left and len(chosen) < k:
        best = max(left, key=value)  # the first of equal values
        left.remove(best)
        chosen.append(best)
    return chosen


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.sampled_from([2**24, 700, 1]))
def test_lists_equal_the_definition(seed: int, weight: float, block: int) -> None:
    draw = np.random.default_rng(seed)
    b, n, m = int(draw.integers(0, 8)), int(draw.integers(1, 20)), int(draw.integers(1, 25))
    k = int(draw.integers(1, m + 1))
    vectors, candidates = made_vectors(draw, n), made_candidates(draw, b, n, m)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diversity_module, "BLOCK", block)
        found = diversify(candidates, vectors, k=k, diversity=weight)
    assert rows_of(found) == [reranked(row, vectors, k, weight) for row in rows_of(candidates)]
    assert found.positions.shape == found.scores.shape == (b, k)
    assert found.positions.dtype == np.int32 and found.scores.dtype == np.float32
    assert ((found.positions < 0) == (found.scores == MASKED_SCORE)).all()
    filled = found.positions >= 0
    assert (filled[:, :-1] >= filled[:, 1:]).all(), "padding is last"


def test_0_returns_the_first_candidates_bit_by_bit() -> None:
    draw = np.random.default_rng(1)
    vectors = draw.standard_normal((50, 9)).astype(np.float32)
    candidates = ExactIndex(vectors=vectors).search(vectors[:5], 20)
    found = diversify(candidates, vectors, k=10, diversity=0.0)
    assert found.positions.tobytes() == candidates.positions[:, :10].tobytes()
    assert found.scores.tobytes() == candidates.scores[:, :10].tobytes()


@given(st.integers(0, 2**32), st.floats(0.01, 0.99))
def test_as_many_places_as_candidates_keep_all_of_them(seed: int, weight: float) -> None:
    draw = np.random.default_rng(seed)
    vectors, candidates = draw.standard_normal((12, 4)).astype(np.float32), made_candidates(draw, 4, 12, 10)
    found = diversify(candidates, vectors, k=10, diversity=weight)
    assert [sorted(row) for row in rows_of(found)] == [sorted(row) for row in rows_of(candidates)]
    assert found.positions[:, 0].tolist() == candidates.positions[:, 0].tolist(), "the best stays first"


def test_the_scale_of_scores_and_vectors_and_the_bias_do_not_matter() -> None:
    draw = np.random.default_rng(2)
    vectors = draw.standard_normal((40, 8)).astype(np.float32)
    candidates = ExactIndex(vectors=vectors).search(draw.standard_normal((3, 8)).astype(np.float32), 20)
    lists = diversify(candidates, vectors, k=10, diversity=0.5).positions
    scaled = vectors * 4
    scaled[:, -1] = 77
    others = replace(candidates, scores=np.where(candidates.positions >= 0, candidates.scores * 8 - 16, MASKED_SCORE))
    assert (diversify(others, scaled, k=10, diversity=0.5).positions == lists).all()
    assert (lists != candidates.positions[:, :10]).any()


def similarity_within(positions: np.ndarray, vectors: np.ndarray) -> float:
    """Return the mean cosine between two videos of a list."""
    v = vectors[positions, :-1]
    v = v / np.linalg.norm(v, axis=1, keepdims=True)
    return float((v @ v.T)[np.triu_indices(len(v), 1)].mean())


def test_a_higher_setting_gives_lists_with_less_similar_videos() -> None:
    """Five topics, of which the user likes the first best: its videos fill the list of the highest scores."""
    draw, topics = np.random.default_rng(3), 5
    v = np.repeat(np.eye(topics, 16), 10, axis=0) + 0.02 * draw.standard_normal((topics * 10, 16))
    vectors = np.concatenate([v, np.zeros((len(v), 1))], axis=1).astype(np.float32)
    user = np.zeros((1, 17), np.float32)
    user[0, :topics] = 1 - 0.2 * np.arange(topics)
    candidates = ExactIndex(vectors=vectors).search(user, 50)
    settings = [0.0, 0.1, 0.2, 0.3, 0.5, 0.9]
    lists = [diversify(candidates, vectors, k=10, diversity=setting).positions[0] for setting in settings]
    similar = [similarity_within(positions, vectors) for positions in lists]
    assert all(one >= other - 1e-6 for one, other in pairwise(similar)), similar
    assert similar[0] > 0.9 and similar[-1] < 0.4, "each topic is in the list; then the best of them fills it up"
    assert set(lists[0] // 10) == {0} and set(lists[-1] // 10) == set(range(topics))


def test_vectors_of_shards_are_those_of_the_whole_index(tmp_path: Path) -> None:
    vectors = np.random.default_rng(4).standard_normal((20, 3)).astype(np.float32)
    folders, _ = write_made_index(tmp_path, vectors, [f"v{i:02d}" for i in range(20)], shards=3)
    of_shards = ShardVectors(tuple(map(Path, folders)))
    positions = np.array([19, 0, 7, 7, 3], np.int32)
    assert of_shards.shape == vectors.shape
    assert (of_shards[positions] == vectors[positions]).all()


@pytest.mark.parametrize(("k", "weight"), [(0, 0.5), (4, 0.5), (2, 1.0), (2, -0.1)])
def test_arguments_out_of_range_are_errors(k: int, weight: float) -> None:
    candidates = ExactIndex(vectors=np.eye(3, dtype=np.float32)).search(np.eye(3, dtype=np.float32), 3)
    with pytest.raises(ValueError, match=r"^(k|diversity) must"):
        diversify(candidates, np.eye(3, dtype=np.float32), k=k, diversity=weight)
