"""The user tower and the two video tables (paper, 3.2 to 3.5).

The tower reads a batch of windows or of sequences (`trainer.batch`) and returns the user vector u. The score of a video
is u.v + b, with v from the output table and b from the biases. Input table and output table are separate; with
`shared_vectors`, v is the sum of a video's rows in both, so a row that is learned from histories also improves scores.

With trends, u is wide: it also has the user's weights of the trends (`trainer.trends`), which must be set before.

The last layer is linear. With a ReLU there too, as in the paper, recall on real logs was a tenth lower after four
epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from trainer.batch import AS_OF_DAYS, EXAMPLE_AGE, TOKENS, WATCHES, Batch
from trainer.co_watches import TableStart
from trainer.config import ModelSettings
from trainer.history import ENCODERS, Shortcut
from trainer.layers import Dense, dropout
from trainer.seeds import derive_seed
from trainer.sequences import history_rows
from trainer.tables import Embedded, SummedTable, Table, VideoTable
from trainer.trends import TRENDS, Trends
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

HISTORY_DROPOUT = (1 << 20, 0)  # added to the seed of a step; the offsets of other dropouts are lower

# By activation, the factor of the variance of the initial weights that preserves the variance from input to output.
ACTIVATIONS = {"relu": 2.0, "elu": 1.5, "gelu": 2.0, "leaky_relu": 2.0, "selu": 1.0, "swish": 2.0, "tanh": 1.0}


class UserTower(tf.Module):
    """The network from watch history, search tokens and context to the user vector."""

    def __init__(
        self,
        spec: FeatureSpec,
        settings: ModelSettings,
        *,
        seed: int,
        category_dimensions: Mapping[str, int] | None = None,
    ) -> None:
        """Create the variables. `category_dimensions` overrides the vector length that follows from a vocabulary."""
        super().__init__(name="user_tower")
        self.spec, self.dropout, self.reads_age = spec, settings.dropout, settings.example_age
        self.activation = getattr(tf.nn, settings.activation)
        sizes = {WATCHES: (spec.watch_ids, settings.dimension)}
        if spec.tokens:
            sizes[TOKENS] = (spec.tokens, settings.dimension)
        lengths = {name: category_dimension(len(values)) for name, values in spec.categories.items()}
        lengths |= category_dimensions or {}
        sizes |= {name: (len(values), lengths[name]) for name, values in spec.categories.items()}
        self.tables = {
            name: Table(size, width, scale=1 / math.sqrt(width), seed=derive_seed(seed, "table", name), name=name)
            for name, (size, width) in sizes.items()
        }
        self.encoder = ENCODERS[settings.history](settings, length=spec.watch_history, seed=seed)
        self.shortcut = Shortcut(length=spec.watch_history) if settings.co_watches else None
        self.trends: Trends | None = None  # set before use if the model has `trend_weights`
        self.history_dropout = settings.history_dropout
        context = sum(table.dimension for name, table in self.tables.items() if name != WATCHES)
        powers = 3 if self.reads_age else 0  # of the example age
        inputs = self.encoder.width + context + 2 * len(spec.numbers) + powers
        widths = [inputs, *settings.hidden, settings.dimension]
        gains = [ACTIVATIONS[settings.activation]] * len(settings.hidden) + [1.0]
        self.layers = [
            Dense(a, b, gain=gain, seed=derive_seed(seed, "layer", i), name=f"layer_{i}")
            for i, ((a, b), gain) in enumerate(zip(pairwise(widths), gains, strict=True))
        ]

        self.trend_weights: Dense | None = None
        if settings.trends:
            self.trend_weights = Dense(widths[-2], TRENDS, gain=0.0, seed=(0, 0), name="trends")
            self.trend_weights.bias.assign(tf.ones([TRENDS]))

    @property
    def dense_variables(self) -> tuple[tf.Variable, ...]:
        """All variables except the tables: those that a step updates as a whole."""
        layers = [self.encoder, *self.layers, self.shortcut, self.trend_weights]
        return tuple(variable for layer in layers if layer is not None for variable in layer.trainable_variables)

    def embed(self, batch: Batch, *, dropout_seed: tf.Tensor | None = None) -> dict[str, Embedded]:
        """Return for each table the rows that the batch uses. Drops watches only with a `dropout_seed` (int32 [2])."""
        ids = self._ids(batch)
        if dropout_seed is not None and self.history_dropout:
            draws = tf.random.stateless_uniform(tf.shape(ids[WATCHES]), dropout_seed + HISTORY_DROPOUT, alg="philox")
            ids[WATCHES] = tf.where(draws < self.history_dropout, 0, ids[WATCHES])
        return {name: self.tables[name].embed(values) for name, values in ids.items()}

    def look_up(self, batch: Batch) -> dict[str, Embedded]:
        """Return the same for inference only, see `Table.look_up`."""
        return {name: self.tables[name].look_up(ids) for name, ids in self._ids(batch).items()}

    def _ids(self, batch: Batch) -> Batch:
        watches, _ = history_rows(batch)
        return {name: watches if name == WATCHES else batch[name] for name in self.tables}

    def vectors(
        self, batch: Batch, embedded: dict[str, Embedded], *, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Return user vectors, float [batch, dimension], and wider with trends. Drops units only with a `dropout_seed`
        (int32 [2])."""
        x = tf.concat(self._inputs(batch, embedded, dropout_seed), axis=1)
        x = dropout(x, self.dropout, dropout_seed, 0)
        for number, layer in enumerate(self.layers[:-1], start=1):
            x = dropout(self.activation(layer(x)), self.dropout, dropout_seed, number)
        users = self.layers[-1](x)
        if self.shortcut is not None:
            _, positions = history_rows(batch)
            users += self.shortcut(embedded[WATCHES], positions)
        if self.trend_weights is None:
            return users
        assert self.trends is not None
        return self.trends.widen(users, self.trend_weights(x), batch.get(AS_OF_DAYS))

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Return user vectors as `vectors` does, without dropout."""
        return self.vectors(batch, self.embed(batch))

    def _inputs(self, batch: Batch, embedded: dict[str, Embedded], dropout_seed: tf.Tensor | None) -> list[tf.Tensor]:
        _, positions = history_rows(batch)
        inputs = [self.encoder(embedded[WATCHES], positions, dropout_seed=dropout_seed)]
        if self.spec.tokens:
            inputs.append(embedded[TOKENS].mean())
        inputs += [embedded[name].vectors() for name in self.spec.categories]
        for name in self.spec.numbers:
            known = tf.cast(batch[name] >= 0, tf.float32)
            inputs.append(tf.stack([batch[name] * known, known], axis=1))
        if self.reads_age:
            age = batch[EXAMPLE_AGE]
            inputs.append(tf.stack([age, tf.square(age), tf.sqrt(age)], axis=1))
        return inputs


class Model(tf.Module):
    """Everything that is learned: the user tower, and the vectors and biases of the videos."""

    def __init__(
        self,
        spec: FeatureSpec,
        settings: ModelSettings,
        label_counts: npt.NDArray[np.int64],
        *,
        seed: int,
        category_dimensions: Mapping[str, int] | None = None,
    ) -> None:
        """Create the variables. A video's bias starts at the logarithm of its share of the labels, or at 0 with trends.

        `label_counts`: int64 [videos], of the ids from 1.
        """
        super().__init__(name="model")
        # Own rows of shared vectors start at zero, so that at first a video is what it is as an input.
        scale = 0.0 if settings.shared_vectors else 1 / math.sqrt(settings.dimension)
        self.tower = UserTower(spec, settings, seed=seed, category_dimensions=category_dimensions)
        video_seed = derive_seed(seed, "table", "videos")
        self._own = Table(spec.videos, settings.dimension, scale=scale, seed=video_seed, name="videos")
        self.videos: VideoTable = self._own
        self.sums: dict[str, tuple[str, ...]] = {}  # of `RowwiseAdagrad`
        if settings.shared_vectors:
            self.videos, self.sums = SummedTable(self._own, self.tower.tables[WATCHES]), {"videos": ("videos", WATCHES)}
        self.biases = Table(spec.videos, 1, scale=0.0, seed=(0, 0), name="biases")
        if not settings.trends:
            share = (label_counts + 1) / (label_counts + 1).sum()
            self.biases.weights.assign(np.pad(np.log(share), [1, 0])[:, np.newaxis].astype(np.float32))

    def start_from(self, start: TableStart) -> None:
        """Set the tables of a new model with a shortcut, which then ranks alone: the tower's output starts at zero."""
        assert self.tower.shortcut is not None
        inputs, spec = self.tower.tables[WATCHES], self.tower.spec
        inputs.set_rows(start.inputs[: 1 + spec.videos])
        if spec.partial_watches:
            inputs.set_rows(start.inputs[1 + spec.videos :], first=1 + spec.partial_offset)
        if not self.sums:  # shared vectors are those of the inputs
            self._own.set_rows(start.outputs)
        self.biases.weights.assign(start.popularity * self.biases.weights)
        if self.tower.trend_weights is not None:
            self.tower.trend_weights.bias.assign(tf.fill([TRENDS], np.float32(start.popularity)))
        self.tower.shortcut.gain.assign(start.gain)
        self.tower.layers[-1].kernel.assign(tf.zeros_like(self.tower.layers[-1].kernel))

    @property
    def tables(self) -> dict[str, Table]:
        return {**self.tower.tables, "videos": self._own, "biases": self.biases}


def category_dimension(values: int) -> int:
    """Return the vector length of a category: about the logarithm of its number of values (paper, 4.1)."""
    return 1 + math.ceil(math.log2(values + 1))
