"""The progress of a training, and the checkpoints that an interrupted training resumes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TypedDict

from trainer.step import TrainingStep
from transforms.core.tensorflow_import import tf

MAX_TO_KEEP = 2  # checkpoints: the newest, and the one before it until the newest is complete
STOPPING_METRIC = "recall@50"  # the best epoch has the highest


class CurvePoint(TypedDict):
    """A point of the loss curve: the mean loss of the steps since the point before it."""

    step: int
    examples: int
    loss: float
    seconds: float


@dataclass(kw_only=True)
class Progress:
    """How far a training has come, and its curves so far. A checkpoint holds it as JSON, under these field names."""

    epoch: int = 0  # completed epochs
    batch: int = 0  # batches of the current epoch that are done
    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    waiting_seconds: float = 0.0  # part of `seconds`: waiting for input
    loss_sum: float = 0.0  # over the steps since the last point of the curve
    loss_steps: int = 0
    losses: list[CurvePoint] = field(default_factory=list)
    holdout: list[dict[str, float]] = field(default_factory=list)  # epoch, recall@k and the other figures
    stopping: list[dict[str, float]] = field(default_factory=list)  # the same for the users of early stopping

    def add_step(self, *, loss: float, examples: int, seconds: float, waiting_seconds: float) -> None:
        """Count one step."""
        self.batch += 1
        self.steps += 1
        self.examples += examples
        self.seconds += seconds
        self.waiting_seconds += waiting_seconds
        self.loss_sum += loss
        self.loss_steps += 1

    def add_point(self) -> CurvePoint:
        """Append a point to the loss curve and return it."""
        point: CurvePoint = {
            "step": self.steps,
            "examples": self.examples,
            "loss": self.loss_sum / self.loss_steps,
            "seconds": round(self.seconds, 3),
        }
        self.losses.append(point)
        self.loss_sum, self.loss_steps = 0.0, 0
        return point

    def end_epoch(self) -> None:
        """Count one epoch."""
        self.epoch, self.batch = self.epoch + 1, 0

    @property
    def waiting_share(self) -> float:
        """The share of the time that was spent waiting for input."""
        return round(self.waiting_seconds / max(self.seconds, 1e-9), 4)

    @property
    def best_epoch(self) -> int:
        """The first epoch with the highest `STOPPING_METRIC`, from 1; 0 if none was measured.

        Measured on the users of early stopping; without early stopping, on held-out users.
        """
        best = max(self.stopping or self.holdout, key=lambda figures: figures[STOPPING_METRIC], default={"epoch": 0})
        return int(best["epoch"])

    def finished(self, *, epochs: int, patience: int, minutes: float | None = None) -> bool:
        """Return whether all epochs are done, the metric has not risen for `patience` of them (0: no limit), or the
        minutes are over at the end of an epoch."""
        waited = self.epoch - self.best_epoch if self.stopping else 0
        ended_early = self.epoch > 0 and self.batch == 0 and self.out_of_time(minutes)
        return self.epoch >= epochs or (patience > 0 and waited >= patience) or ended_early

    def out_of_time(self, minutes: float | None) -> bool:
        """Return whether the steps took at least so many minutes, interrupted attempts included (None: no limit)."""
        return minutes is not None and self.seconds >= 60 * minutes


class Checkpoints:
    """The checkpoints of one training. Progress is one of the variables, so that both are written together.

    A checkpoint counts once the folder's `checkpoint` file names it. That file is replaced after all others are
    written, so an incomplete checkpoint is never read. All hosts read them, and only the chief writes.
    """

    def __init__(
        self, folder: str, step: TrainingStep, *, writes: bool = True, on_save: Callable[[], object] | None = None
    ) -> None:
        self._writes, self._on_save = writes, on_save
        self._text = tf.Variable("", dtype=tf.string, trainable=False)
        self._checkpoint = tf.train.Checkpoint(step=step, progress=self._text)
        self._manager = tf.train.CheckpointManager(self._checkpoint, folder, max_to_keep=MAX_TO_KEEP)
        self._best = tf.train.CheckpointManager(self._checkpoint, f"{folder}/best", max_to_keep=1)

    @property
    def latest(self) -> str | None:
        """The path of the newest checkpoint; None if there is none yet."""
        path: str | None = self._manager.latest_checkpoint
        return path

    def restore(self) -> Progress:
        """Restore the newest checkpoint and return its progress; new progress if there is none."""
        if self.latest is None:
            return Progress()
        self._checkpoint.restore(self.latest).assert_consumed()
        return Progress(**json.loads(self._text.numpy()))

    def save(self, progress: Progress) -> None:
        """Write a checkpoint."""
        self._save(self._manager, progress)

    def save_best(self, progress: Progress) -> None:
        """Write the checkpoint of the best epoch, in place of the one before it."""
        self._save(self._best, progress)

    def restore_best(self) -> None:
        """Restore the variables, but not the progress, that `save_best` wrote."""
        self._checkpoint.restore(tf.train.latest_checkpoint(self._best.directory)).assert_consumed()

    def _save(self, manager: tf.train.CheckpointManager, progress: Progress) -> None:
        if self._writes:
            self._text.assign(json.dumps(asdict(progress)))
            manager.save(checkpoint_number=progress.steps)
            if self._on_save:
                self._on_save()
