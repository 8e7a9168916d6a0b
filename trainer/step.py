"""One step of training: negatives drawn, loss, gradients of the rows used, and both optimisers."""

from __future__ import annotations

from trainer.config import ModelSettings, TrainingSettings
from trainer.inputs import Batch
from trainer.losses import Compared, NegativeSampler, sampled_softmax
from trainer.model import Model
from trainer.optimizer import Adam, RowwiseAdagrad
from trainer.quiet import tf
from trainer.seeds import seed_of
from trainer.tables import Embedded


class TrainingStep(tf.Module):
    """Everything a step changes; what a checkpoint holds."""

    def __init__(
        self, model: Model, sampler: NegativeSampler, model_settings: ModelSettings, settings: TrainingSettings
    ) -> None:
        super().__init__(name="training_step")
        self.model, self.sampler, self.negatives = model, sampler, model_settings.negatives
        self.adagrad = RowwiseAdagrad(model.tables, learning_rate=settings.table_learning_rate)
        self.adam = Adam(model.tower.dense_variables, learning_rate=settings.tower_learning_rate)
        self.steps = tf.Variable(0, dtype=tf.int32, trainable=False, name="steps")
        self.seeds = {purpose: seed_of(settings.seed, purpose)[0] for purpose in ("negatives", "dropout")}

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Learns from one batch and gives its mean loss before that; NaN where a gradient is.

        What it draws depends on seed and step alone.
        """
        negatives = self.sampler.draw(self.negatives, seed=tf.stack([self.seeds["negatives"], self.steps]))
        labels = batch["label"]
        used = self.model.tower.embed(batch)
        compared = tf.concat([labels, negatives], axis=0)
        used |= {"videos": self.model.videos.embed(compared), "biases": self.model.biases.embed(compared)}
        rows = {name: embedded.rows for name, embedded in used.items()}
        variables = self.model.tower.dense_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([rows, variables])
            users = self.model.tower.vectors(batch, used, dropout_seed=tf.stack([self.seeds["dropout"], self.steps]))
            loss = sampled_softmax(users, self._compared(labels, negatives, used))
        row_gradients, gradients = tape.gradient(loss, [rows, variables])
        for name, gradient in row_gradients.items():
            self.adagrad.apply(name, used[name], gradient)
        self.adam.apply(gradients)
        self.steps.assign_add(1)
        # A ReLU turns NaN into 0, so a loss can look sound while the gradient is not: 0 times it is 0, or NaN.
        return loss + 0 * tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])

    def _compared(self, labels: tf.Tensor, negatives: tf.Tensor, used: dict[str, Embedded]) -> Compared:
        sizes = [tf.size(labels), tf.size(negatives)]
        label_vectors, negative_vectors = tf.split(used["videos"].vectors(), sizes)
        label_biases, negative_biases = tf.split(used["biases"].vectors()[:, 0], sizes)
        return Compared(
            labels=labels,
            label_vectors=label_vectors,
            label_biases=label_biases,
            label_log_expected=self.sampler.log_expected(labels, count=self.negatives),
            negatives=negatives,
            negative_vectors=negative_vectors,
            negative_biases=negative_biases,
            negative_log_expected=self.sampler.log_expected(negatives, count=self.negatives),
        )
