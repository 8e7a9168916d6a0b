from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.tree import HuffmanTree, TreePaths, huffman_tree
from transforms.core.tensorflow_import import tf

COUNTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=60).map(np.array)


def cost_by_heap(weights: list[int]) -> int:
    """Return the smallest sum of weight x path length, by the textbook algorithm."""
    heap, paid = sorted(weights), 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        paid += merged
        heapq.heappush(heap, merged)
    return paid


def path_by_hand(tree: HuffmanTree, video: int) -> list[tuple[int, float]]:
    """Return (node, side) from the video to the root."""
    element, path = tree.videos - 1 + video, []
    while tree.parents[element]:
        path.append((int(tree.parents[element]), float(tree.sides[element])))
        element = tree.parents[element]
    return path


@given(COUNTS)
def test_paths_have_the_optimal_length(counts: npt.NDArray[np.int64]) -> None:
    tree = huffman_tree(counts)
    lengths = tree.levels[tree.videos :]
    assert int((counts + 1) @ lengths) == cost_by_heap((counts + 1).tolist())
    assert tree.depth == max(1, lengths.max())


@given(COUNTS)
def test_each_node_has_two_children_with_higher_numbers(counts: npt.NDArray[np.int64]) -> None:
    tree = huffman_tree(counts)
    below = sorted(zip(tree.parents[2:].tolist(), tree.sides[2:].tolist(), strict=True)) if tree.videos > 1 else []
    assert below == list(itertools.product(range(1, tree.videos), (-1.0, 1.0)))
    assert (tree.parents[2:] < np.arange(2, 2 * tree.videos)).all()
    assert tree.parents[:2].tolist() == [0, 0] and tree.sides[:2].tolist() == [0, 0]


@given(COUNTS)
def test_paths_lead_to_the_root_and_are_padded(counts: npt.NDArray[np.int64]) -> None:
    tree = huffman_tree(counts)
    nodes, sides = TreePaths(tree).ancestors(tf.range(1, tree.videos + 1))
    assert nodes.shape == sides.shape == (tree.videos, tree.depth)
    for video in range(tree.videos):
        path = path_by_hand(tree, video + 1)
        padded = path + [(0, 0.0)] * (tree.depth - len(path))
        assert list(zip(nodes.numpy()[video].tolist(), sides.numpy()[video].tolist(), strict=True)) == padded


@pytest.mark.parametrize("videos", [1, 2, 3, 50])
def test_leaf_probabilities_are_products_and_sum_to_one(videos: int) -> None:
    draw = np.random.default_rng(videos)
    tree = huffman_tree(draw.integers(0, 1000, videos))
    logits = draw.normal(size=(4, videos))
    found = np.exp(TreePaths(tree).log_probabilities(tf.constant(logits, tf.float32)).numpy()[:, 1:])
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    for user, video in itertools.product(range(4), range(videos)):
        splits = [1 / (1 + math.exp(-side * logits[user, node])) for node, side in path_by_hand(tree, video + 1)]
        np.testing.assert_allclose(found[user, video], math.prod(splits), rtol=1e-4)


@given(COUNTS)
def test_log_odds_are_those_of_the_counts(counts: npt.NDArray[np.int64]) -> None:
    tree = huffman_tree(counts)
    found = np.exp(TreePaths(tree).log_probabilities(tf.constant(tree.log_odds[np.newaxis])).numpy()[0, 1:])
    np.testing.assert_allclose(found, (counts + 1) / (counts + 1).sum(), rtol=1e-3)
