"""A Huffman tree over the videos: the shape of the hierarchical softmax (Morin, Bengio 2005; paper, 3.1).

Each inner node splits the videos below it in two, and a video's probability is the product of the splits on its path:
about as many as the logarithm of the catalogue's size, fewer for the frequent. Inner nodes are numbered from 1, the
root, downwards: a parent's number is below its children's. The number 0 stands above the root and pads short paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from transforms.core.tensorflow_import import tf


@dataclass(frozen=True, kw_only=True)
class HuffmanTree:
    """Elements are 0, the inner nodes 1 to videos - 1, and behind them the videos: id i is element videos - 1 + i."""

    parents: npt.NDArray[np.int32]  # [2 * videos] inner node above an element; 0 above the root
    sides: npt.NDArray[np.float32]  # [2 * videos] 1 or -1: which child of its parent an element is; 0: of none
    log_odds: npt.NDArray[np.float32]  # [videos] of a node's side 1 against side -1, by the counts below them
    levels: npt.NDArray[np.int32]  # [2 * videos] how many parents an element has

    @property
    def videos(self) -> int:
        return len(self.log_odds)

    @property
    def depth(self) -> int:
        """The longest path; at least 1, for a path's shape."""
        return max(1, int(self.levels.max()))


def huffman_tree(label_counts: npt.NDArray[np.int64]) -> HuffmanTree:
    """The tree that gives a video of count c a path of about log(total / (c + 1)) nodes: the shortest on average.

    `label_counts`: int64 [videos], of the ids from 1.
    """
    children, weights = _merge_lightest(np.asarray(label_counts) + 1)
    videos = len(label_counts)
    # Merged were leaves 0 to videos - 1 and then nodes in the order they were made, the root last.
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
    """Children [videos - 1, 2] of the nodes in the order they are made, and the weights of `leaves` and then of nodes.

    The lightest two are merged until one is left. No node will weigh less than the lightest two together, so all that
    weigh no more than those are merged at once, neighbour with neighbour.
    """
    weights, children = [leaves], [np.empty((0, 2), np.int64)]
    ids, made = np.argsort(leaves, kind="stable"), len(leaves)
    left = leaves[ids]
    while len(left) > 1:
        count = int(np.searchsorted(left, left[0] + left[1], side="right")) // 2
        children.append(ids[: 2 * count].reshape(count, 2))
        weights.append(left[: 2 * count].reshape(count, 2).sum(axis=1))
        ids = np.concatenate([ids[2 * count :], np.arange(made, made + count)])
        left = np.concatenate([left[2 * count :], weights[-1]])
        order = np.argsort(left, kind="stable")
        ids, left, made = ids[order], left[order], made + count
    return np.concatenate(children), np.concatenate(weights)


def _levels(parents: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    levels, at = np.zeros_like(parents), parents
    while at.any():
        levels += at > 0
        at = parents[at]
    return levels


class TreePaths(tf.Module):
    """A tree as constants in the graph."""

    def __init__(self, tree: HuffmanTree) -> None:
        super().__init__(name="paths")
        self.tree = tree
        self.parents, self.sides = tf.constant(tree.parents), tf.constant(tree.sides)

    def of(self, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The nodes above each of `ids` (int32 [batch]) and the side taken there, [batch, depth] each; 0s at the end.

        Climbs instead of keeping every video's path: two numbers an element, not `depth` of them.
        """
        at, nodes, sides = ids + (self.tree.videos - 1), [], []
        for _ in range(self.tree.depth):
            sides.append(tf.gather(self.sides, at))
            at = tf.gather(self.parents, at)
            nodes.append(at)
        return tf.stack(nodes, axis=1), tf.stack(sides, axis=1)

    def log_probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """The log probability of every video, [users, videos + 1] by id, from the nodes' logits [users, videos].

        Column 0 of either stands for nothing; in the result it is 0. Goes down level by level: two splits a video.
        """
        by_node = tf.transpose(logits)
        order = np.argsort(self.tree.levels[1:], kind="stable") + 1  # the root first; element 0 is none
        place = np.zeros(len(order) + 1, np.int32)
        place[order] = np.arange(len(order))
        starts = np.searchsorted(self.tree.levels[order], np.arange(self.tree.levels.max() + 2))
        done = [tf.zeros_like(by_node[:1])]
        for level, (start, stop) in enumerate(pairwise(starts[1:].tolist()), start=1):
            elements = order[start:stop]
            parents = self.tree.parents[elements]
            split = tf.math.log_sigmoid(self.tree.sides[elements, np.newaxis] * tf.gather(by_node, parents))
            done.append(split + tf.gather(done[-1], place[parents] - starts[level - 1]))
        videos = self.tree.videos - 1 + np.arange(1, self.tree.videos + 1)
        return tf.pad(tf.transpose(tf.gather(tf.concat(done, axis=0), place[videos])), [[0, 0], [1, 0]])
