"""Recall of the model on users' next completed videos: exact scores of all videos, after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from trainer.batch import Batch
from trainer.inputs import one_pointer_batches
from trainer.model import UserTower
from transforms.contracts.example_spec import FeatureSpec
from transforms.contracts.retrieval_metrics import RankingMetrics, hits_from_ids, merge_metrics
from transforms.core.tensorflow_import import tf

KS = (10, 50, 100, 200)
Scores = Callable[[tf.Tensor], tf.Tensor]  # user vectors [users, dimension] -> float [users, videos + 1]
LabelledBatch = tuple[Batch, tf.RaggedTensor, tf.RaggedTensor]
MAX_SCORES = 2**25  # users x videos scored together: 128 MiB


class RecallEvaluator:
    """Metrics of a fixed set of batches, which can be measured many times: its graphs are traced once."""

    def __init__(self, tower: UserTower, scores: Scores, batches: Iterable[LabelledBatch]) -> None:
        """`scores` ranks the videos, see `Loss.scores`; `batches`: as `inputs.one_pointer_batches` returns them."""
        self._batches = batches
        self._vectors = tf.function(tower.__call__, reduce_retracing=True, autograph=False)
        self._scores = scores

    def measure(self) -> dict[str, float]:
        """Return the figures of `RankingMetrics`; {} without users.

        Lists exclude the user's own completed videos, as in serving; a label out of vocabulary is a miss.
        """
        metrics = merge_metrics((self._measure(*part) for part in self._batches), ks=KS)
        return metrics.compute() if metrics.sums["users"] else {}

    def _measure(self, batch: Batch, labels: tf.RaggedTensor, watched: tf.RaggedTensor) -> RankingMetrics:
        lists = top_videos(self._scores(self._vectors(batch)), watched, k=KS[-1])
        wanted, offsets = labels.values.numpy(), labels.row_splits.numpy()
        hits = hits_from_ids(lists, offsets=offsets, labels=np.where(wanted > 0, wanted, -1))
        return RankingMetrics.from_hits(hits, np.diff(offsets), ks=KS)


class HoldoutEvaluator(RecallEvaluator):
    """Metrics of the first `users` holdout records, read from the files in turn."""

    def __init__(
        self, tower: UserTower, scores: Scores, files: Sequence[str], spec: FeatureSpec, *, users: int
    ) -> None:
        batches = one_pointer_batches(files, spec, batch_size=scoring_batch_size(spec), records=users) if files else []
        super().__init__(tower, scores, batches)


def scoring_batch_size(spec: FeatureSpec) -> int:
    """Return how many users are scored together."""
    return max(1, min(1024, MAX_SCORES // (spec.videos + 1)))


def top_videos(scores: tf.Tensor, watched: tf.RaggedTensor, *, k: int) -> npt.NDArray[np.int64]:
    """Return the ids of the k videos with the highest `scores`, without those `watched`.

    `scores`: float [users, videos + 1] by id. Returns int64 [users, min(k, videos)], best first; padded with -1.
    """
    ranked = np.array(scores)
    videos = ranked.shape[1] - 1
    ids = watched.values.numpy()
    is_shared_row = ids > videos  # belongs to the input table only, and to no single video
    ranked[watched.value_rowids().numpy(), np.where(is_shared_row, 0, ids)] = -np.inf
    ranked[:, 0] = -np.inf
    best, top = tf.math.top_k(ranked, k=min(k, videos))
    return np.where(np.isneginf(best.numpy()), -1, top.numpy()).astype(np.int64)
