"""The ranker's loop: passes over the impressions of a window, from nothing every night.

A ranker learns in minutes, so there are no checkpoints: one that was killed begins again, and comes to the same result.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from trainer.errors import TrainingError
from trainer.inputs import Batch
from trainer.optimizer import Adam, RowwiseAdagrad, count_up
from trainer.progress import Progress
from trainer.ranker.config import RankerSettings
from trainer.ranker.inputs import impression_batches, labels_of
from trainer.ranker.loss import side_weights, weighted_logistic
from trainer.ranker.model import PARTS, Ranker
from trainer.record_files import RecordFiles
from trainer.seeds import seed_of
from trainer.training import CURVE_POINTS
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

MEAN_BATCHES = 50  # impressions whose mean inputs stand for what is not known, when a prediction is explained


@dataclass(frozen=True, kw_only=True)
class RankingFiles:
    """What a ranker learns from: gzip TFRecords as `transforms.contracts.ranking_spec` describes them, sorted."""

    train: tuple[str, ...]
    spec: RankingSpec
    graph: str | None  # folder of the SavedModel that encodes the numbers; None where the spec has none


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What all impressions weigh together: as positive ones and as negative ones."""

    impressions: int
    positive: float
    negative: float

    @property
    def odds(self) -> float:
        """What a ranker that knows nothing of an impression should predict."""
        return self.positive / self.negative


class RankerStep(tf.Module):
    """One step of training, and all that it changes."""

    def __init__(self, ranker: Ranker, settings: RankerSettings) -> None:
        super().__init__(name="ranker_step")
        self.ranker, self.positive_weights = ranker, settings.positive_weights
        self.adagrad = RowwiseAdagrad(ranker.tables, learning_rate=settings.table_learning_rate)
        self.adam = Adam(ranker.dense_variables, learning_rate=settings.tower_learning_rate)
        self.steps = tf.Variable(0, dtype=tf.int32, trainable=False, name="steps")
        self.dropout_seed = seed_of(settings.seed, "dropout")[0]

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Learns from one batch and gives its mean loss before that; NaN where a gradient is."""
        used = self.ranker.embed(batch)
        rows, variables = {name: of.rows for name, of in used.items()}, self.ranker.dense_variables
        seed = tf.stack([tf.constant(self.dropout_seed), self.steps])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([rows, variables])
            logits = self.ranker.logits(self.ranker.inputs(batch, used), None, dropout_seed=seed)
            weights = side_weights(batch["clicked"], batch["watch_seconds"], self.positive_weights)
            loss = weighted_logistic(logits, *weights)
        of_rows, gradients = tape.gradient(loss, [rows, variables])
        for name, gradient in of_rows.items():
            self.adagrad.apply(name, used[name], gradient)
        self.adam.apply(gradients)
        count_up(self.steps)
        # A ReLU turns NaN into 0, so a loss can look sound while the gradient is not: 0 times it is 0, or NaN.
        return loss + 0 * tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])


def totals(records: RecordFiles, positive_weights: str) -> Totals:
    """One pass over the labels. Raises TrainingError where there is nothing to learn: no watch after a click, or no
    impression without one."""
    impressions, sums = 0, np.zeros(2)
    for clicked, seconds in labels_of(records) if records.paths else ():
        impressions += len(clicked)
        sums += [float(tf.reduce_sum(side)) for side in side_weights(clicked, seconds, positive_weights)]
    if not sums.all():
        raise TrainingError(
            f"a ranker learns from clicked impressions that were watched and from others without a click, but of the "
            f"{impressions} impressions the former weigh {sums[0]:g} and the latter {sums[1]:g}: look at clicked and "
            "watch_seconds of [logs] impressions"
        )
    return Totals(impressions=impressions, positive=float(sums[0]), negative=float(sums[1]))


def fit_ranker(files: RankingFiles, settings: RankerSettings) -> tuple[Ranker, Progress]:
    """Trains a ranker and says how it went.

    Raises TrainingError where there is nothing to learn from and where the loss stops being a number.
    """
    records = RecordFiles.of(files.train, cache_bytes=settings.cache_bytes)
    found = totals(records, settings.positive_weights)
    ranker = Ranker(files.spec, settings, graph=files.graph, odds=found.odds, seed=settings.seed)
    step = tf.function(RankerStep(ranker, settings), reduce_retracing=True, autograph=False)
    size = settings.batch_size
    batches = iter(_batches(records, files.spec, settings))
    progress, steps = Progress(), math.ceil(found.impressions / size)
    every = max(1, steps * settings.epochs // CURVE_POINTS)
    with tqdm(total=found.impressions * settings.epochs, unit=" impressions", unit_scale=True) as bar:
        while progress.epoch < settings.epochs:
            bar.set_description(f"epoch {progress.epoch + 1}/{settings.epochs}")
            examples = min(size, found.impressions - progress.batch * size)
            began = time.perf_counter()
            batch = next(batches)
            arrived = time.perf_counter()
            loss = _checked(float(step(batch)), progress.steps + 1)
            seconds = time.perf_counter() - began
            progress.seen(loss=loss, examples=examples, seconds=seconds, waiting_seconds=arrived - began)
            bar.update(examples)
            if progress.steps % every == 0:
                bar.set_postfix(loss=f"{progress.add_point()['loss']:.3f}", refresh=False)
            if progress.batch == steps:
                progress.end_epoch()
    if progress.loss_steps:
        progress.add_point()
    _set_means(ranker, records, settings)
    return ranker, progress


def _batches(records: RecordFiles, spec: RankingSpec, settings: RankerSettings) -> tf.data.Dataset:
    epochs = range(settings.epochs)
    return impression_batches(records, spec, batch_size=settings.batch_size, seed=settings.seed, epochs=epochs)


def _checked(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss must stay a number, but is {loss} at step {step}: lower table_learning_rate or "
            "tower_learning_rate ([ranking])"
        )
    return loss


def _set_means(ranker: Ranker, records: RecordFiles, settings: RankerSettings) -> None:
    """The mean inputs over some impressions, drawn as those of the first pass."""

    @tf.function(reduce_retracing=True, autograph=False)
    def sums(batch: Batch) -> dict[str, tf.Tensor]:
        return {part: tf.reduce_sum(x, axis=0) for part, x in ranker.inputs(batch, ranker.embed(batch)).items()}

    total = {part: tf.zeros_like(ranker.means[part]) for part in PARTS}
    count = 0
    for batch in _batches(records, ranker.spec, settings.model_copy(update={"epochs": 1})).take(MEAN_BATCHES):
        count += int(tf.size(batch["clicked"]))
        total = {part: total[part] + of for part, of in sums(batch).items()}
    for part in PARTS:
        ranker.means[part].assign(total[part] / count)
