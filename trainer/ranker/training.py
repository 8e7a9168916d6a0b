"""The loss and the training loop of the ranker: epochs over the impressions of a window, always from a cold start.

The loss is logistic regression in which a click has its watch time as weight (paper, 4.2). With the seconds T as weight
of clicked impressions and 1 for all others, the learned odds are sum(T) / (N - k) for k clicks among N impressions,
which is E[T] / (1 - P): about the expected seconds E[T] if clicks are rare. With "exact" a clicked impression also has
the weight 1 as a negative, and the odds are sum(T) / N, the expected seconds, however frequent clicks are.

Records may have a sample of the impressions that were not clicked. The loss of an impression counts as often as the
impressions that it stands for, so that it has the expectation of the loss of all of them.

A ranker trains in minutes, so there are no checkpoints: an interrupted training starts again, and has the same result.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from trainer.batch import CLICKED, IMPRESSION_WEIGHT, WATCH_SECONDS, Batch
from trainer.errors import TrainingError
from trainer.optimizer import Adam, RowwiseAdagrad, increment
from trainer.progress import Progress
from trainer.ranker.auto import resolve_epochs
from trainer.ranker.config import RankerSettings
from trainer.ranker.inputs import impression_batches, read_labels
from trainer.ranker.model import PARTS, Ranker
from trainer.record_files import RecordFiles
from trainer.seeds import derive_seed
from trainer.step import nan_unless_finite
from trainer.training import CURVE_POINTS
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

MEAN_BATCHES = 50  # over whose impressions the mean inputs are taken, which explain a prediction


@dataclass(frozen=True, kw_only=True)
class RankingFiles:
    """The inputs of a training: gzip TFRecords as `transforms.contracts.ranking_spec` describes them, sorted."""

    train: tuple[str, ...]
    spec: RankingSpec
    graph: str | None  # folder of the SavedModel that encodes the numbers; None if the spec has none


@dataclass(frozen=True, kw_only=True)
class LabelTotals:
    """The number of impressions to learn from, the number that they stand for, and the sums of their weights as
    positives and as negatives."""

    impressions: int
    weight: float
    positive: float
    negative: float

    @property
    def odds(self) -> float:
        """The odds that a ranker without features should predict."""
        return self.positive / self.negative

    @property
    def mean_weight(self) -> float:
        """The number of impressions that one stands for, on average."""
        return self.weight / self.impressions


@dataclass(frozen=True, kw_only=True)
class FittedRanker:
    """A trained ranker, and how it was trained."""

    ranker: Ranker
    progress: Progress
    settings: RankerSettings  # without "auto"
    reasons: dict[str, str]  # of the settings that were "auto"

    @property
    def explained(self) -> dict[str, str]:
        """The values of the settings that were "auto", with their reasons, by name."""
        values = self.settings.model_dump()
        return {name: f"{values[name]} ({reason})" for name, reason in self.reasons.items()}


class RankerStep(tf.Module):
    """One training step, and everything that it changes."""

    def __init__(self, ranker: Ranker, settings: RankerSettings, *, mean_weight: float = 1.0) -> None:
        """mean_weight: of the impressions of an epoch."""
        super().__init__(name="ranker_step")
        self.ranker, self.positive_weights, self.mean_weight = ranker, settings.positive_weights, mean_weight
        self.adagrad = RowwiseAdagrad(ranker.tables, learning_rate=settings.table_learning_rate)
        self.adam = Adam(ranker.dense_variables, learning_rate=settings.tower_learning_rate)
        self.steps = tf.Variable(0, dtype=tf.int32, trainable=False, name="steps")
        self.dropout_seed = derive_seed(settings.seed, "dropout")[0]

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Learn from one batch and return its mean loss before the update; NaN if a gradient is not finite."""
        used = self.ranker.embed(batch)
        rows, variables = {name: embedded.rows for name, embedded in used.items()}, self.ranker.dense_variables
        seed = tf.stack([tf.constant(self.dropout_seed), self.steps])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([rows, variables])
            logits = self.ranker.logits(self.ranker.inputs(batch, used), None, dropout_seed=seed)
            weights = label_weights(batch[CLICKED], batch[WATCH_SECONDS], self.positive_weights)
            loss = weighted_logistic(logits, *weights, batch[IMPRESSION_WEIGHT] / self.mean_weight)
        row_gradients, gradients = tape.gradient(loss, [rows, variables])
        for name, gradient in row_gradients.items():
            self.adagrad.apply(name, used[name], gradient)
        self.adam.apply(gradients)
        increment(self.steps)
        return nan_unless_finite(loss, gradients)


def label_weights(clicked: tf.Tensor, watch_seconds: tf.Tensor, kind: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the weights of each impression as a positive and as a negative, float [n] each.

    `clicked`: float [n], 0 or 1. `kind`: a value of `RankerSettings.positive_weights`.
    """
    if kind == "equal":
        return clicked, 1 - clicked
    return clicked * watch_seconds, tf.ones_like(clicked) if kind == "exact" else 1 - clicked


def weighted_logistic(
    logits: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, weights: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """Return the mean over impressions of weights (-positive log(p) - negative log(1 - p)), with p = sigmoid(logits);
    all float [n].

    The mean is over impressions and not over weights: otherwise a batch with a long watch would count for less.
    """
    return tf.reduce_mean(weights * (positive * tf.nn.softplus(-logits) + negative * tf.nn.softplus(logits)))


def sum_labels(records: RecordFiles, positive_weights: str) -> LabelTotals:
    """Return the totals of all labels, which it reads once.

    Raises TrainingError if there is no watch after a click, or no impression without a click.
    """
    impressions, sums, total = 0, np.zeros(2), 0.0
    for clicked, seconds, weights in read_labels(records):
        impressions, total = impressions + len(clicked), total + float(tf.reduce_sum(weights))
        kinds = label_weights(clicked, seconds, positive_weights)
        sums += [float(tf.reduce_sum(weights * kind)) for kind in kinds]
    if not sums.all():
        raise TrainingError(
            f"a ranker learns from clicked impressions that were watched and from impressions without a click, but the "
            f"weights of the {impressions} impressions are {sums[0]:g} in all for the former and {sums[1]:g} for the "
            "latter: look at clicked and watch_seconds of [logs] impressions"
        )
    return LabelTotals(impressions=impressions, weight=total, positive=float(sums[0]), negative=float(sums[1]))


def fit_ranker(files: RankingFiles, settings: RankerSettings) -> FittedRanker:
    """Train a ranker.

    Raises TrainingError if there is nothing to learn from, and if the loss is not finite.
    """
    records = RecordFiles.from_paths(files.train, cache_bytes=settings.cache_bytes)
    totals = sum_labels(records, settings.positive_weights)
    epochs, reason = resolve_epochs(settings.epochs, impressions=totals.impressions, warm=False)
    settings = settings.model_copy(update={"epochs": epochs})
    ranker = Ranker(files.spec, settings, graph=files.graph, odds=totals.odds, seed=settings.seed)
    module = RankerStep(ranker, settings, mean_weight=totals.mean_weight)
    step = tf.function(module, reduce_retracing=True, autograph=False)
    size, batches = settings.batch_size, iter(_batches(records, files.spec, settings, epochs=epochs))
    progress, steps = Progress(), math.ceil(totals.impressions / size)
    curve_steps = max(1, steps * epochs // CURVE_POINTS)
    with tqdm(total=totals.impressions * epochs, unit=" impressions", unit_scale=True) as bar:
        while progress.epoch < epochs:
            bar.set_description(f"epoch {progress.epoch + 1}/{epochs}")
            examples = min(size, totals.impressions - progress.batch * size)
            start = time.perf_counter()
            batch = next(batches)
            arrived = time.perf_counter()
            loss = float(step(batch))
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss must be finite, but is {loss} at step {progress.steps + 1}: lower table_learning_rate "
                    "or tower_learning_rate ([ranking])"
                )
            seconds = time.perf_counter() - start
            progress.add_step(loss=loss, examples=examples, seconds=seconds, waiting_seconds=arrived - start)
            bar.update(examples)
            if progress.steps % curve_steps == 0:
                bar.set_postfix(loss=f"{progress.add_point()['loss']:.3f}", refresh=False)
            if progress.batch == steps:
                progress.end_epoch()
    if progress.loss_steps:
        progress.add_point()
    _set_means(ranker, records, settings)
    reasons = {"epochs": reason} if reason else {}
    return FittedRanker(ranker=ranker, progress=progress, settings=settings, reasons=reasons)


def _batches(records: RecordFiles, spec: RankingSpec, settings: RankerSettings, *, epochs: int) -> tf.data.Dataset:
    size, seed = settings.batch_size, settings.seed
    return impression_batches(records, spec, batch_size=size, seed=seed, epochs=range(epochs))


def _set_means(ranker: Ranker, records: RecordFiles, settings: RankerSettings) -> None:
    """Set the mean inputs to those of the impressions in the first batches of the first epoch."""

    @tf.function(reduce_retracing=True, autograph=False)
    def sums(batch: Batch) -> dict[str, tf.Tensor]:
        weights = batch[IMPRESSION_WEIGHT][:, tf.newaxis]
        inputs = ranker.inputs(batch, ranker.embed(batch))
        return {part: tf.reduce_sum(weights * x, axis=0) for part, x in inputs.items()}

    total = {part: tf.zeros_like(ranker.means[part]) for part in PARTS}
    count = 0.0
    for batch in _batches(records, ranker.spec, settings, epochs=1).take(MEAN_BATCHES):
        count += float(tf.reduce_sum(batch[IMPRESSION_WEIGHT]))
        total = {part: total[part] + part_sum for part, part_sum in sums(batch).items()}
    for part in PARTS:
        ranker.means[part].assign(total[part] / count)
