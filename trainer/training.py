"""The training loop: epochs over the examples, the loss curve, metrics after each epoch, checkpoints.

All random draws depend only on the seed and on the step, so an interrupted training that resumes from its last
checkpoint follows the curve of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tqdm import tqdm

from trainer.co_watches import factorise, read_histories
from trainer.config import ModelSettings, TrainingSettings
from trainer.distribution import Parts, Replicas
from trainer.errors import TrainingError
from trainer.examples import ExampleFiles, Vocabulary, read_vocabularies
from trainer.holdout import HoldoutEvaluator, RecallEvaluator, scoring_batch_size
from trainer.inputs import count_labels, epoch_batches
from trainer.losses import Loss, make_loss
from trainer.model import Model
from trainer.progress import Checkpoints, Progress
from trainer.record_files import RecordFiles
from trainer.replay import Replay
from trainer.sampling import VideoDistribution
from trainer.step import LinearDecay, TrainingStep
from trainer.stopping import StoppingUsers, choose_stopping_users, read_user_ids
from trainer.trends import read_trends
from trainer.warm_start import Start, WarmStartSource, prepare_start
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

CURVE_POINTS = 200  # about how many points the loss curve of a training has, however long it is


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A completed training: everything that it learned, its progress, what it started from, and its records."""

    step: TrainingStep
    progress: Progress
    start: Start
    records: RecordFiles  # of all training examples, in memory if they fit `cache_bytes`

    @property
    def model(self) -> Model:
        return self.step.model


def fit(
    files: ExampleFiles,
    counts: Vocabulary,
    *,
    model_settings: ModelSettings,
    settings: TrainingSettings,
    checkpoints: str,
    logs: str,
    earlier: WarmStartSource | None = None,
    replicas: Replicas | None = None,
    on_save: Callable[[], object] | None = None,
) -> FitResult:
    """Train a model. Resumes from the newest checkpoint in the folder `checkpoints`, if there is one.

    `logs`: folder for TensorBoard. `earlier`: the model to start from, if its shape allows. `replicas`: the devices.
    `on_save`: called after each checkpoint. Raises TrainingError if there is no label, if there are no users for early
    stopping, and if the loss is not finite.
    """
    replicas = replicas or Replicas()
    builder = StepBuilder(spec=files.spec, counts=counts, model_settings=model_settings, settings=settings)
    with replicas.scope():
        step, start = prepare_start(earlier, partial(builder.build, replicas), spec=files.spec, settings=model_settings)
    settings = start.adjust_settings(settings)
    data = TrainingData.open(files, settings, replay=start.replay(settings))
    correct_batch_labels(step.loss, data)
    if model_settings.trends:
        step.set_trends(read_trends(data.records, videos=files.spec.videos))
    saves = Checkpoints(checkpoints, step, writes=replicas.chief, on_save=on_save)
    progress = saves.restore()
    if saves.latest is None:
        start.carry_over(step, read_vocabularies(files, counts), damping=settings.accumulator_damping)
        if model_settings.co_watches and start.state is None:
            start_from_co_watches(step.model, data, counts, settings)
    plan = make_plan(data.labels_per_epoch(settings.epochs), settings.batch_size, replicas=replicas)
    plan = plan.limited_to(settings.max_steps)
    if settings.learning_rate_schedule == "linear":
        step.decay = LinearDecay(first=int(step.steps) - progress.steps, steps=sum(plan.steps))
    loop = _TrainingLoop(
        settings=settings,
        replicas=replicas,
        step=replicas.compile(step),
        plan=plan,
        decay=step.decay,
        holdout=HoldoutEvaluator(
            step.model.tower, step.loss.scores, files.holdout, files.spec, users=settings.holdout_sample
        ),
        stopping=RecallEvaluator(step.model.tower, step.loss.scores, data.stopping_batches()),
        checkpoints=saves,
        writer=tf.summary.create_file_writer(logs) if replicas.chief else tf.summary.create_noop_writer(),
    )
    # The number of rows that the labels of a batch share depends on the data, so static shapes need windows.
    sequences = step.model.tower.encoder.sequences and not replicas.static
    batches = data.batches(settings, progress, sequences=sequences, static=replicas.static)
    loop.run(replicas.distribute(batches), progress)
    if settings.early_stopping_epochs and replicas.chief:
        saves.restore_best()
    return FitResult(
        step=step if replicas.single else builder.copy(step), progress=progress, start=start, records=data.records
    )


def correct_batch_labels(loss: Loss[Any], data: TrainingData) -> None:
    """Let in-batch negatives be corrected by the labels that an epoch learns from.

    Without a replay these are all labels, whose counts the loss has. Call it before the step is compiled.
    """
    if data.replay is None or loss.in_batch is None:
        return
    counts = data.replay.label_counts(data.records, videos=data.spec.videos, withheld=data.withheld)
    if counts.any():
        loss.in_batch.labels = VideoDistribution(counts)


def start_from_co_watches(model: Model, data: TrainingData, counts: Vocabulary, settings: TrainingSettings) -> None:
    """Set the tables of a new model from the co-watch counts of the training records."""
    histories = read_histories(data.records, data.spec)
    model.start_from(
        factorise(
            histories,
            label_counts=counts.counts,
            dimension=model.videos.dimension,
            length=data.spec.watch_history,
            seed=settings.seed,
            shared=bool(model.sums),
        )
    )


@dataclass(frozen=True, kw_only=True)
class StepBuilder:
    """Builds training steps with newly initialised variables, all equal."""

    spec: FeatureSpec
    counts: Vocabulary
    model_settings: ModelSettings
    settings: TrainingSettings

    def build(self, replicas: Replicas, category_dimensions: Mapping[str, int]) -> TrainingStep:
        """Return a new step; on several devices, call it in their scope. For the dimensions see `UserTower`."""
        label_counts, seed = self.counts.counts, self.settings.seed
        model = Model(self.spec, self.model_settings, label_counts, seed=seed, category_dimensions=category_dimensions)
        return TrainingStep(
            model, make_loss(self.model_settings, model, label_counts), self.settings, replicas=replicas
        )

    def copy(self, step: TrainingStep) -> TrainingStep:
        """Return a copy of a step with plain variables, which the export needs, whatever devices trained it."""
        copy = self.build(Replicas(), {name: table.dimension for name, table in step.model.tower.tables.items()})
        for variable, trained in zip(copy.variables, step.variables, strict=True):
            variable.assign(trained.read_value())
        copy.set_trends(step.loss.trends)
        return copy


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The labels that a training learns from, and those that early stopping withholds from it."""

    spec: FeatureSpec
    records: RecordFiles
    replay: Replay | None = None  # None: every epoch has all labels
    stopping: StoppingUsers | None = None  # None: no early stopping

    @classmethod
    def open(cls, files: ExampleFiles, settings: TrainingSettings, *, replay: Replay | None) -> TrainingData:
        """Choose the users of early stopping. Raises TrainingError if it is set and there is no such user."""
        records = RecordFiles.from_paths(files.train, cache_bytes=settings.cache_bytes)
        stopping = choose_users(records, files, settings) if settings.early_stopping_epochs else None
        return cls(spec=files.spec, records=records, replay=replay, stopping=stopping)

    def labels_per_epoch(self, epochs: int) -> list[int]:
        """Return how many labels each epoch learns from. Raises TrainingError if there are none."""
        labels = count_labels(self.records)
        if not labels:
            raise TrainingError(
                f"the {len(self.records.paths)} training files hold no labels, so there is nothing to learn from: look "
                "at the counts of the examples stage, and check that watches of the window are completed"
            )
        counts = self.replay.count(self.records, epochs=epochs) if self.replay else [labels] * epochs
        if self.stopping is None:
            return counts
        counts = [count - self._count_withheld(self.stopping, epoch) for epoch, count in enumerate(counts)]
        if not any(counts):
            raise TrainingError(
                "no label is left to learn from, as early stopping withholds the only one: set early_stopping_epochs "
                "to 0 ([training])"
            )
        return counts

    @property
    def withheld(self) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """Which labels of training records, string [records] -> bool [labels], no epoch has; None: all are used."""
        return self.stopping.newest_labels if self.stopping else None

    def _count_withheld(self, stopping: StoppingUsers, epoch: int) -> int:
        """Return how many labels of an epoch early stopping withholds."""
        mask = stopping.newest_labels(stopping.records)
        mask &= self.replay.keeps(stopping.records, epoch) if self.replay else True
        return int(tf.math.count_nonzero(mask))

    def stopping_batches(self) -> tf.data.Dataset | list[Any]:
        """Return the labels of early stopping, in the form of `inputs.one_pointer_batches`; [] without it."""
        if self.stopping is None:
            return []
        return self.stopping.batches(self.spec, batch_size=scoring_batch_size(self.spec))

    def batches(
        self, settings: TrainingSettings, progress: Progress, *, sequences: bool, static: bool
    ) -> tf.data.Dataset:
        """Return the batches that are left of the training, see `inputs.epoch_batches`."""
        batches = epoch_batches(
            self.records,
            self.spec,
            batch_size=settings.batch_size,
            seed=settings.seed,
            epochs=range(progress.epoch, settings.epochs),
            sequences=sequences,
            drop_remainder=static,
            replay=self.replay,
            withheld=self.withheld,
        )
        return batches.skip(progress.batch)


def choose_users(records: RecordFiles, files: ExampleFiles, settings: TrainingSettings) -> StoppingUsers | None:
    """Return the users of early stopping; None if no training record has a label.

    Raises TrainingError if all users with a label are held out.
    """
    held_out = read_user_ids(RecordFiles.from_paths(files.holdout))
    users = choose_stopping_users(records, held_out, seed=settings.seed, limit=settings.holdout_sample)
    if users is None and count_labels(records):
        raise TrainingError(
            f"early_stopping_epochs is {settings.early_stopping_epochs} ([training]) and needs users who are not held "
            "out, but all users with a label are: set it to 0, or lower holdout_users ([examples]) and run the "
            "examples stage again"
        )
    return users


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many labels each epoch learns from, and in how many steps."""

    batch_size: int
    labels: tuple[int, ...]
    steps: tuple[int, ...]

    def examples(self, progress: Progress) -> int:
        """Return how many labels the next step learns from: the last step of an epoch may have fewer."""
        return min(self.batch_size, self.labels[progress.epoch] - progress.batch * self.batch_size)

    def limited_to(self, max_steps: int | None) -> Plan:
        """Return the first `max_steps` steps of the plan, which may end within an epoch; the whole plan for None."""
        if max_steps is None:
            return self
        labels: list[int] = []
        steps: list[int] = []
        for epoch_labels, epoch_steps in zip(self.labels, self.steps, strict=True):
            left = max_steps - sum(steps)
            if not left:
                break
            steps.append(min(epoch_steps, left))
            labels.append(min(epoch_labels, self.batch_size * steps[-1]))
        return replace(self, labels=tuple(labels), steps=tuple(steps))

    @property
    def curve_steps(self) -> int:
        """How many steps a point of the loss curve covers."""
        return max(1, sum(self.steps) // CURVE_POINTS)


def make_plan(labels: list[int], batch_size: int, *, replicas: Replicas) -> Plan:
    """Return the plan for epochs with so many labels each.

    Static shapes leave out the remainder of an epoch. They need a batch size that is a multiple of the devices and at
    most the labels of an epoch; otherwise raises TrainingError.
    """
    if not replicas.static:
        steps = tuple(math.ceil(count / batch_size) for count in labels)
        return Plan(batch_size=batch_size, labels=tuple(labels), steps=steps)
    if batch_size % replicas.count or min(labels) < batch_size:
        raise TrainingError(
            f"on a TPU batch_size must be a multiple of its {replicas.count} cores and at most the {min(labels)} "
            f"labels of an epoch, as every step has the same shape, but is {batch_size} ([training])"
        )
    steps = tuple(count // batch_size for count in labels)
    return Plan(batch_size=batch_size, labels=tuple(batch_size * count for count in steps), steps=steps)


@dataclass(frozen=True, kw_only=True)
class _TrainingLoop:
    """Everything about one training that does not change from step to step."""

    settings: TrainingSettings
    replicas: Replicas
    step: Callable[[Parts], tf.Tensor]
    plan: Plan
    decay: LinearDecay | None
    holdout: RecallEvaluator
    stopping: RecallEvaluator
    checkpoints: Checkpoints
    writer: tf.summary.SummaryWriter

    def run(self, batches: Iterator[Parts], progress: Progress) -> None:
        """Take all steps that are left."""
        labels, silent = sum(self.plan.labels), None if self.replicas.chief else True
        with tqdm(total=labels, initial=progress.examples, unit=" examples", unit_scale=True, disable=silent) as bar:
            while not self._finished(progress):
                bar.set_description(f"epoch {progress.epoch + 1}/{len(self.plan.steps)}")
                self._run_epoch(batches, progress, bar)
                self._end_epoch(progress)

    def _finished(self, progress: Progress) -> bool:
        patience, minutes = self.settings.early_stopping_epochs, self.settings.minutes
        finished = progress.finished(epochs=len(self.plan.steps), patience=patience, minutes=minutes)
        return self.replicas.broadcast(finished) if patience or minutes else finished  # the chief measures

    def _out_of_time(self, progress: Progress) -> bool:
        minutes = self.settings.minutes
        return minutes is not None and self.replicas.broadcast(progress.out_of_time(minutes))

    def _run_epoch(self, batches: Iterator[Parts], progress: Progress, bar: tqdm) -> None:
        """Take the steps that are left of an epoch, or until the time is over."""
        while progress.batch < self.plan.steps[progress.epoch] and not self._out_of_time(progress):
            start, examples = time.perf_counter(), self.plan.examples(progress)
            batch = next(batches)
            arrived = time.perf_counter()
            loss = float(self.step(batch))
            self._check(loss, progress.steps + 1)
            seconds = time.perf_counter() - start
            progress.add_step(loss=loss, examples=examples, seconds=seconds, waiting_seconds=arrived - start)
            bar.update(examples)
            self._record(progress, bar)

    def _end_epoch(self, progress: Progress) -> None:
        progress.end_epoch()
        if progress.loss_steps:
            progress.add_point()
        if self.replicas.chief:
            self._measure(progress)
        self.checkpoints.save(progress)

    def _measure(self, progress: Progress) -> None:
        for name, evaluator, curve in (
            ("holdout", self.holdout, progress.holdout),
            ("stopping", self.stopping, progress.stopping),
        ):
            if figures := evaluator.measure():
                curve.append({"epoch": progress.epoch, **figures})
                self._write({f"{name}/{figure}": value for figure, value in figures.items()}, progress.steps)
        # Before the epoch's checkpoint: after an interruption between the two, the epoch ends again with the same
        # figures.
        if progress.stopping and progress.best_epoch == progress.epoch:
            self.checkpoints.save_best(progress)

    def _record(self, progress: Progress, bar: tqdm) -> None:
        if progress.steps % self.plan.curve_steps == 0:
            point = progress.add_point()
            bar.set_postfix(loss=f"{point['loss']:.3f}")
            self._write(self._scalars(progress), progress.steps)
        if progress.steps % self.settings.checkpoint_steps == 0:
            self.checkpoints.save(progress)

    def _scalars(self, progress: Progress) -> dict[str, float]:
        """Return the values of the newest curve point for TensorBoard."""
        point = progress.losses[-1]
        before = progress.losses[-2] if len(progress.losses) > 1 else {"examples": 0, "seconds": 0.0}
        seconds = max(point["seconds"] - before["seconds"], 1e-9)
        factor = float(self.decay.factor(self.decay.first + progress.steps)) if self.decay else 1.0
        return {
            "loss": point["loss"],
            "examples_per_second": (point["examples"] - before["examples"]) / seconds,
            "waiting_share": progress.waiting_share,
            "learning_rate/tables": factor * self.settings.table_learning_rate,
            "learning_rate/tower": factor * self.settings.tower_learning_rate,
        }

    def _check(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss must be finite, but is {loss} at step {step}: lower table_learning_rate or "
                f"tower_learning_rate ([training]); last good checkpoint: {self.checkpoints.latest or 'none yet'}"
            )

    def _write(self, scalars: Mapping[str, float], step: int) -> None:
        with self.writer.as_default():
            for name, value in scalars.items():
                tf.summary.scalar(name, value, step=step)
        self.writer.flush()
