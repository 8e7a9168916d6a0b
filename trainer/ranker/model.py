"""The ranker: what is known of a query and of the videos it could be answered with -> log-odds (paper, 4).

Inputs come in two parts. What belongs to the *query*, the user at that moment, is given once a request; what belongs to
the *impression*, once a candidate. The first layer is linear in both, so it is worked out for the query once, however
many candidates there are. In training every impression is a request of its own.

One table an id space: a video is the same vector as the candidate and in the mean of the watch history.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from trainer.inputs import Batch
from trainer.layers import Dense, dropped
from trainer.model import category_dimension
from trainer.ranker.config import RankerSettings
from trainer.seeds import seed_of
from trainer.tables import Embedded, Table
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

REQUEST = "request"  # int32 [candidates]: whose candidate each is, a row of the query's features
PARTS = ("query", "impression")


def id_dimension(ids: int) -> int:
    """The length of the vectors of an id space: it grows as the logarithm of how many there are (paper, 4.1)."""
    return 2 * math.ceil(math.log2(ids + 1))


class Ranker(tf.Module):
    """From features to log-odds: exp of them is the expected watch time in seconds."""

    def __init__(
        self, spec: RankingSpec, settings: RankerSettings, *, graph: str | None, odds: float, seed: int
    ) -> None:
        """`graph`: folder of the SavedModel that encodes the numbers, None without any. `odds`: those of all
        impressions together, which the last bias starts at."""
        super().__init__(name="ranker")
        self.spec, self.dropout, self.powers = spec, settings.dropout, settings.powers
        self.graph = tf.saved_model.load(graph) if graph else None
        sizes = {"videos": (spec.videos, id_dimension(spec.videos))}
        if spec.channels:
            sizes["channels"] = (spec.channels, id_dimension(spec.channels))
        if spec.tokens:
            sizes["tokens"] = (spec.tokens, id_dimension(spec.tokens))
        sizes |= {name: (len(values), category_dimension(len(values))) for name, values in spec.categories.items()}
        self.tables = {
            name: Table(size, width, scale=1 / math.sqrt(width), seed=seed_of(seed, "table", name), name=name)
            for name, (size, width) in sizes.items()
        }
        self.columns = {part: self._columns_of(part) for part in PARTS}
        widths = [sum(self.width(part) for part in PARTS), *settings.hidden, 1]
        gains = [2.0] * len(settings.hidden) + [1.0]
        self.layers = [
            Dense(a, b, gain=gain, seed=seed_of(seed, "layer", i), name=f"layer_{i}")
            for i, ((a, b), gain) in enumerate(zip(pairwise(widths), gains, strict=True))
        ]
        self.layers[-1].bias.assign([math.log(odds)])
        self.means = {part: tf.Variable(tf.zeros([self.width(part)]), trainable=False, name=part) for part in PARTS}

    @property
    def dense_variables(self) -> tuple[tf.Variable, ...]:
        """All variables that a step changes as a whole."""
        return tuple(variable for layer in self.layers for variable in layer.trainable_variables)

    def embed(self, batch: Batch) -> dict[str, Embedded]:
        """For each table the rows that the batch uses; of `videos`, those of the watches, then of the impressions."""
        used = {}
        for name, table in self.tables.items():
            if name == "videos":
                used[name] = table.embed(tf.concat([tf.reshape(batch["watches"], [-1]), batch["video"]], axis=0))
            else:
                used[name] = table.embed(batch["channel" if name == "channels" else name])
        return used

    def inputs(self, batch: Batch, embedded: dict[str, Embedded]) -> dict[str, tf.Tensor]:
        """What the first layer reads: `query` float [requests, width], `impression` float [candidates, width]."""
        history = tf.size(batch["watches"])
        watched = _split(embedded["videos"], slice(None, history), tf.shape(batch["watches"]))
        shown = _split(embedded["videos"], slice(history, None), tf.shape(batch["video"]))
        query = [watched.mean(), *([embedded["tokens"].mean()] if self.spec.tokens else [])]
        query += [embedded[name].vectors() for name in self.spec.query_categories]
        impression = [shown.vectors(), *([embedded["channels"].vectors()] if self.spec.channels else [])]
        impression += [embedded[name].vectors() for name in self.spec.impression_categories]
        numbers = self._encoded(batch)
        return {
            "query": tf.concat([*query, *numbers.get("query", [])], axis=1),
            "impression": tf.concat([*impression, *numbers.get("impression", [])], axis=1),
        }

    def logits(
        self, inputs: dict[str, tf.Tensor], request: tf.Tensor | None, *, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Log-odds, float [candidates]. Without `request` each is a request of its own."""
        of = {part: dropped(inputs[part], self.dropout, dropout_seed, i) for i, part in enumerate(PARTS)}
        query = self.first(of["query"], "query") + self.layers[0].bias
        query = query if request is None else tf.gather(query, request)
        return self.rest(query + self.first(of["impression"], "impression"), dropout_seed=dropout_seed)

    def __call__(self, batch: Batch) -> tf.Tensor:
        """Log-odds, float [candidates]."""
        return self.logits(self.inputs(batch, self.embed(batch)), batch.get(REQUEST))

    def first(self, inputs: tf.Tensor, part: str) -> tf.Tensor:
        """What a part [n, width] adds to the first layer, before bias and activation."""
        split = self.width("query")
        return inputs @ (self.layers[0].kernel[:split] if part == "query" else self.layers[0].kernel[split:])

    def rest(self, x: tf.Tensor, *, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        """From the first layer's sums [n, units] to log-odds [n]."""
        for number, layer in enumerate(self.layers[1:], start=len(PARTS)):
            x = layer(dropped(tf.nn.relu(x), self.dropout, dropout_seed, number))
        return tf.squeeze(x, axis=1)

    def width(self, part: str) -> int:
        return sum(len(columns) for columns in self.columns[part].values())

    def _columns_of(self, part: str) -> dict[str, npt.NDArray[np.int64]]:
        """Which columns of a part's input are made of each of its features."""
        spec = self.spec
        names = spec.query_features if part == "query" else spec.impression_features
        numbers = spec.query_numbers if part == "query" else spec.impression_numbers
        tables = {"watches": "videos", "video": "videos", "channel": "channels"}
        columns, start = {}, 0
        for name in names:
            if name not in numbers:
                width = self.tables[tables.get(name, name)].dimension
                columns[name], start = np.arange(start, start + width), start + width
        for place, name in enumerate(numbers):
            columns[name] = start + place + len(numbers) * np.arange(4 if self.powers else 2)
        return columns

    def _encoded(self, batch: Batch) -> dict[str, list[tf.Tensor]]:
        """For each part that has numbers: their quantiles, flags, and powers, [n, numbers] each."""
        spec = self.spec
        names = {"query": spec.query_numbers, "impression": spec.impression_numbers}
        raw = {part: tf.stack([batch[name] for name in of], axis=1) for part, of in names.items() if of}
        if not raw:
            return {}
        assert self.graph is not None
        encoded = self.graph.transform_fn(raw)
        kinds = ("quantiles", "known", *(("squares", "roots") if self.powers else ()))
        return {part: [encoded[f"{part}_{kind}"] for kind in kinds] for part in raw}


def _split(embedded: Embedded, ids: slice, shape: tf.Tensor) -> Embedded:
    """Some of the ids that were asked for, in their shape."""
    return dataclasses.replace(
        embedded, places=tf.reshape(embedded.places[ids], shape), known=tf.reshape(embedded.known[ids], shape)
    )
