"""One step of training: loss, gradients of the rows used, and both optimisers."""

from __future__ import annotations

from typing import Any

from trainer.config import TrainingSettings
from trainer.distribution import SHARE, Replicas
from trainer.inputs import Batch
from trainer.losses import Loss
from trainer.model import Model
from trainer.optimizer import Adam, RowwiseAdagrad, count_up
from trainer.seeds import seed_of
from transforms.core.tensorflow_import import tf


class TrainingStep(tf.Module):
    """Everything a step changes; what a checkpoint holds."""

    def __init__(
        self, model: Model, loss: Loss[Any], settings: TrainingSettings, *, replicas: Replicas | None = None
    ) -> None:
        """`replicas`: those that will make this step together; itself alone if left out."""
        super().__init__(name="training_step")
        self.model, self.loss, self._replicas = model, loss, replicas or Replicas()
        tables = {**model.tables, **loss.tables}
        for table in tables.values():
            table.static = self._replicas.static
        self.adagrad = RowwiseAdagrad(tables, learning_rate=settings.table_learning_rate, replicas=self._replicas)
        self.adam = Adam(model.tower.dense_variables, learning_rate=settings.tower_learning_rate)
        self.steps = tf.Variable(0, dtype=tf.int32, trainable=False, name="steps")
        self.seeds = {purpose: seed_of(settings.seed, purpose)[0] for purpose in ("negatives", "dropout")}

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Learns from one batch and gives its mean loss before that; NaN where a gradient is.

        What it draws depends on seed and step alone; what it drops, on the replica too. On several replicas `batch` is
        a part of the batch (`distribution.part_of`), and the loss that of the whole.
        """
        labels = batch["label"]
        used = self.model.tower.embed(batch)
        rows = {name: embedded.rows for name, embedded in used.items()}
        variables = self.model.tower.dense_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([rows, variables])
            users = self.model.tower.vectors(batch, used, dropout_seed=self._seed("dropout", self._replicas.number()))
            with tape.stop_recording():  # which rows are compared with may depend on the users: the hard negatives do
                candidates = self.loss.candidates(labels, users, seed=self._seed("negatives"))
            used |= candidates.used
            rows |= {name: embedded.rows for name, embedded in candidates.used.items()}
            tape.watch(rows)
            loss = self.loss(users, labels, candidates) * batch.get(SHARE, 1.0)
        row_gradients, gradients = tape.gradient(loss, [rows, variables])
        for name, gradient in row_gradients.items():
            self.adagrad.apply(name, used[name], gradient)
        loss, *gradients = self._replicas.sum([loss, *gradients])
        self.adam.apply(gradients)
        count_up(self.steps)
        # A ReLU turns NaN into 0, so a loss can look sound while the gradient is not: 0 times it is 0, or NaN.
        return loss + 0 * tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])

    def _seed(self, purpose: str, number: tf.Tensor | int = 0) -> tf.Tensor:
        return tf.stack([tf.constant(self.seeds[purpose]) + number, self.steps])
