"""The ranker, from the features of a query and of the candidate videos to log-odds (paper, 4).

Inputs come in two parts. Features of the *query*, which describe the user at that moment, are given once a request;
those of the *impression*, once a candidate. The first layer is linear in both, so its query part is computed once,
however many candidates there are. In training every impression is its own request.

There is one table for each id space: a video has the same vector as a candidate and in the mean of the watch history.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from trainer.batch import CHANNEL, REQUEST, TOKENS, VIDEO, WATCHES, Batch
from trainer.layers import Dense, dropout
from trainer.model import category_dimension
from trainer.ranker.config import RankerSettings
from trainer.seeds import derive_seed
from trainer.tables import Embedded, Table
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

QUERY, IMPRESSION = "query", "impression"
PARTS = (QUERY, IMPRESSION)


def id_dimension(ids: int) -> int:
    """Return the vector length of an id space, which grows with the logarithm of its size (paper, 4.1)."""
    return 2 * math.ceil(math.log2(ids + 1))


class Ranker(tf.Module):
    """The network from features to log-odds: exp(log-odds) is the expected watch time in seconds."""

    def __init__(
        self,
        spec: RankingSpec,
        settings: RankerSettings,
        *,
        graph: str | None,
        odds: float,
        seed: int,
        dimensions: Mapping[str, int] | None = None,
    ) -> None:
        """Create the variables.

        `graph`: folder of the SavedModel that encodes the numbers; None if the spec has none. `odds`: the odds of all
        impressions together; the last bias starts at their logarithm. `dimensions`: vector lengths of tables that do
        not follow from their sizes, because an earlier ranker had them.
        """
        super().__init__(name="ranker")
        self.spec, self.dropout, self.powers = spec, settings.dropout, settings.powers
        self.graph = tf.saved_model.load(graph) if graph else None
        sizes = {"videos": (spec.videos, id_dimension(spec.videos))}
        if spec.channels:
            sizes["channels"] = (spec.channels, id_dimension(spec.channels))
        if spec.tokens:
            sizes[TOKENS] = (spec.tokens, id_dimension(spec.tokens))
        sizes |= {name: (len(values), category_dimension(len(values))) for name, values in spec.categories.items()}
        sizes = {name: (size, (dimensions or {}).get(name, width)) for name, (size, width) in sizes.items()}
        self.tables = {
            name: Table(size, width, scale=1 / math.sqrt(width), seed=derive_seed(seed, "table", name), name=name)
            for name, (size, width) in sizes.items()
        }
        self.columns = {part: self._feature_columns(part) for part in PARTS}
        widths = [sum(self.width(part) for part in PARTS), *settings.hidden, 1]
        gains = [2.0] * len(settings.hidden) + [1.0]
        self.layers = [
            Dense(a, b, gain=gain, seed=derive_seed(seed, "layer", i), name=f"layer_{i}")
            for i, ((a, b), gain) in enumerate(zip(pairwise(widths), gains, strict=True))
        ]
        self.layers[-1].bias.assign([math.log(odds)])
        self.means = {part: tf.Variable(tf.zeros([self.width(part)]), trainable=False, name=part) for part in PARTS}

    @property
    def dense_variables(self) -> tuple[tf.Variable, ...]:
        """All variables except the tables: those that a step updates as a whole."""
        return tuple(variable for layer in self.layers for variable in layer.trainable_variables)

    def embed(self, batch: Batch) -> dict[str, Embedded]:
        """Return for each table the rows that the batch uses; for `videos`, those of `watches` and then of `video`."""
        used = {}
        for name, table in self.tables.items():
            if name == "videos":
                used[name] = table.embed(tf.concat([tf.reshape(batch[WATCHES], [-1]), batch[VIDEO]], axis=0))
            else:
                used[name] = table.embed(batch[CHANNEL if name == "channels" else name])
        return used

    def inputs(self, batch: Batch, embedded: dict[str, Embedded]) -> dict[str, tf.Tensor]:
        """Return the first layer's inputs: `query` float [requests, width], `impression` float [candidates, width]."""
        history = tf.size(batch[WATCHES])
        watched = _select_ids(embedded["videos"], slice(None, history), tf.shape(batch[WATCHES]))
        candidates = _select_ids(embedded["videos"], slice(history, None), tf.shape(batch[VIDEO]))
        query = [watched.mean(), *([embedded[TOKENS].mean()] if self.spec.tokens else [])]
        query += [embedded[name].vectors() for name in self.spec.query_categories]
        impression = [candidates.vectors(), *([embedded["channels"].vectors()] if self.spec.channels else [])]
        impression += [embedded[name].vectors() for name in self.spec.impression_categories]
        numbers = self._encode_numbers(batch)
        return {
            QUERY: tf.concat([*query, *numbers.get(QUERY, [])], axis=1),
            IMPRESSION: tf.concat([*impression, *numbers.get(IMPRESSION, [])], axis=1),
        }

    def logits(
        self, inputs: dict[str, tf.Tensor], request: tf.Tensor | None, *, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Return log-odds, float [candidates]. Without `request`, each candidate is its own request."""
        x = {part: dropout(inputs[part], self.dropout, dropout_seed, i) for i, part in enumerate(PARTS)}
        query = self.first_layer(x[QUERY], QUERY) + self.layers[0].bias
        query = query if request is None else tf.gather(query, request)
        return self.other_layers(query + self.first_layer(x[IMPRESSION], IMPRESSION), dropout_seed=dropout_seed)

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Return log-odds, float [candidates]."""
        return self.logits(self.inputs(batch, self.embed(batch)), batch.get(REQUEST))

    def first_layer(self, inputs: tf.Tensor, part: str) -> tf.Tensor:
        """Return a part's summand of the first layer, [n, units], for inputs [n, width], without the bias."""
        split = self.width(QUERY)
        return inputs @ (self.layers[0].kernel[:split] if part == QUERY else self.layers[0].kernel[split:])

    def other_layers(self, x: tf.Tensor, *, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        """Return log-odds [n] for the sums of the first layer [n, units]."""
        for number, layer in enumerate(self.layers[1:], start=len(PARTS)):
            x = layer(dropout(tf.nn.relu(x), self.dropout, dropout_seed, number))
        return tf.squeeze(x, axis=1)

    def width(self, part: str) -> int:
        """Return the width of a part's input."""
        return sum(len(columns) for columns in self.columns[part].values())

    def _feature_columns(self, part: str) -> dict[str, npt.NDArray[np.int64]]:
        """Return for each feature of a part the columns of the part's input that it determines."""
        spec = self.spec
        names = spec.query_features if part == QUERY else spec.impression_features
        numbers = spec.query_numbers if part == QUERY else spec.impression_numbers
        tables = {WATCHES: "videos", VIDEO: "videos", CHANNEL: "channels"}
        columns, start = {}, 0
        for name in names:
            if name not in numbers:
                width = self.tables[tables.get(name, name)].dimension
                columns[name], start = np.arange(start, start + width), start + width
        for i, name in enumerate(numbers):
            columns[name] = start + i + len(numbers) * np.arange(4 if self.powers else 2)
        return columns

    def _encode_numbers(self, batch: Batch) -> dict[str, list[tf.Tensor]]:
        """Return for each part with numbers their quantiles, known flags and powers, float [n, numbers] each."""
        spec = self.spec
        numbers = {QUERY: spec.query_numbers, IMPRESSION: spec.impression_numbers}
        raw = {part: tf.stack([batch[name] for name in names], axis=1) for part, names in numbers.items() if names}
        if not raw:
            return {}
        assert self.graph is not None
        encoded = self.graph.transform_fn(raw)
        kinds = ("quantiles", "known", *(("squares", "roots") if self.powers else ()))
        return {part: [encoded[f"{part}_{kind}"] for kind in kinds] for part in raw}


def _select_ids(embedded: Embedded, ids: slice, shape: tf.Tensor) -> Embedded:
    """Return the same rows for a slice of the requested ids, in the given shape."""
    return dataclasses.replace(
        embedded, indices=tf.reshape(embedded.indices[ids], shape), known=tf.reshape(embedded.known[ids], shape)
    )
