"""The exported ranker, applied to candidates and to records. TensorFlow is loaded on first use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.files import local_copy, temporary_local_copy
from transforms.core.tensorflow_import import import_tensorflow
from transforms.core.threads import process_cache

CANDIDATES_AT_ONCE = 16_384  # what a layer of 1,024 makes of them is 64 MB
USERS_AT_ONCE = 256  # of a record file, whose users have any number of impressions

Features = Mapping[str, NDArray[Any]]


class Ranker:
    """A SavedModel with the signatures `score`, `explain` and `records`: raw features -> log-odds of watch time."""

    def __init__(self, folder: str) -> None:
        self._tf = import_tensorflow()
        local = local_copy(folder)
        self.spec = RankingSpec.from_json((Path(local) / "spec.json").read_text(encoding="utf-8"))
        self._model: Any = self._tf.saved_model.load(local)  # keeps the variables of the signatures alive

    def score(self, request: NDArray[Any], query: Features, impressions: Features) -> NDArray[np.float32]:
        """Log-odds of watch time, float32 [candidates]; their exponentials are expected seconds.

        request: int [candidates], rising: whose each is, a row of the query's features [requests]. query: the spec's
        `query_features`, watches and tokens int [requests, history], most recent last, 0 in front. impressions: its
        `impression_features`, [candidates].
        """
        found = self._in_parts("score", request, query, impressions)
        return np.concatenate([np.zeros(0, np.float32), *(part["log_odds"].numpy() for part in found)])

    def explain(self, request: NDArray[Any], query: Features, impressions: Features) -> NDArray[np.float32]:
        """Float32 [candidates, features of the spec]: by how much each feature moved a candidate's log-odds, against
        the mean of that feature over the training impressions."""
        none = np.zeros((0, len(self.spec.features)), np.float32)
        found = self._in_parts("explain", request, query, impressions)
        return np.concatenate([none, *(part["moves"].numpy() for part in found)])

    def records(self, path: str) -> Iterator[tuple[list[str], dict[str, NDArray[Any]]]]:
        """(user ids, columns of all their impressions) of a record file, at most `USERS_AT_ONCE` users at a time.

        Columns: user (a place among the user ids), log_odds, clicked, watch_seconds, page, impression_day, video.
        """
        with temporary_local_copy(path) as local:
            for records in self._tf.data.TFRecordDataset(local, "GZIP").batch(USERS_AT_ONCE).prefetch(1):
                found = {name: of.numpy() for name, of in self._model.signatures["records"](records=records).items()}
                yield [user.decode() for user in found.pop("user_id")], found

    def _in_parts(
        self, signature: str, request: NDArray[Any], query: Features, impressions: Features
    ) -> Iterator[dict[str, Any]]:
        for start in range(0, len(request), CANDIDATES_AT_ONCE):
            part = slice(start, start + CANDIDATES_AT_ONCE)
            users, rows = np.unique(request[part], return_inverse=True)
            of_query = {name: query[name][users] for name in self.spec.query_features}
            of_part = {name: impressions[name][part] for name in self.spec.impression_features}
            columns = {"request": rows, **of_query, **of_part}
            yield self._model.signatures[signature](
                **{name: self._tf.constant(values, self._kind(name)) for name, values in columns.items()}
            )

    def _kind(self, name: str) -> Any:
        return self._tf.float32 if name in self.spec.numbers else self._tf.int32


@process_cache
def load_ranker(folder: str) -> Ranker:
    """The ranker at `folder`, once a process."""
    return Ranker(folder)
