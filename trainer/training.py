"""The loop: passes over the examples, the loss curve, holdout figures after each pass, checkpoints.

Everything drawn at random depends on the seed and on the place in the training alone, so a training that was killed and
taken up from its last checkpoint follows the curve of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from trainer.config import ModelSettings, TrainingSettings
from trainer.distribution import Replicas
from trainer.errors import TrainingError
from trainer.examples import ExampleFiles, LabelCounts, read_names
from trainer.holdout import Holdout, Recall, users_at_once
from trainer.inputs import count_labels, epoch_batches
from trainer.losses import make_loss
from trainer.model import Model
from trainer.progress import Checkpoints, Progress
from trainer.record_files import RecordFiles
from trainer.replay import Replay
from trainer.step import TrainingStep
from trainer.stopping import Stopping, choose, user_ids
from trainer.warm_start import Earlier, Start, begin
from transforms.core.tensorflow_import import tf

CURVE_POINTS = 200  # about how many points of the loss curve a training leaves, however long it is


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A training that is over: all that it learned, how it went, and what it began with."""

    step: TrainingStep
    progress: Progress
    start: Start

    @property
    def model(self) -> Model:
        return self.step.model


def fit(
    files: ExampleFiles,
    counts: LabelCounts,
    *,
    model_settings: ModelSettings,
    settings: TrainingSettings,
    checkpoints: str,
    logs: str,
    earlier: Earlier | None = None,
    replicas: Replicas | None = None,
    saved: Callable[[], object] | None = None,
) -> Fitted:
    """Trains a model and says how it went. Takes up the newest of `checkpoints` (a folder) where there is one.

    `logs`: folder for TensorBoard. `earlier`: the model to go on from, if its shape allows. `replicas`: the devices.
    `saved`: called after each checkpoint. Raises TrainingError: no label, no users to stop by, a loss of NaN.
    """
    replicas = replicas or Replicas()
    build = partial(_build, files, counts, model_settings, settings)
    with replicas.scope():
        step, start = begin(earlier, partial(build, replicas), spec=files.spec, settings=model_settings)
    settings, replay = start.settings_of(settings), start.replay(settings.replay_fraction)
    records = RecordFiles.of(files.train, cache_bytes=settings.cache_bytes)
    stopping = stopping_users(records, files, settings)
    kept = Checkpoints(checkpoints, step, writes=replicas.chief, saved=saved)
    progress = kept.restore()
    if kept.latest is None:
        start.carry_over(step, read_names(files, counts), damping=settings.accumulator_damping)
    run = _Run(
        settings=settings,
        replicas=replicas,
        step=replicas.compiled(step),
        plan=_plan(labels_of_passes(records, replay, settings.epochs, stopping), settings, replicas).within(
            settings.max_steps
        ),
        stopping=Recall(
            step.model.tower,
            step.loss.scores,
            stopping.batches(files.spec, batch_size=users_at_once(files.spec)) if stopping else [],
        ),
        holdout=Holdout(step.model.tower, step.loss.scores, files.holdout, files.spec, users=settings.holdout_sample),
        checkpoints=kept,
        writer=tf.summary.create_file_writer(logs) if replicas.chief else tf.summary.create_noop_writer(),
    )
    batches = epoch_batches(
        records,
        files.spec,
        batch_size=settings.batch_size,
        seed=settings.seed,
        epochs=range(progress.epoch, settings.epochs),
        # How many rows share the labels of a batch is known only with its values: static shapes read windows instead.
        sequences=step.model.tower.encoder.sequences and not replicas.static,
        drop_remainder=replicas.static,
        replay=replay,
        withheld=stopping.marks if stopping else None,
    )
    run.passes(replicas.deal(batches.skip(progress.batch)), progress)
    if settings.early_stopping_epochs and replicas.chief:
        kept.restore_best()
    return Fitted(step=step if replicas.alone else _plain(step, build), progress=progress, start=start)


def _plain(step: TrainingStep, build: Callable[[Replicas, Mapping[str, int]], TrainingStep]) -> TrainingStep:
    """The step with plain variables: what is exported and read by others has them, wherever it was trained."""
    found = build(Replicas(), {name: table.dimension for name, table in step.model.tower.tables.items()})
    for plain, variable in zip(found.variables, step.variables, strict=True):
        plain.assign(variable.read_value())
    return found


def _build(
    files: ExampleFiles,
    counts: LabelCounts,
    model_settings: ModelSettings,
    settings: TrainingSettings,
    replicas: Replicas,
    category_dimensions: Mapping[str, int],
) -> TrainingStep:
    """A step with variables as drawn; on several devices to be called in their scope."""
    model = Model(
        files.spec, model_settings, counts.counts, seed=settings.seed, category_dimensions=category_dimensions
    )
    return TrainingStep(model, make_loss(model_settings, model, counts.counts), settings, replicas=replicas)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many labels each pass learns from, and in how many steps."""

    batch_size: int
    labels: tuple[int, ...]
    steps: tuple[int, ...]

    def examples(self, progress: Progress) -> int:
        """How many labels the next step learns from: the last of a pass may have fewer."""
        return min(self.batch_size, self.labels[progress.epoch] - progress.batch * self.batch_size)

    def within(self, steps: int | None) -> Plan:
        """The plan as far as its first `steps` steps, the last pass cut short where they end in it; all with None."""
        if steps is None:
            return self
        labels: list[int] = []
        taken: list[int] = []
        for of_pass, steps_of_pass in zip(self.labels, self.steps, strict=True):
            left = steps - sum(taken)
            if not left:
                break
            taken.append(min(steps_of_pass, left))
            labels.append(min(of_pass, self.batch_size * taken[-1]))
        return Plan(batch_size=self.batch_size, labels=tuple(labels), steps=tuple(taken))

    @property
    def curve_steps(self) -> int:
        """How many steps make a point of the loss curve."""
        return max(1, sum(self.steps) // CURVE_POINTS)


def _plan(labels: list[int], settings: TrainingSettings, replicas: Replicas) -> Plan:
    size = settings.batch_size
    if not replicas.static:
        return Plan(batch_size=size, labels=tuple(labels), steps=tuple(math.ceil(of_pass / size) for of_pass in labels))
    if size % replicas.count or min(labels) < size:
        raise TrainingError(
            f"on a TPU batch_size must be a multiple of its {replicas.count} cores and at most the {min(labels)} "
            f"labels of a pass, as every step has the same shape, but is {size} ([training])"
        )
    steps = tuple(of_pass // size for of_pass in labels)
    return Plan(batch_size=size, labels=tuple(size * of_pass for of_pass in steps), steps=steps)


def stopping_users(records: RecordFiles, files: ExampleFiles, settings: TrainingSettings) -> Stopping | None:
    """The users of early stopping; None without early stopping. Raises TrainingError if there is no such user."""
    if not settings.early_stopping_epochs:
        return None
    held_out = user_ids(RecordFiles.of(files.holdout))
    stopping = choose(records, held_out, seed=settings.seed, most=settings.holdout_sample)
    if stopping is None and count_labels(records):
        raise TrainingError(
            f"early_stopping_epochs is {settings.early_stopping_epochs} ([training]) and needs users who are not held "
            "out, but all users with a label are: set it to 0, or lower holdout_users ([examples]) and run the "
            "examples stage again"
        )
    return stopping


def labels_of_passes(
    files: RecordFiles, replay: Replay | None, epochs: int, stopping: Stopping | None = None
) -> list[int]:
    """How many labels each pass learns from. Raises TrainingError if there is not a single one."""
    labels = count_labels(files)
    if not labels:
        raise TrainingError(
            f"the {len(files.paths)} training files hold not a single label, so there is nothing to learn from: "
            "look at the counts of the examples stage, and whether any watch of the window is completed"
        )
    passes = replay.count(files, epochs=epochs) if replay else [labels] * epochs
    if stopping is not None:
        withheld = stopping.marks(stopping.records)
        kept = [replay.keeps(stopping.records, epoch) if replay else True for epoch in range(epochs)]
        passes = [n - int(tf.math.count_nonzero(withheld & of)) for n, of in zip(passes, kept, strict=True)]
        if not any(passes):
            raise TrainingError(
                "no label is left to learn from, as early stopping withholds the only one: set early_stopping_epochs "
                "to 0 ([training])"
            )
    return passes


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What stays the same from step to step of one training."""

    settings: TrainingSettings
    replicas: Replicas
    step: Callable[[Any], tf.Tensor]
    plan: Plan
    holdout: Recall
    stopping: Recall
    checkpoints: Checkpoints
    writer: tf.summary.SummaryWriter

    def passes(self, batches: Iterator[Any], progress: Progress) -> None:
        """All that is left of the training."""
        labels, silent = sum(self.plan.labels), None if self.replicas.chief else True
        with tqdm(total=labels, initial=progress.examples, unit=" examples", unit_scale=True, disable=silent) as bar:
            while not self._over(progress):
                bar.set_description(f"epoch {progress.epoch + 1}/{len(self.plan.steps)}")
                self._pass(batches, progress, bar)
                self._end_epoch(progress)

    def _over(self, progress: Progress) -> bool:
        """The chief alone measures, and all stop when it does."""
        patience = self.settings.early_stopping_epochs
        over = progress.over(epochs=len(self.plan.steps), patience=patience)
        return self.replicas.agreed(over) if patience else over

    def _pass(self, batches: Iterator[Any], progress: Progress, bar: tqdm) -> None:
        """What is left of a pass."""
        while progress.batch < self.plan.steps[progress.epoch]:
            start, examples = time.perf_counter(), self.plan.examples(progress)
            batch = next(batches)
            arrived = time.perf_counter()
            loss = float(self.step(batch))
            self._check(loss, progress.steps + 1)
            progress.seen(
                loss=loss,
                examples=examples,
                seconds=time.perf_counter() - start,
                waiting_seconds=arrived - start,
            )
            bar.update(examples)
            self._record(progress, bar)

    def _end_epoch(self, progress: Progress) -> None:
        progress.end_epoch()
        if progress.loss_steps:
            progress.add_point()
        if self.replicas.chief:
            for name, recall, found in (
                ("holdout", self.holdout, progress.holdout),
                ("stopping", self.stopping, progress.stopping),
            ):
                if figures := recall.measure():
                    found.append({"epoch": progress.epoch, **figures})
                    self._write({f"{name}/{figure}": value for figure, value in figures.items()}, progress.steps)
            # Before the checkpoint of the pass: after a kill between them the pass ends anew, with the same figures.
            if progress.stopping and progress.best_epoch == progress.epoch:
                self.checkpoints.save_best(progress)
        self.checkpoints.save(progress)

    def _record(self, progress: Progress, bar: tqdm) -> None:
        if progress.steps % self.plan.curve_steps == 0:
            point = progress.add_point()
            bar.set_postfix(loss=f"{point['loss']:.3f}")
            self._write(self._scalars(progress), progress.steps)
        if progress.steps % self.settings.checkpoint_steps == 0:
            self.checkpoints.save(progress)

    def _scalars(self, progress: Progress) -> dict[str, float]:
        """What TensorBoard shows of the last point of the curve."""
        begin = {"examples": 0, "seconds": 0.0}
        before, point = ([begin, begin, *progress.losses])[-2:]
        seconds = max(point["seconds"] - before["seconds"], 1e-9)
        return {
            "loss": point["loss"],
            "examples_per_second": (point["examples"] - before["examples"]) / seconds,
            "waiting_share": progress.waiting_seconds / max(progress.seconds, 1e-9),
            "learning_rate/tables": self.settings.table_learning_rate,
            "learning_rate/tower": self.settings.tower_learning_rate,
        }

    def _check(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss must stay a number, but is {loss} at step {step}: lower table_learning_rate or "
                f"tower_learning_rate ([training]); last good checkpoint: {self.checkpoints.latest or 'none yet'}"
            )

    def _write(self, scalars: dict[str, float], step: int) -> None:
        with self.writer.as_default():
            for name, value in scalars.items():
                tf.summary.scalar(name, value, step=step)
        self.writer.flush()
