"""How well the model finds what users completed next: exact scores of all videos, after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from trainer.inputs import Batch, one_pointer_batches
from trainer.model import UserTower
from transforms.contracts.example_spec import FeatureSpec
from transforms.contracts.retrieval_metrics import RankingMetrics, hits_from_ids, merge_metrics
from transforms.core.tensorflow_import import tf

KS = (10, 50, 100, 200)
Scores = Callable[[tf.Tensor], tf.Tensor]  # user vectors [users, dimension] -> float [users, videos + 1]
LabelledBatch = tuple[Batch, tf.RaggedTensor, tf.RaggedTensor]
SCORES_AT_ONCE = 2**25  # users x videos scored together: 128 MiB


class Recall:
    """Figures of the same batches, measured again and again: its graphs are traced once."""

    def __init__(self, tower: UserTower, scores: Scores, batches: Iterable[LabelledBatch]) -> None:
        """`scores`: what videos are ranked by, as `Loss.scores` gives it; `batches`: as of `one_pointer_batches`."""
        self._batches = batches
        self._vectors = tf.function(tower.__call__, reduce_retracing=True, autograph=False)
        self._scores = scores

    def measure(self) -> dict[str, float]:
        """The figures of `RankingMetrics`; {} without users.

        A user's own completed videos are left out of their list, as in serving; a label out of vocabulary is a miss.
        """
        metrics = merge_metrics((self._measure(*part) for part in self._batches), ks=KS)
        return metrics.compute() if metrics.users else {}

    def _measure(self, batch: Batch, labels: tf.RaggedTensor, seen: tf.RaggedTensor) -> RankingMetrics:
        shown = top_videos(self._scores(self._vectors(batch)), seen, k=KS[-1])
        wanted, offsets = labels.values.numpy(), labels.row_splits.numpy()
        hits = hits_from_ids(shown, offsets=offsets, labels=np.where(wanted > 0, wanted, -1))
        return RankingMetrics.from_hits(hits, np.diff(offsets), ks=KS)


class Holdout(Recall):
    """Of the first `users` holdout records, files in turn."""

    def __init__(
        self, tower: UserTower, scores: Scores, files: Sequence[str], spec: FeatureSpec, *, users: int
    ) -> None:
        batches = one_pointer_batches(files, spec, batch_size=users_at_once(spec), records=users) if files else []
        super().__init__(tower, scores, batches)


def users_at_once(spec: FeatureSpec) -> int:
    """How many users are scored together."""
    return max(1, min(1024, SCORES_AT_ONCE // (spec.videos + 1)))


def top_videos(scores: tf.Tensor, seen: tf.RaggedTensor, *, k: int) -> npt.NDArray[np.int64]:
    """Ids of the k videos with the highest `scores`, float [users, videos + 1] by id, without those `seen`.

    Best first, int64 [users, min(k, videos)], filled up with -1 where fewer are left; equal scores in the order of the
    ids.
    """
    ranked = np.array(scores)
    videos = ranked.shape[1] - 1
    watched = seen.values.numpy()
    shared = watched > videos  # rows of the input alone: no video to leave out
    ranked[seen.value_rowids().numpy(), np.where(shared, 0, watched)] = -np.inf
    ranked[:, 0] = -np.inf
    best, ids = tf.math.top_k(ranked, k=min(k, videos))
    return np.where(np.isneginf(best.numpy()), -1, ids.numpy()).astype(np.int64)
