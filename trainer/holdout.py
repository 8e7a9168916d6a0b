"""How well the model finds what held-out users completed: exact scores of all videos, after each epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.inputs import Batch, one_pointer_batches
from trainer.model import Model
from trainer.quiet import tf
from transforms.features import FeatureSpec
from transforms.metrics import RankingMetrics, hits_from_ids, merge_metrics

KS = (10, 50, 100, 200)
SCORES_AT_ONCE = 2**25  # users x videos scored together: 128 MiB


class Holdout:
    """The first `users` holdout records, files in turn, to be measured again and again: its graphs are traced once."""

    def __init__(self, model: Model, files: Sequence[str], spec: FeatureSpec, *, users: int) -> None:
        at_once = max(1, min(1024, SCORES_AT_ONCE // (spec.videos + 1)))
        self._batches = one_pointer_batches(files, spec, batch_size=at_once, records=users) if files else []
        self._vectors = tf.function(model.tower.__call__, reduce_retracing=True, autograph=False)
        self._model = model

    def measure(self) -> dict[str, float]:
        """The figures of `RankingMetrics`; {} without records.

        A user's own completed videos are left out of their list, as in serving; a label out of vocabulary is a miss.
        """
        metrics = merge_metrics((self._measure(*part) for part in self._batches), ks=KS)
        return metrics.compute() if metrics.users else {}

    def _measure(self, batch: Batch, labels: tf.RaggedTensor, seen: tf.RaggedTensor) -> RankingMetrics:
        shown = top_videos(self._model, self._vectors(batch), seen, k=KS[-1])
        wanted, offsets = labels.values.numpy(), labels.row_splits.numpy()
        hits = hits_from_ids(shown, offsets=offsets, labels=np.where(wanted > 0, wanted, -1))
        return RankingMetrics.from_hits(hits, np.diff(offsets), ks=KS)


def top_videos(model: Model, users: tf.Tensor, seen: tf.RaggedTensor, *, k: int) -> npt.NDArray[np.int64]:
    """Ids of the k videos with the highest u.v + b, best first, int64 [users, min(k, videos)], without those `seen`.

    Filled up with -1 where fewer are left; equal scores in the order of the ids.
    """
    scores = tf.matmul(users, model.videos.weights, transpose_b=True) + model.biases.weights[:, 0]
    scores = np.array(scores)
    watched = seen.values.numpy()
    shared = watched > model.videos.size  # rows of the input alone: no video to leave out
    scores[seen.value_rowids().numpy(), np.where(shared, 0, watched)] = -np.inf
    scores[:, 0] = -np.inf
    best, ids = tf.math.top_k(scores, k=min(k, model.videos.size))
    return np.where(np.isneginf(best.numpy()), -1, ids.numpy()).astype(np.int64)
