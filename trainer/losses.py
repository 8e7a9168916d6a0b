"""Losses: the mean cost of user vectors and their labels, compared with other videos.

A softmax over all videos is too expensive. The sampled softmax compares a label with videos drawn from a known
distribution, and subtracts from each logit the logarithm of the video's expected count among the draws, so that
frequent videos are not penalised for being drawn often (log-q correction; paper, 3.1; Jean et al. 2015). The other
losses compare with other videos (`trainer.sampling`), or with another objective.

    loss = make_loss(settings, model, label_counts)
    candidates = loss.candidates(labels, users, seed=seed)  # gathers rows
    value = loss(users, labels, candidates)                 # differentiable in users and in the rows of candidates

Without the correction a logit is u.v + b, the score that serving ranks by. Replicas use their part of the batch.
Sampled softmaxes call `tf.nn.sampled_softmax_loss`. XLA cannot compile it; static shapes (TPUs) use an equal function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from trainer.config import ModelSettings
from trainer.errors import TrainingError
from trainer.model import Model
from trainer.sampling import (
    MASKED_LOGIT,
    ByLabelCounts,
    HardNegatives,
    InBatch,
    LearnedUnigram,
    Mixed,
    NegativeSampler,
    SampledNegatives,
    Sampler,
    accidental_hits,
)
from trainer.tables import Embedded, Table
from trainer.tree import TreePaths, huffman_tree
from trainer.trends import Trends
from transforms.core.tensorflow_import import tf

MIN_WEIGHT = 1e-37  # of a negative: a masked one would weigh 0, and its expected count would be infinite


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The videos that a batch is compared with: one positive for each row, and negatives that all rows share."""

    labels: tf.Tensor  # int32 [batch]
    label_vectors: tf.Tensor  # float [batch, dimension]
    label_biases: tf.Tensor  # float [batch]
    drawn: SampledNegatives
    negative_vectors: tf.Tensor  # float [negatives, dimension]
    negative_biases: tf.Tensor  # float [negatives]


def corrected_logits(users: tf.Tensor, compared: Comparison) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the corrected logits of the positives, [batch], and of the negatives, [batch, negatives].

    Accidental hits are masked.
    """
    positive = tf.reduce_sum(users * compared.label_vectors, axis=1) + compared.label_biases
    negative = tf.matmul(users, compared.negative_vectors, transpose_b=True)
    negative += compared.negative_biases - compared.drawn.log_expected  # one pass over the largest tensor
    positive -= compared.drawn.label_log_expected
    return positive, tf.where(accidental_hits(compared.labels, compared.drawn.ids), -MASKED_LOGIT, negative)


def sampled_softmax(users: tf.Tensor, compared: Comparison) -> tf.Tensor:
    """Return the mean loss of users [batch, dimension] without accidental hits, with operations that XLA has.

    `tensorflow_sampled_softmax` returns the same on CPUs and GPUs.
    """
    positive, negative = corrected_logits(users, compared)
    return tf.reduce_mean(_log_sum_exp(positive, negative) - positive)


@tf.custom_gradient
def _log_sum_exp(
    positive: tf.Tensor, negative: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """Return log(e^positive + the sum of all e^negative) of each row: [batch] and [batch, negatives] to [batch].

    Its gradient, a softmax, uses the exponentials that are already computed, and no tensor is concatenated.
    """
    peak = tf.maximum(positive, tf.reduce_max(negative, axis=1))
    exp_positive, exp_negative = tf.exp(positive - peak), tf.exp(negative - peak[:, tf.newaxis])
    total = exp_positive + tf.reduce_sum(exp_negative, axis=1)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        share = upstream / total
        return exp_positive * share, exp_negative * share[:, tf.newaxis]

    return peak + tf.math.log(total), gradient


def noise_contrastive(users: tf.Tensor, compared: Comparison) -> tf.Tensor:
    """Return the mean loss of users [batch, dimension] without accidental hits, with operations that XLA has.

    Classifies each video as label or noise, and sums the binary cross-entropies (Gutmann, Hyvarinen 2012).
    `tensorflow_noise_contrastive` returns the same on CPUs and GPUs.
    """
    positive, negative = corrected_logits(users, compared)
    return tf.reduce_mean(tf.nn.softplus(-positive) + tf.reduce_sum(tf.nn.softplus(negative), axis=1))


def tensorflow_sampled_softmax(users: tf.Tensor, candidates: NegativeCandidates) -> tf.Tensor:
    """Return the same as `sampled_softmax`, by `tf.nn.sampled_softmax_loss` over the rows that the batch uses.

    That function removes only one accidental hit of a repeated negative, so repeated negatives are merged: n copies
    with the expected count c become one with c / n, which changes neither the value nor the gradients of a softmax.
    """
    rows = candidates.rows()
    distinct, index = tf.unique(rows.negatives)
    weights = tf.math.unsorted_segment_sum(tf.exp(-candidates.drawn.log_expected), index, tf.size(distinct))
    losses = tf.nn.sampled_softmax_loss(
        rows.vectors,
        rows.biases,
        rows.labels[:, tf.newaxis],
        users,
        num_sampled=tf.size(distinct),
        num_classes=tf.shape(rows.vectors)[0],
        sampled_values=(
            distinct,
            tf.exp(candidates.drawn.label_log_expected)[:, tf.newaxis],
            1 / tf.maximum(weights, MIN_WEIGHT),
        ),
    )
    return tf.reduce_mean(losses)


def tensorflow_noise_contrastive(users: tf.Tensor, candidates: NegativeCandidates) -> tf.Tensor:
    """Return the same as `noise_contrastive`, by `tf.nn.nce_loss` over the rows that the batch uses.

    That function removes only one accidental hit of a repeated negative. The draws of a label have equal costs, so the
    cost of all accidental hits is subtracted instead.
    """
    rows, drawn = candidates.rows(), candidates.drawn
    losses = tf.nn.nce_loss(
        rows.vectors,
        rows.biases,
        rows.labels[:, tf.newaxis],
        users,
        num_sampled=tf.size(drawn.ids),
        num_classes=tf.shape(rows.vectors)[0],
        sampled_values=(
            rows.negatives,
            tf.exp(drawn.label_log_expected)[:, tf.newaxis],
            tf.exp(drawn.log_expected),
        ),
    )
    draws = tf.math.unsorted_segment_sum(tf.ones_like(drawn.log_expected), rows.negatives, tf.shape(rows.vectors)[0])
    hits = tf.gather(draws, rows.labels)
    logits = tf.reduce_sum(users * tf.gather(rows.vectors, rows.labels), axis=1) + tf.gather(rows.biases, rows.labels)
    return tf.reduce_mean(losses - hits * tf.nn.softplus(logits - drawn.label_log_expected))


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The rows that a loss compares with, by table: gradients are taken of them."""

    used: dict[str, Embedded]
    trends: Trends | None = None  # of the videos; None: the model has none

    def rows_of_videos(self) -> tf.Tensor:
        """Return the rows of `used["videos"]`, float [rows, dimension], and wider with trends."""
        videos = self.used["videos"]
        if self.trends is None:
            return videos.rows
        return tf.concat([videos.rows, tf.gather(self.trends.features, videos.ids)], axis=1)

    def vectors_of_videos(self) -> tf.Tensor:
        """Return `rows_of_videos` of each id of `used["videos"]`, float [ids, dimension], and wider with trends."""
        return tf.gather(self.rows_of_videos(), self.used["videos"].indices)


C = TypeVar("C", bound=Candidates)


class Loss(tf.Module, Generic[C]):
    """A loss of one model."""

    def __init__(self, model: Model) -> None:
        super().__init__(name="loss")
        self.videos, self.biases = model.videos, model.biases
        self.tables: dict[str, Table] = {}  # tables of the loss, in addition to the model's
        self.trends: Trends | None = None  # as those of the model's tower
        self.in_batch: InBatch | None = None  # the sampler, if it returns the labels of the batch

    def candidates(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> C:
        """Gather the rows that a batch is compared with.

        `labels`: int32 [batch], from 1. `users`: float [batch, dimension], and wider with trends. `seed`: int32 [2];
        random draws depend only on it. Call it outside the gradient tape.
        """
        raise NotImplementedError

    def __call__(self, users: tf.Tensor, labels: tf.Tensor, candidates: C) -> tf.Tensor:
        """Return the mean loss of `users`, as for `candidates`. With static shapes it compiles for accelerators."""
        raise NotImplementedError

    def scores(self, users: tf.Tensor) -> tf.Tensor:
        """Return the scores that videos are ranked by, float [users, videos + 1] by id; column 0 is no video."""
        dimension = self.videos.dimension
        scores = self.videos.scores(users[:, :dimension]) + self.biases.weights[:, 0]
        if self.trends is not None:
            scores += tf.matmul(users[:, dimension:], self.trends.features, transpose_b=True)
        return scores


@dataclass(frozen=True, kw_only=True)
class ComparedRows:
    """The rows of the labels and of the negatives, each once, and the row of each label and negative."""

    vectors: tf.Tensor  # float [rows, dimension]
    biases: tf.Tensor  # float [rows]
    labels: tf.Tensor  # int32 [batch]
    negatives: tf.Tensor  # int32 [negatives]


@dataclass(frozen=True, kw_only=True)
class NegativeCandidates(Candidates):
    """Candidates of a sampled loss: `used` has the labels and then the negatives."""

    drawn: SampledNegatives

    def rows(self) -> ComparedRows:
        """Return the rows, in which the labels and negatives are renumbered."""
        videos, biases = self.used["videos"], self.used["biases"]  # of the same ids, and so in the same order
        labels, negatives = tf.split(videos.indices, [tf.size(self.drawn.label_log_expected), tf.size(self.drawn.ids)])
        return ComparedRows(vectors=self.rows_of_videos(), biases=biases.rows[:, 0], labels=labels, negatives=negatives)


class SampledLoss(Loss[NegativeCandidates]):
    """A loss that compares each label with sampled negatives: a softmax, or a noise-contrastive loss.

    `written_out`: whether to use the functions of this module and not those of TensorFlow. Static shapes always use
    them, because XLA cannot compile TensorFlow's; so does NCE by default, because a step with `tf.nn.nce_loss` takes
    10 % longer (docs/benchmarks.md).
    """

    def __init__(self, model: Model, sampler: Sampler, *, noise_contrastive: bool = False) -> None:
        super().__init__(model)
        self.sampler, self.noise_contrastive, self.written_out = sampler, noise_contrastive, noise_contrastive
        self.in_batch = sampler if isinstance(sampler, InBatch) else None

    def candidates(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> NegativeCandidates:
        drawn = self.sampler(labels, users[:, : self.videos.dimension], seed=seed)
        ids = tf.concat([labels, drawn.ids], axis=0)
        return NegativeCandidates(
            used={"videos": self.videos.embed(ids), "biases": self.biases.embed(ids)}, drawn=drawn, trends=self.trends
        )

    def __call__(self, users: tf.Tensor, labels: tf.Tensor, candidates: NegativeCandidates) -> tf.Tensor:
        drawn, used = candidates.drawn, candidates.used
        if not (self.written_out or used["videos"].static):
            call = tensorflow_noise_contrastive if self.noise_contrastive else tensorflow_sampled_softmax
            return call(users, candidates)
        sizes = [tf.size(labels), tf.size(drawn.ids)]
        label_vectors, negative_vectors = tf.split(candidates.vectors_of_videos(), sizes)
        label_biases, negative_biases = tf.split(used["biases"].vectors()[:, 0], sizes)
        compared = Comparison(
            labels=labels,
            label_vectors=label_vectors,
            label_biases=label_biases,
            drawn=drawn,
            negative_vectors=negative_vectors,
            negative_biases=negative_biases,
        )
        return noise_contrastive(users, compared) if self.noise_contrastive else sampled_softmax(users, compared)


class FullSoftmax(Loss[Candidates]):
    """The softmax over all videos, which the others approximate. Every step reads and updates all rows."""

    def candidates(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> Candidates:
        ids = tf.range(1, self.videos.size + 1)
        used = {"videos": self.videos.embed(ids), "biases": self.biases.embed(ids)}
        return Candidates(used=used, trends=self.trends)

    def __call__(self, users: tf.Tensor, labels: tf.Tensor, candidates: Candidates) -> tf.Tensor:
        vectors, biases = candidates.vectors_of_videos(), candidates.used["biases"].vectors()[:, 0]
        logits = tf.matmul(users, vectors, transpose_b=True) + biases
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels - 1, logits=logits))


@dataclass(frozen=True, kw_only=True)
class TreePath(Candidates):
    """Candidates of the hierarchical softmax: `used` has the ancestors of each label, from its parent to the root."""

    sides: tf.Tensor  # float [batch, depth]: the branch at each node, 1 or -1; 0 above the root


class HierarchicalSoftmax(Loss[TreePath]):
    """A softmax over the paths of a Huffman tree, with a logistic regression on the user vector at each node.

    It is for comparison only: it learns vectors of nodes and not of videos, so no index can find a user's best videos.
    """

    def __init__(self, model: Model, label_counts: npt.NDArray[np.int64]) -> None:
        """Initialise the biases so that a video's probability is the share of its label count + 1."""
        super().__init__(model)
        tree = huffman_tree(label_counts)
        self.paths, nodes = TreePaths(tree), max(1, tree.videos - 1)  # a table has at least one row
        self.nodes = Table(nodes, self.videos.dimension, scale=0.0, seed=(0, 0), name="nodes")
        self.node_biases = Table(nodes, 1, scale=0.0, seed=(0, 0), name="node_biases")
        self.node_biases.weights[: tree.videos, 0].assign(tree.log_odds)
        self.tables = {"nodes": self.nodes, "node_biases": self.node_biases}

    def candidates(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> TreePath:
        nodes, sides = self.paths.ancestors(labels)
        return TreePath(used={name: table.embed(nodes) for name, table in self.tables.items()}, sides=sides)

    def __call__(self, users: tf.Tensor, labels: tf.Tensor, candidates: TreePath) -> tf.Tensor:
        vectors, biases = candidates.used["nodes"].vectors(), candidates.used["node_biases"].vectors()[..., 0]
        logits = tf.linalg.matvec(vectors, users) + biases
        sides = candidates.sides
        return tf.reduce_mean(tf.reduce_sum(tf.abs(sides) * tf.nn.softplus(-sides * logits), axis=1))

    def scores(self, users: tf.Tensor) -> tf.Tensor:
        """Return exact log probabilities, at the cost of a softmax over all videos."""
        logits = tf.matmul(users, self.nodes.weights, transpose_b=True) + self.node_biases.weights[:, 0]
        return self.paths.log_probabilities(logits)


def make_loss(settings: ModelSettings, model: Model, label_counts: npt.NDArray[np.int64]) -> Loss[Any]:
    """Return the loss that `settings.loss` names. `label_counts`: int64 [videos], of the ids from 1.

    Raises TrainingError for a softmax over more than `softmax_limit` videos.
    """
    if settings.loss == "hierarchical_softmax":
        return HierarchicalSoftmax(model, label_counts)
    if settings.loss == "softmax":
        if model.videos.size > settings.softmax_limit:
            raise TrainingError(
                f'loss = "softmax" is for at most {settings.softmax_limit} videos, but there are {model.videos.size} '
                'and each step would update all: set loss = "sampled_softmax", or raise softmax_limit ([model])'
            )
        return FullSoftmax(model)
    return SampledLoss(model, _sampler(settings, model, label_counts), noise_contrastive=settings.loss == "nce")


def _sampler(settings: ModelSettings, model: Model, label_counts: npt.NDArray[np.int64]) -> Sampler:
    count = settings.negatives
    if settings.sampler == "learned_unigram":
        return LearnedUnigram(model.videos.size, count=count)
    sampler = NegativeSampler(label_counts)
    if settings.loss == "in_batch":
        return InBatch(sampler)
    if settings.loss == "mixed":
        return Mixed(sampler, count=count)
    if settings.loss == "hard_negatives":
        share, pool = settings.hard_share, settings.hard_pool
        return HardNegatives(sampler, model.videos, model.biases, count=count, share=share, pool=pool)
    return ByLabelCounts(sampler, count=count)
