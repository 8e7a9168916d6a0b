"""The ranker as it is served: a SavedModel that reads raw features.

    ranker = tf.saved_model.load(folder)
    ranker.signatures["score"](request=[0, 0, 1], watches=..., device=..., video=..., score=...)["log_odds"]  # [3]

What is the query's is given once a request, [requests]; what is the impression's once a candidate, [candidates].
`request` says whose candidate each is. exp(log_odds) is the expected watch time in seconds.
"""

from __future__ import annotations

import numpy as np

from trainer.inputs import Batch
from trainer.ranker.inputs import served_batch
from trainer.ranker.model import REQUEST, Ranker
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

SPEC = "spec.json"  # beside the SavedModel's own files


class ServedRanker(tf.Module):
    """What the signatures call."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__(name="served_ranker")
        self.ranker = ranker

    def score(self, features: Batch) -> dict[str, tf.Tensor]:
        """`log_odds`, float [candidates], of features as `ranker_specs` names them."""
        return {"log_odds": self.ranker(features)}

    def explain(self, features: Batch) -> dict[str, tf.Tensor]:
        """`log_odds`, and `moves`, float [candidates, features]: by how much each feature of the spec, in its order,
        moved them: the log-odds less those with the feature's mean over the training impressions in its place.

        A feature acts through the first layer alone, so only that layer's sums are worked out anew.
        """
        ranker, request = self.ranker, features[REQUEST]
        inputs = ranker.inputs(features, ranker.embed(features))
        query = tf.gather(ranker.first(inputs["query"], "query") + ranker.layers[0].bias, request)
        sums = query + ranker.first(inputs["impression"], "impression")
        log_odds, moves = ranker.rest(sums), {}
        for part, columns_of in ranker.columns.items():
            away = ranker.means[part] - inputs[part]
            for name, columns in columns_of.items():
                mask = np.zeros(ranker.width(part), np.float32)
                mask[columns] = 1
                change = ranker.first(away * mask, part)
                moved = sums + (tf.gather(change, request) if part == "query" else change)
                moves[name] = log_odds - ranker.rest(moved)
        return {"log_odds": log_odds, "moves": tf.stack([moves[name] for name in ranker.spec.features], axis=1)}

    def records(self, records: tf.Tensor) -> dict[str, tf.Tensor]:
        """Of all impressions of serialized records, in their order: `user`, int64, whose each is, a row of `user_id`;
        `log_odds`; `clicked`, `watch_seconds`, `page`, `impression_day`, `video` as in the records."""
        parsed, batch = served_batch(records, self.ranker.spec)
        labels = {name: batch[name] for name in ("clicked", "watch_seconds", "page", "impression_day", "video")}
        user = tf.repeat(tf.range(tf.size(parsed.user_id, tf.int64)), parsed.impressions)
        return {"user_id": parsed.user_id, "user": user, "log_odds": self.ranker(batch), **labels}


def ranker_specs(spec: RankingSpec) -> dict[str, tf.TensorSpec]:
    """The inputs of `score` and `explain`. `watches` int32 [requests, watch_history] and `tokens` [requests,
    search_history]: the most recent last, filled up with 0 in front. Ids and categories int32, numbers float32, NaN
    where not known."""
    specs = {REQUEST: tf.TensorSpec([None], tf.int32, name=REQUEST)}
    for name in spec.features:
        width = {"watches": [spec.watch_history], "tokens": [spec.search_history]}.get(name, [])
        specs[name] = tf.TensorSpec([None, *width], tf.float32 if name in spec.numbers else tf.int32, name=name)
    return specs


def export_ranker(ranker: Ranker, folder: str) -> None:
    """A SavedModel with the signatures `score`, `explain` and `records` (string [users]), and the spec beside it."""
    served, specs = ServedRanker(ranker), ranker_specs(ranker.spec)
    records = tf.TensorSpec([None], tf.string, name="records")
    signatures = {
        "score": tf.function(served.score, input_signature=[specs], autograph=False),
        "explain": tf.function(served.explain, input_signature=[specs], autograph=False),
        "records": tf.function(served.records, input_signature=[records], autograph=False),
    }
    tf.saved_model.save(served, folder, signatures=signatures)
    with tf.io.gfile.GFile(f"{folder}/{SPEC}", "w") as file:
        file.write(ranker.spec.to_json())
