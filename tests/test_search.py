"""Search against a brute-force oracle: exactly where it is exact, within its recall where it is not."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import exact_search
from transforms.search import ExactIndex, Excluded, Index, ScannIndex, TopK, build_index, load_index, save_index, top_k


def oracle(vectors: np.ndarray, queries: np.ndarray, k: int, excluded: Excluded) -> list[list[int]]:
    """One query at a time: sort everything that is left by (score falling, position)."""
    gone = np.zeros(len(vectors), bool) if excluded.unavailable is None else excluded.unavailable
    lists = []
    for i, query in enumerate(queries):
        out = set(excluded.positions[excluded.offsets[i] : excluded.offsets[i + 1]].tolist())
        left = [(-float(vectors[p] @ query), p) for p in range(len(vectors)) if p not in out and not gone[p]]
        lists.append([p for _, p in sorted(left)[:k]])
    return lists


def excluding(lists: list[list[int]], unavailable: np.ndarray | None = None) -> Excluded:
    return Excluded(
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64),
        positions=np.array([p for row in lists for p in row], np.int32),
        unavailable=unavailable,
    )


def rows(top: TopK) -> list[list[int]]:
    """The lists of positions, checked to be filled up with -1 after their lengths and to fall in score."""
    for positions, scores, length in zip(top.positions, top.scores, top.lengths, strict=True):
        assert (positions[length:] == -1).all()
        assert (scores[length:] == -np.inf).all()
        assert (np.diff(scores[:length]) <= 0).all()
    return [row[:length].tolist() for row, length in zip(top.positions, top.lengths, strict=True)]


def clustered(n: int, d: int, users: int, *, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((60, d))
    vectors = centres[rng.integers(60, size=n)] + 0.6 * rng.standard_normal((n, d))
    queries = centres[rng.integers(60, size=users)] + 0.8 * rng.standard_normal((users, d))
    return vectors.astype(np.float32), queries.astype(np.float32)


@st.composite
def searches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, Excluded]:
    """Small integers, so that scores are exact and most of them tie."""
    n, b, k = draw(st.integers(1, 60)), draw(st.integers(0, 6)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    vectors = rng.integers(-2, 3, (n, 3)).astype(np.float32)
    queries = rng.integers(-2, 3, (b, 3)).astype(np.float32)
    lists = [rng.integers(0, n, rng.integers(0, 2 * n)).tolist() for _ in range(b)]
    unavailable = rng.random(n) < 0.3 if draw(st.booleans()) else None
    return vectors, queries, k, excluding(lists, unavailable)


@given(searches())
def test_exact_top_k_is_the_oracles(case: tuple[np.ndarray, np.ndarray, int, Excluded]) -> None:
    vectors, queries, k, excluded = case
    top = top_k(ExactIndex(vectors=vectors), queries, k=k, excluded=excluded)
    assert top.positions.shape == (len(queries), k)
    assert rows(top) == oracle(vectors, queries, k, excluded)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 20]))
def test_ties_across_the_kth_place_where_only_the_best_are_sorted(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)  # 1,000 > 8 k: the way of large catalogues
    vectors, queries = (rng.integers(-3, 4, (size, 2)).astype(np.float32) for size in (1_000, 5))
    queries[0] = 0  # every score ties
    excluded = excluding([rng.integers(0, 1_000, 300).tolist() for _ in queries])
    top = top_k(ExactIndex(vectors=vectors), queries, k=k, excluded=excluded)
    assert rows(top) == oracle(vectors, queries, k, excluded)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = (rng.integers(-9, 10, (size, 4)).astype(np.float32) for size in (500, 33))
    excluded = excluding([rng.integers(0, 500, size).tolist() for size in range(33)])
    whole = top_k(ExactIndex(vectors=vectors), queries, k=7, excluded=excluded)
    monkeypatch.setattr(exact_search, "BLOCK", 2_000)  # 4 queries at a time
    parts = top_k(ExactIndex(vectors=vectors), queries, k=7, excluded=excluded)
    np.testing.assert_array_equal(whole.positions, parts.positions)
    np.testing.assert_array_equal(whole.scores, parts.scores)


def test_search_pads_where_k_exceeds_the_catalogue() -> None:
    found = ExactIndex(vectors=np.ones((2, 3), np.float32)).search(np.ones((1, 3), np.float32), 4)
    assert found.positions.tolist() == [[0, 1, -1, -1]]
    assert found.scores.tolist() == [[3, 3, -np.inf, -np.inf]]


@pytest.mark.parametrize(("n", "kind"), [(1, "exact"), (99, "exact"), (100, "scann")])
def test_small_catalogues_are_searched_exactly(n: int, kind: str) -> None:
    vectors, _ = clustered(n, 8, 1)
    assert build_index(vectors, k=10, exact_below=100).info["kind"] == kind


@pytest.fixture(scope="module")
def large() -> tuple[np.ndarray, np.ndarray, Index]:
    vectors, queries = clustered(30_000, 32, 400)
    index = build_index(vectors, k=50, queries=queries[:200], recall=0.95)
    assert isinstance(index, ScannIndex)
    return vectors, queries, index


@pytest.fixture(scope="module")
def tree() -> tuple[np.ndarray, np.ndarray, Index]:
    """A partition tree on fewer points than it would be built for."""
    vectors, queries = clustered(30_000, 33, 400)  # odd, as with a bias
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transforms.search.TREE_FROM", 30_000)
        index = build_index(vectors, k=50, queries=queries[:200], recall=0.9)
    assert 0 < index.info["leaves_to_search"] < index.info["leaves"]
    return vectors, queries, index


@pytest.mark.parametrize("which", ["large", "tree"])
@pytest.mark.parametrize("unavailable_share", [0, 0.5])
def test_scann_finds_what_exact_search_finds(
    which: str, unavailable_share: float, request: pytest.FixtureRequest
) -> None:
    vectors, queries, index = request.getfixturevalue(which)
    rng = np.random.default_rng(1)
    best = ExactIndex(vectors=vectors).search(queries, 2_000).positions
    # What users have seen is what they like: the very top of their lists, with repeats, and for some thousands of it.
    seen = [best[i, : (0, 3, 40, 300, 2_000)[i % 5]].tolist() * (1 + i % 2) for i in range(len(queries))]
    excluded = excluding(seen, rng.random(len(vectors)) < unavailable_share if unavailable_share else None)
    top = top_k(index, queries, k=50, excluded=excluded)
    true = top_k(ExactIndex(vectors=vectors), queries, k=50, excluded=excluded)
    assert top.lengths.tolist() == [50] * len(queries)
    found = 0
    for i, row in enumerate(rows(top)):
        assert len(set(row)) == 50
        assert not set(row) & set(seen[i])
        assert excluded.unavailable is None or not excluded.unavailable[row].any()
        np.testing.assert_allclose(top.scores[i], vectors[row] @ queries[i], rtol=1e-4, atol=1e-4)
        found += len(set(row) & set(true.positions[i].tolist()))
    assert found / (50 * len(queries)) > index.info["recall_wanted"] - 0.02  # other queries than it was tuned on


def test_lists_are_full_even_where_nearly_all_is_excluded(large: tuple[np.ndarray, np.ndarray, Index]) -> None:
    _, queries, index = large
    all_but = [[p for p in range(30_000) if p % 1_000], list(range(29_990)), list(range(30_000)), []]
    top = top_k(index, queries[:4], k=50, excluded=excluding(all_but))
    assert top.lengths.tolist() == [30, 10, 0, 50]
    assert [len(row) for row in rows(top)] == [30, 10, 0, 50]
    assert sorted(rows(top)[1]) == list(range(29_990, 30_000))


def test_measured_recall_is_kept(large: tuple[np.ndarray, np.ndarray, Index]) -> None:
    vectors, queries, index = large
    true = ExactIndex(vectors=vectors).search(queries[:200], 50).positions
    found = index.search(queries[:200], 50).positions
    measured = np.mean([len(set(a) & set(b)) / 50 for a, b in zip(true.tolist(), found.tolist(), strict=True)])
    assert index.info["recall"] == pytest.approx(measured)
    assert 0.95 <= measured < 1  # 1 would not show that anything was left to tune


def test_scann_orders_ties_by_position() -> None:
    vectors, queries = clustered(2_000, 8, 20)
    index = build_index(np.repeat(vectors, 3, axis=0), k=30, queries=queries, exact_below=0)
    for row in rows(top_k(index, queries, k=30, excluded=Excluded.nothing(20))):
        same = [(a, b) for a, b in pairwise(row) if a // 3 == b // 3]
        assert same
        assert all(a < b for a, b in same)


@pytest.mark.parametrize("which", ["large", "tree"])
def test_saved_indices_search_alike_after_a_move(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    _, queries, index = request.getfixturevalue(which)
    (tmp_path / "written").mkdir()
    save_index(index, tmp_path / "written")
    (tmp_path / "written").rename(tmp_path / "moved")
    loaded = load_index(tmp_path / "moved")
    excluded = excluding([[i] for i in range(len(queries))])
    expected, found = (top_k(i, queries, k=20, excluded=excluded) for i in (index, loaded))
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert loaded.info == index.info


def test_saved_exact_index(tmp_path: Path) -> None:
    vectors, queries = clustered(50, 4, 3)
    save_index(build_index(vectors, k=5), tmp_path)
    found = load_index(tmp_path).search(queries, 5)
    np.testing.assert_array_equal(found.positions, ExactIndex(vectors=vectors).search(queries, 5).positions)


def test_the_same_input_gives_the_same_index(tree: tuple[np.ndarray, np.ndarray, Index]) -> None:
    vectors, queries, index = tree
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transforms.search.TREE_FROM", 30_000)
        again = build_index(vectors, k=50, queries=queries[:200], recall=0.9)
    assert again.info == index.info
    np.testing.assert_array_equal(again.search(queries, 50).positions, index.search(queries, 50).positions)


@pytest.mark.parametrize("which", ["exact", "large"])
def test_no_queries(which: str, request: pytest.FixtureRequest) -> None:
    index = ExactIndex(vectors=np.ones((5, 32), np.float32)) if which == "exact" else request.getfixturevalue(which)[2]
    top = top_k(index, np.zeros((0, 32), np.float32), k=3, excluded=Excluded.nothing(0))
    assert (top.positions.shape, top.lengths.shape) == ((0, 3), (0,))


def test_scann_is_imported_only_for_its_indices_and_never_tensorflow(tmp_path: Path) -> None:
    code = """
import sys, numpy as np, pathlib
from transforms.search import build_index, save_index
rng = np.random.default_rng(0)
build_index(rng.standard_normal((50, 4)), k=3)
assert "scann" not in sys.modules
build_index(rng.standard_normal((500, 4)), k=3, exact_below=0)
assert "scann" in sys.modules and "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_mistakes_are_named() -> None:
    index = ExactIndex(vectors=np.ones((5, 2), np.float32))
    one = np.ones((1, 2), np.float32)
    with pytest.raises(ValueError, match=r"vectors must be finite numbers \[n, d\], but are \(0, 2\)"):
        build_index(np.ones((0, 2), np.float32), k=1)
    with pytest.raises(ValueError, match="vectors must be finite"):
        build_index(np.full((3, 2), np.nan, np.float32), k=1)
    with pytest.raises(ValueError, match="recall must lie between 0 and 1, but is 1"):
        build_index(one, k=1, recall=1)
    with pytest.raises(ValueError, match="k must be positive, but is 0"):
        top_k(index, one, k=0, excluded=Excluded.nothing(1))
    with pytest.raises(ValueError, match=r"queries must be \[b, 2\] like the vectors, but are \(1, 3\)"):
        index.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(ValueError, match="queries must be finite"):
        index.search(one * np.nan, 1)
    with pytest.raises(ValueError, match="offsets must go from 0 to 0 in 1 steps"):
        top_k(index, one, k=1, excluded=Excluded.nothing(2))
    with pytest.raises(ValueError, match=r"positions must lie in \[0, 5\), but reach 5 to 5"):
        top_k(index, one, k=1, excluded=excluding([[5]]))
    with pytest.raises(ValueError, match=r"unavailable must be \[5\], but is \(4,\)"):
        top_k(index, one, k=1, excluded=excluding([[]], np.zeros(4, bool)))
