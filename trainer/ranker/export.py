"""The exported ranker: a SavedModel that reads raw features.

    ranker = tf.saved_model.load(folder)
    ranker.signatures["score"](request=[0, 0, 1], watches=..., device=..., video=..., score=...)["log_odds"]  # [3]

Features of the query are given once a request, [requests]; those of the impression once a candidate, [candidates].
`request` is the index of each candidate's request. exp(log_odds) is the expected watch time in seconds.
"""

from __future__ import annotations

import numpy as np

from trainer.batch import RANKING_LABELS, REQUEST, VIDEO, Batch, request_specs
from trainer.ranker.inputs import all_impressions
from trainer.ranker.model import IMPRESSION, QUERY, Ranker
from transforms.core.tensorflow_import import tf

VIDEO_SECONDS = "video_seconds"  # the number that is the length of the video
SPEC = "spec.json"  # next to the files of the SavedModel


class ServedRanker(tf.Module):
    """The ranker with the functions of its signatures."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__(name="served_ranker")
        self.ranker = ranker

    def score(self, features: Batch) -> dict[str, tf.Tensor]:
        """Return `log_odds`, float [candidates], for the inputs of `batch.request_specs`."""
        return {"log_odds": self.ranker(features)}

    def explain(self, features: Batch) -> dict[str, tf.Tensor]:
        """Return `log_odds`, float [candidates], and `moves`, float [candidates, features].

        A move is the change in log-odds due to one feature, in the order of the spec: the log-odds minus those with the
        feature's mean over the training impressions in its place. Only the sums of the first layer are computed again.
        """
        ranker, request = self.ranker, features[REQUEST]
        inputs = ranker.inputs(features, ranker.embed(features))
        query = tf.gather(ranker.first_layer(inputs[QUERY], QUERY) + ranker.layers[0].bias, request)
        sums = query + ranker.first_layer(inputs[IMPRESSION], IMPRESSION)
        log_odds, moves = ranker.other_layers(sums), {}
        for part, feature_columns in ranker.columns.items():
            to_mean = ranker.means[part] - inputs[part]
            for name, columns in feature_columns.items():
                mask = np.zeros(ranker.width(part), np.float32)
                mask[columns] = 1
                change = ranker.first_layer(to_mean * mask, part)
                changed_sums = sums + (tf.gather(change, request) if part == QUERY else change)
                moves[name] = log_odds - ranker.other_layers(changed_sums)
        return {"log_odds": log_odds, "moves": tf.stack([moves[name] for name in ranker.spec.features], axis=1)}

    def records(self, records: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the log-odds of all impressions of serialized records, string [users], in the records' order.

        `user_id`: string [users]. All others are [impressions]: `user`, int64, the index of the impression's user;
        `log_odds`; `clicked`, `watch_seconds`, `page`, `impression_day` and `video` of the records; and
        `video_seconds`, float, NaN if it is unknown or the ranker does not use it.
        """
        parsed, batch = all_impressions(records, self.ranker.spec)
        labels = {name: batch[name] for name in (*RANKING_LABELS, VIDEO)}
        unknown = tf.fill(tf.shape(batch[VIDEO]), float("nan"))
        labels[VIDEO_SECONDS] = batch.get(VIDEO_SECONDS, unknown)
        user = tf.repeat(tf.range(tf.size(parsed.user_id, tf.int64)), parsed.pointer_counts)
        return {"user_id": parsed.user_id, "user": user, "log_odds": self.ranker(batch), **labels}


def export_ranker(ranker: Ranker, folder: str) -> None:
    """Write a SavedModel with the signatures `score`, `explain` and `records`, and the spec next to its files."""
    served, specs = ServedRanker(ranker), request_specs(ranker.spec)
    records = tf.TensorSpec([None], tf.string, name="records")
    signatures = {
        "score": tf.function(served.score, input_signature=[specs], autograph=False),
        "explain": tf.function(served.explain, input_signature=[specs], autograph=False),
        "records": tf.function(served.records, input_signature=[records], autograph=False),
    }
    tf.saved_model.save(served, folder, signatures=signatures)
    with tf.io.gfile.GFile(f"{folder}/{SPEC}", "w") as file:
        file.write(ranker.spec.to_json())
