"""The training loop of the ranker: epochs over the impressions of a window, or over those that are new to an earlier
ranker, from which the training goes on, and a replayed share of older ones.

A ranker trains in minutes, so there are no checkpoints: an interrupted training starts again, and has the same result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from trainer.batch import IMPRESSION_WEIGHT, Batch
from trainer.errors import TrainingError
from trainer.examples import Vocabulary, read_vocabulary
from trainer.inputs import POOL_USERS
from trainer.progress import Progress
from trainer.ranker.auto import resolve_epochs
from trainer.ranker.config import RankerSettings
from trainer.ranker.inputs import impression_batches, read_labels
from trainer.ranker.model import PARTS, Ranker
from trainer.ranker.replay import RankingReplay
from trainer.ranker.step import RankerStep, label_weights
from trainer.ranker.warm_start import carry_ranker, prepare_ranker
from trainer.record_files import RecordFiles
from trainer.training import CURVE_POINTS
from trainer.warm_start import Start, WarmStartSource
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

# Impressions that are shuffled together. Pools of users with many impressions each would take gigabytes.
POOL_IMPRESSIONS = 1 << 17
# The learning rates fall linearly to this share: the level of the predictions at the end would otherwise be that of the
# last watches learned.
LAST_FACTOR = 0.02
MEAN_BATCHES = 50  # over whose impressions the mean inputs are taken, which explain a prediction


@dataclass(frozen=True, kw_only=True)
class RankingFiles:
    """The inputs of a training: gzip TFRecords as `transforms.contracts.ranking_spec` describes them, sorted."""

    train: tuple[str, ...]
    spec: RankingSpec
    graph: str | None  # folder of the SavedModel that encodes the numbers; None if the spec has none
    # `videos`, `channels`, `tokens` -> Parquet file of token and count, in order of the ids; for warm starts
    vocabularies: Mapping[str, str] = field(default_factory=dict)
    replay: RankingReplay | None = None  # in a warm start: what to learn again of earlier nights


@dataclass(frozen=True, kw_only=True)
class LabelTotals:
    """The number of impressions to learn from, the number that they stand for, and the sums of their weights as
    positives and as negatives."""

    users: int
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

    @property
    def pool_users(self) -> int:
        """The number of users whose impressions are shuffled together."""
        return max(1, min(POOL_USERS, POOL_IMPRESSIONS * self.users // self.impressions))


@dataclass(frozen=True, kw_only=True)
class FittedRanker:
    """A trained ranker, and how it was trained."""

    ranker: Ranker
    step: RankerStep
    progress: Progress
    start: Start
    vocabularies: dict[str, Vocabulary]
    settings: RankerSettings  # without "auto"
    reasons: dict[str, str]  # of the settings that were "auto"

    @property
    def explained(self) -> dict[str, str]:
        """The values of the settings that were "auto", with their reasons, by name."""
        values = self.settings.model_dump()
        return {name: f"{values[name]} ({reason})" for name, reason in self.reasons.items()}


def sum_labels(records: RecordFiles, positive_weights: str, replay: RankingReplay | None = None) -> LabelTotals:
    """Return the totals of all labels, which it reads once.

    Raises TrainingError if there is no watch after a click, or no impression without a click.
    """
    users, impressions, sums, total = 0, 0, np.zeros(2), 0.0
    for clicked, seconds, weights, of_users in read_labels(records, replay):
        users, impressions, total = (
            users + int(of_users),
            impressions + len(clicked),
            total + float(tf.reduce_sum(weights)),
        )
        kinds = label_weights(clicked, seconds, positive_weights)
        sums += [float(tf.reduce_sum(weights * kind)) for kind in kinds]
    if not sums.all():
        raise TrainingError(
            f"a ranker learns from clicked impressions that were watched and from impressions without a click, but the "
            f"weights of the {impressions} impressions are {sums[0]:g} in all for the former and {sums[1]:g} for the "
            "latter: look at clicked and watch_seconds of [logs] impressions"
        )
    return LabelTotals(
        users=users, impressions=impressions, weight=total, positive=float(sums[0]), negative=float(sums[1])
    )


def fit_ranker(
    files: RankingFiles, settings: RankerSettings, *, earlier: WarmStartSource | None = None
) -> FittedRanker:
    """Train a ranker, from the state of an `earlier` one if there is one and its shape allows it.

    Raises TrainingError if there is nothing to learn from, and if the loss is not finite.
    """
    keeps = files.replay.keeps_records if files.replay else None
    paths = (*files.train, *(files.replay.paths if files.replay else ()))
    records = RecordFiles.from_paths(paths, cache_bytes=settings.cache_bytes, keeps=keeps)
    totals = sum_labels(records, settings.positive_weights, files.replay)
    vocabularies = read_ranker_vocabularies(files)

    def build(dimensions: Mapping[str, int]) -> RankerStep:
        ranker = Ranker(
            files.spec, settings, graph=files.graph, odds=totals.odds, seed=settings.seed, dimensions=dimensions
        )
        return RankerStep(ranker, settings, mean_weight=totals.mean_weight)

    module, start = prepare_ranker(earlier, build, spec=files.spec, settings=settings)
    carry_ranker(module, start, vocabularies)
    ranker, is_warm = module.ranker, start.state is not None
    epochs, reason = resolve_epochs(settings.epochs, impressions=totals.impressions, warm=is_warm)
    settings = settings.model_copy(update={"epochs": epochs})
    step = tf.function(module, reduce_retracing=True, autograph=False)
    size, batches = settings.batch_size, iter(_batches(records, files, settings, totals.pool_users, epochs=epochs))
    progress, steps = Progress(), math.ceil(totals.impressions / size)
    curve_steps, first_batches = max(1, steps * epochs // CURVE_POINTS), list[Batch]()
    with tqdm(total=totals.impressions * epochs, unit=" impressions", unit_scale=True) as bar:
        while progress.epoch < epochs:
            bar.set_description(f"epoch {progress.epoch + 1}/{epochs}")
            examples = min(size, totals.impressions - progress.batch * size)
            began = time.perf_counter()
            batch = next(batches)
            arrived = time.perf_counter()
            if progress.epoch == 0 and len(first_batches) < MEAN_BATCHES:
                first_batches.append(batch)
            loss = float(step(batch, tf.constant(1 - (1 - LAST_FACTOR) * progress.steps / (steps * epochs))))
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss must be finite, but is {loss} at step {progress.steps + 1}: lower table_learning_rate "
                    "or tower_learning_rate ([ranking])"
                )
            seconds = time.perf_counter() - began
            progress.add_step(loss=loss, examples=examples, seconds=seconds, waiting_seconds=arrived - began)
            bar.update(examples)
            if progress.steps % curve_steps == 0:
                bar.set_postfix(loss=f"{progress.add_point()['loss']:.3f}", refresh=False)
            if progress.batch == steps:
                progress.end_epoch()
    if progress.loss_steps:
        progress.add_point()
    _set_means(ranker, first_batches)
    return FittedRanker(
        ranker=ranker,
        step=module,
        progress=progress,
        start=start,
        vocabularies=vocabularies,
        settings=settings,
        reasons={"epochs": reason} if reason else {},
    )


def read_ranker_vocabularies(files: RankingFiles) -> dict[str, Vocabulary]:
    """Return the vocabularies of the tables: those with a file, and each category."""
    tables = {**files.spec.categories, **files.vocabularies}
    found = {}
    for name, values in tables.items():
        if isinstance(values, str):
            found[name] = read_vocabulary(values, "token")
        else:
            found[name] = Vocabulary(names=pa.array(values, pa.string()), counts=np.zeros(len(values), np.int64))
    return found


def _batches(
    records: RecordFiles, files: RankingFiles, settings: RankerSettings, pool_users: int, *, epochs: int
) -> tf.data.Dataset:
    return impression_batches(
        records,
        files.spec,
        batch_size=settings.batch_size,
        seed=settings.seed,
        epochs=range(epochs),
        replay=files.replay,
        pool_users=pool_users,
    )


def _set_means(ranker: Ranker, batches: Sequence[Batch]) -> None:
    """Set the mean inputs to those of the impressions in some batches."""

    @tf.function(reduce_retracing=True, autograph=False)
    def sums(batch: Batch) -> dict[str, tf.Tensor]:
        weights = batch[IMPRESSION_WEIGHT][:, tf.newaxis]
        inputs = ranker.inputs(batch, ranker.embed(batch))
        return {part: tf.reduce_sum(weights * x, axis=0) for part, x in inputs.items()}

    total = {part: tf.zeros_like(ranker.means[part]) for part in PARTS}
    count = 0.0
    for batch in batches:
        count += float(tf.reduce_sum(batch[IMPRESSION_WEIGHT]))
        total = {part: total[part] + part_sum for part, part_sum in sums(batch).items()}
    for part in PARTS:
        ranker.means[part].assign(total[part] / count)
