"""How far a training has come, and the checkpoints that it can be taken up from after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.step import TrainingStep
from transforms.core.tensorflow_import import tf

KEPT = 2  # checkpoints on disk: the newest, and the one before it until the newest is whole
FIGURE = "recall@50"  # the figure that says which pass was the best


@dataclass(kw_only=True)
class Progress:
    """Where a training stands, and its curve so far."""

    epoch: int = 0  # passes that are over
    batch: int = 0  # batches seen of the pass that is not over
    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    waiting_seconds: float = 0.0  # of `seconds`, those spent waiting for input
    loss_sum: float = 0.0  # over the steps since the last point of the curve
    loss_steps: int = 0
    losses: list[dict[str, Any]] = field(default_factory=list)  # step, examples, loss, seconds
    holdout: list[dict[str, Any]] = field(default_factory=list)  # epoch, recall@k and the other figures
    stopping: list[dict[str, Any]] = field(default_factory=list)  # the same of the users of early stopping

    def seen(self, *, loss: float, examples: int, seconds: float, waiting_seconds: float) -> None:
        """Counts one step."""
        self.batch += 1
        self.steps += 1
        self.examples += examples
        self.seconds += seconds
        self.waiting_seconds += waiting_seconds
        self.loss_sum += loss
        self.loss_steps += 1

    def add_point(self) -> dict[str, Any]:
        """Closes a point of the curve: the mean loss of the steps since the last one."""
        point = {
            "step": self.steps,
            "examples": self.examples,
            "loss": self.loss_sum / self.loss_steps,
            "seconds": round(self.seconds, 3),
        }
        self.losses.append(point)
        self.loss_sum, self.loss_steps = 0.0, 0
        return point

    def end_epoch(self) -> None:
        self.epoch, self.batch = self.epoch + 1, 0

    @property
    def best_epoch(self) -> int:
        """The pass after which `FIGURE` was highest, the first of equals; 0 if none was measured. That of the users of
        early stopping; without it, that of held-out users."""
        best = max(self.stopping or self.holdout, key=lambda figures: figures[FIGURE], default={"epoch": 0})
        return int(best["epoch"])

    def over(self, *, epochs: int, patience: int) -> bool:
        """Whether all passes are done, or `FIGURE` has not risen for `patience` of them (0: never mind)."""
        waited = self.epoch - self.best_epoch if self.stopping else 0
        return self.epoch >= epochs or (patience > 0 and waited >= patience)


class Checkpoints:
    """The checkpoints of one training. Progress is a variable among the others, so both are written as one.

    A checkpoint counts once the folder's `checkpoint` file names it, and that is replaced after all else is written: of
    one that a kill left half-written nothing is read. With several hosts all read them and only the chief writes.
    `saved` is called after each.
    """

    def __init__(
        self, folder: str, step: TrainingStep, *, writes: bool = True, saved: Callable[[], object] | None = None
    ) -> None:
        self._writes, self._saved = writes, saved
        self._text = tf.Variable("", dtype=tf.string, trainable=False)
        self._checkpoint = tf.train.Checkpoint(step=step, progress=self._text)
        self._manager = tf.train.CheckpointManager(self._checkpoint, folder, max_to_keep=KEPT)
        self._best = tf.train.CheckpointManager(self._checkpoint, f"{folder}/best", max_to_keep=1)

    @property
    def latest(self) -> str | None:
        """The path of the newest checkpoint; None before the first."""
        path: str | None = self._manager.latest_checkpoint
        return path

    def restore(self) -> Progress:
        """Takes up the newest checkpoint; the beginning where there is none."""
        if self.latest is None:
            return Progress()
        self._checkpoint.restore(self.latest).assert_consumed()
        return Progress(**json.loads(self._text.numpy()))

    def save(self, progress: Progress) -> None:
        self._save(self._manager, progress)

    def save_best(self, progress: Progress) -> None:
        """Keeps what is learned by now as the best, in place of what was."""
        self._save(self._best, progress)

    def restore_best(self) -> None:
        """Takes up what `save_best` kept; its progress is the caller's to forget."""
        self._checkpoint.restore(tf.train.latest_checkpoint(self._best.directory)).assert_consumed()

    def _save(self, manager: tf.train.CheckpointManager, progress: Progress) -> None:
        if self._writes:
            self._text.assign(json.dumps(asdict(progress)))
            manager.save(checkpoint_number=progress.steps)
            if self._saved:
                self._saved()
