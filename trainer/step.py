"""One training step: the loss, the gradients of the rows used, and both optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.batch import LABEL, SHARE, Batch
from trainer.config import TrainingSettings
from trainer.distribution import Replicas
from trainer.losses import Loss
from trainer.model import Model
from trainer.optimizer import Adam, RowwiseAdagrad, increment
from trainer.seeds import derive_seed
from trainer.trends import Trends
from transforms.core.tensorflow_import import tf

LAST_FACTOR = 0.02  # of the learning rates at the end of a linear decay


@dataclass(frozen=True, kw_only=True)
class LinearDecay:
    """A factor of the learning rates that falls linearly over the steps of a training."""

    first: int  # steps before the training: those of the models that it started from
    steps: int  # planned steps of the training

    def factor(self, step: tf.Tensor | int) -> tf.Tensor:
        """Return the factor for a number of steps taken, float []: from 1 to `LAST_FACTOR`."""
        taken = tf.cast(step - self.first, tf.float32) / self.steps
        return tf.maximum(1 - taken, LAST_FACTOR)


class TrainingStep(tf.Module):
    """Everything that a step changes, and so what a checkpoint holds."""

    def __init__(
        self, model: Model, loss: Loss[Any], settings: TrainingSettings, *, replicas: Replicas | None = None
    ) -> None:
        """`replicas`: the devices that take this step together; one device if omitted."""
        super().__init__(name="training_step")
        self.model, self.loss, self._replicas = model, loss, replicas or Replicas()
        tables = {**model.tables, **loss.tables}
        for table in tables.values():
            table.static = self._replicas.static
        self.adagrad = RowwiseAdagrad(
            tables, learning_rate=settings.table_learning_rate, sums=model.sums, replicas=self._replicas
        )
        self.adam = Adam(model.tower.dense_variables, learning_rate=settings.tower_learning_rate)
        self.steps = tf.Variable(0, dtype=tf.int32, trainable=False, name="steps")
        self.decay: LinearDecay | None = None  # of the learning rates; None: they are constant
        self.seeds = {purpose: derive_seed(settings.seed, purpose)[0] for purpose in ("negatives", "dropout")}

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Learn from one batch and return its mean loss before the update; NaN if a gradient is NaN.

        Draws depend only on the seed and the number of the step; dropout also on the replica. On several replicas
        `batch` is a part of the batch (`distribution.batch_part`), and the loss that of the whole batch.
        """
        labels, dropout_seed = batch[LABEL], self._seed("dropout", self._replicas.number())
        used = self.model.tower.embed(batch, dropout_seed=dropout_seed)
        rows = {name: embedded.rows for name, embedded in used.items()}
        variables = self.model.tower.dense_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([rows, variables])
            users = self.model.tower.vectors(batch, used, dropout_seed=dropout_seed)
            with tape.stop_recording():  # the choice of rows may depend on the user vectors: hard negatives do
                candidates = self.loss.candidates(labels, users, seed=self._seed("negatives"))
            used |= candidates.used
            rows |= {name: embedded.rows for name, embedded in candidates.used.items()}
            tape.watch(rows)
            loss = self.loss(users, labels, candidates) * batch.get(SHARE, 1.0)
        row_gradients, gradients = tape.gradient(loss, [rows, variables])
        factor = self.decay.factor(self.steps) if self.decay else 1.0
        for name, gradient in row_gradients.items():
            self.adagrad.apply(name, used[name], gradient, factor=factor)
        loss, *gradients = self._replicas.sum([loss, *gradients])
        self.adam.apply(gradients, factor=factor)
        increment(self.steps)
        return nan_unless_finite(loss, gradients)

    def set_trends(self, trends: Trends | None) -> None:
        """Set the trends of the videos, which a model with `trends` needs before its first step."""
        self.model.tower.trends = self.loss.trends = trends

    def _seed(self, purpose: str, offset: tf.Tensor | int = 0) -> tf.Tensor:
        return tf.stack([tf.constant(self.seeds[purpose]) + offset, self.steps])


def nan_unless_finite(loss: tf.Tensor, gradients: list[tf.Tensor]) -> tf.Tensor:
    """Return the loss, or NaN if a gradient is not finite.

    A ReLU turns NaN into 0, so that a loss can be finite while its gradient is not. 0 times a finite number is 0.
    """
    return loss + 0 * tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])
