"""A Huffman tree over the videos, for the hierarchical softmax (Morin, Bengio 2005; paper, 3.1).

Each inner node splits the videos below it in two, and the probability of a video is the product of the branch
probabilities on its path: about as many as the logarithm of the catalogue's size, fewer for frequent videos. Inner
nodes are numbered from 1, the root; a parent has a lower number than its children. 0 is above the root and pads paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from transforms.core.tensorflow_import import tf


@dataclass(frozen=True, kw_only=True)
class HuffmanTree:
    """Arrays over the elements: 0, inner nodes 1 to videos - 1, and the videos (id i is element videos - 1 + i)."""

    parents: npt.NDArray[np.int32]  # [2 * videos] parent of each element; 0 for the root
    sides: npt.NDArray[np.float32]  # [2 * videos] branch at the parent, 1 or -1; 0 without a parent
    log_odds: npt.NDArray[np.float32]  # [videos] of branch 1 against branch -1 of each node, by the counts below them
    levels: npt.NDArray[np.int32]  # [2 * videos] number of ancestors

    @property
    def videos(self) -> int:
        return len(self.log_odds)

    @property
    def depth(self) -> int:
        """The length of the longest path, at least 1."""
        return max(1, int(self.levels.max()))


def huffman_tree(label_counts: npt.NDArray[np.int64]) -> HuffmanTree:
    """Return the tree with the shortest average path: about log(total / (c + 1)) nodes for a video of count c.

    `label_counts`: int64 [videos], of the ids from 1.
    """
    children, weights = _merge_lightest(np.asarray(label_counts) + 1)
    videos = len(label_counts)
    # The merge numbers the leaves 0 to videos - 1, and then the nodes in order of creation, with the root last.
    number = np.concatenate([videos + np.arange(videos), videos - 1 - np.arange(videos - 1)])
    parents, sides = np.zeros(2 * videos, np.int32), np.zeros(2 * videos, np.float32)
    log_odds = np.zeros(videos, np.float32)
    nodes = number[videos:]
    for column, side in ((0, 1.0), (1, -1.0)):
        parents[number[children[:, column]]] = nodes
        sides[number[children[:, column]]] = side
    log_odds[nodes] = np.log(weights[children[:, 0]] / weights[children[:, 1]])
    return HuffmanTree(parents=parents, sides=sides, log_odds=log_odds, levels=_levels(parents))


def _merge_lightest(leaves: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the children of the nodes in order of creation, [videos - 1, 2], and the weights of leaves and nodes.

    Merges the two lightest until one is left. No new node weighs less than the two lightest together, so all that weigh
    no more than that are merged in pairs at once.
    """
    weights, children = [leaves], [np.empty((0, 2), np.int64)]
    ids, created = np.argsort(leaves, kind="stable"), len(leaves)
    remaining = leaves[ids]
    while len(remaining) > 1:
        count = int(np.searchsorted(remaining, remaining[0] + remaining[1], side="right")) // 2
        children.append(ids[: 2 * count].reshape(count, 2))
        weights.append(remaining[: 2 * count].reshape(count, 2).sum(axis=1))
        ids = np.concatenate([ids[2 * count :], np.arange(created, created + count)])
        remaining = np.concatenate([remaining[2 * count :], weights[-1]])
        order = np.argsort(remaining, kind="stable")
        ids, remaining, created = ids[order], remaining[order], created + count
    return np.concatenate(children), np.concatenate(weights)


def _levels(parents: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    levels, elements = np.zeros_like(parents), parents
    while elements.any():
        levels += elements > 0
        elements = parents[elements]
    return levels


class TreePaths(tf.Module):
    """The paths of a tree, which is a constant in the graph."""

    def __init__(self, tree: HuffmanTree) -> None:
        super().__init__(name="paths")
        self.tree = tree
        self.parents, self.sides = tf.constant(tree.parents), tf.constant(tree.sides)

    def ancestors(self, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the ancestors of ids int32 [batch] and the branch at each, [batch, depth] each, padded with 0.

        Climbs the tree instead of storing every path: two numbers for each element, not two for each level.
        """
        elements, nodes, sides = ids + (self.tree.videos - 1), [], []
        for _ in range(self.tree.depth):
            sides.append(tf.gather(self.sides, elements))
            elements = tf.gather(self.parents, elements)
            nodes.append(elements)
        return tf.stack(nodes, axis=1), tf.stack(sides, axis=1)

    def log_probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Return the log probability of every video, [users, videos + 1] by id, for logits of the nodes [users,
        videos].

        Column 0 of both is unused; it is 0 in the result. Descends level by level, at the cost of two splits a video.
        """
        by_node = tf.transpose(logits)
        order = np.argsort(self.tree.levels[1:], kind="stable") + 1  # the root first, without element 0
        index = np.zeros(len(order) + 1, np.int32)
        index[order] = np.arange(len(order))
        starts = np.searchsorted(self.tree.levels[order], np.arange(self.tree.levels.max() + 2))
        levels = [tf.zeros_like(by_node[:1])]
        for level, (start, stop) in enumerate(pairwise(starts[1:].tolist()), start=1):
            elements = order[start:stop]
            parents = self.tree.parents[elements]
            split = tf.math.log_sigmoid(self.tree.sides[elements, np.newaxis] * tf.gather(by_node, parents))
            levels.append(split + tf.gather(levels[-1], index[parents] - starts[level - 1]))
        videos = self.tree.videos - 1 + np.arange(1, self.tree.videos + 1)
        return tf.pad(tf.transpose(tf.gather(tf.concat(levels, axis=0), index[videos])), [[0, 0], [1, 0]])
