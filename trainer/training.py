"""The loop: passes over the examples, the loss curve, holdout figures after each pass, checkpoints.

Everything drawn at random depends on the seed and on the place in the training alone, so a training that was killed and
taken up from its last checkpoint follows the curve of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from trainer.config import ModelSettings, TrainingSettings
from trainer.errors import TrainingError
from trainer.examples import ExampleFiles, LabelCounts
from trainer.holdout import Holdout
from trainer.inputs import Batch, count_labels, epoch_batches
from trainer.losses import NegativeSampler
from trainer.model import Model
from trainer.progress import Checkpoints, Progress
from trainer.quiet import tf
from trainer.step import TrainingStep

CURVE_POINTS = 200  # about how many points of the loss curve a training leaves, however long it is


def fit(
    files: ExampleFiles,
    counts: LabelCounts,
    *,
    model_settings: ModelSettings,
    settings: TrainingSettings,
    checkpoints: str,
    logs: str,
) -> tuple[Model, Progress]:
    """Trains a model and says how it went. Takes up the newest of `checkpoints` (a folder) where there is one.

    `logs`: folder for TensorBoard. Raises TrainingError without a single label,
    and where the loss stops being a number.
    """
    labels = count_labels(files.train)
    if not labels:
        raise TrainingError(
            f"the {len(files.train)} training files hold not a single label, so there is nothing to learn from: "
            "look at the counts of the examples stage, and whether any watch of the window is completed"
        )
    model = Model(files.spec, model_settings, counts.counts, seed=settings.seed)
    step = TrainingStep(model, NegativeSampler(counts.counts), model_settings, settings)
    kept = Checkpoints(checkpoints, step)
    progress = kept.restore()
    run = _Run(
        files,
        settings,
        tf.function(step, reduce_retracing=True, autograph=False),
        Holdout(model, files.holdout, files.spec, users=settings.holdout_sample),
        kept,
        tf.summary.create_file_writer(logs),
    )
    run.epoch_steps = math.ceil(labels / settings.batch_size)
    run.curve_steps = max(1, run.epoch_steps * settings.epochs // CURVE_POINTS)
    batches = run.batches(progress)
    with tqdm(
        total=labels * settings.epochs, initial=progress.examples, unit=" examples", unit_scale=True, disable=None
    ) as bar:
        while progress.epoch < settings.epochs:
            bar.set_description(f"epoch {progress.epoch + 1}/{settings.epochs}")
            run.epoch(batches, progress, bar)
            run.end_epoch(progress)
    return model, progress


class _Run:
    """What stays the same from epoch to epoch of one training."""

    def __init__(
        self,
        files: ExampleFiles,
        settings: TrainingSettings,
        step: Callable[[Batch], tf.Tensor],
        holdout: Holdout,
        checkpoints: Checkpoints,
        writer: tf.summary.SummaryWriter,
    ) -> None:
        self.files, self.settings, self.step = files, settings, step
        self.holdout, self.checkpoints, self.writer = holdout, checkpoints, writer
        self.epoch_steps = self.curve_steps = 1

    def batches(self, progress: Progress) -> Iterator[Batch]:
        """All that is left of the training: the batches that a checkpoint has already seen are skipped."""
        batches = epoch_batches(
            self.files.train,
            self.files.spec,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            epochs=range(progress.epoch, self.settings.epochs),
        )
        return iter(batches.skip(progress.batch))

    def epoch(self, batches: Iterator[Batch], progress: Progress, bar: tqdm) -> None:
        """What is left of a pass."""
        while progress.batch < self.epoch_steps:
            start = time.perf_counter()
            batch = next(batches)
            arrived = time.perf_counter()
            loss = float(self.step(batch))
            self._check(loss, progress.steps + 1)
            examples = int(batch["label"].shape[0])
            progress.seen(
                loss=loss,
                examples=examples,
                seconds=time.perf_counter() - start,
                waiting_seconds=arrived - start,
            )
            bar.update(examples)
            self._record(progress, bar)

    def end_epoch(self, progress: Progress) -> None:
        progress.end_epoch()
        if progress.loss_steps:
            progress.add_point()
        figures = self.holdout.measure()
        if figures:
            progress.holdout.append({"epoch": progress.epoch, **figures})
            self._write({f"holdout/{name}": value for name, value in figures.items()}, progress.steps)
        self.checkpoints.save(progress)

    def _record(self, progress: Progress, bar: tqdm) -> None:
        if progress.steps % self.curve_steps == 0:
            point = progress.add_point()
            bar.set_postfix(loss=f"{point['loss']:.3f}")
            self._write({"loss": point["loss"]}, progress.steps)
        if progress.steps % self.settings.checkpoint_steps == 0:
            self.checkpoints.save(progress)

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
