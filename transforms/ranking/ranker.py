"""The exported ranker, applied to candidates and to records. TensorFlow is imported on first use.

records of held-out impressions, ranker     -> BinImpressions -> `CalibrationBins`, to fit the calibration on
the same records, ranker with calibration   -> MeasureRanker -> per-user loss, AUC, NDCG (paper, 4.3), calibration
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.contracts.ranking_spec import RankingSpec
from transforms.core import progress
from transforms.core.files import local_copy, temporary_local_copy
from transforms.core.process_cache import process_cache
from transforms.core.tensorflow_import import import_tensorflow
from transforms.ranking.calibration import CalibrationBins, load_calibration, user_halves
from transforms.ranking.impression_metrics import ImpressionMetrics, merge_impressions
from transforms.ranking.measured_calibration import CalibrationSums, MeasuredCalibration

CANDIDATES_AT_ONCE = 16_384  # the activations of a layer of 1,024 units are 64 MB
USERS_AT_ONCE = 256  # of a record file; a user may have any number of impressions

Features = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class ScoredImpressions:
    """All impressions of some users, with the ranker's log-odds: arrays [impressions]."""

    user_ids: list[str]
    user: NDArray[np.int64]  # a row of `user_ids`
    log_odds: NDArray[np.float32]
    clicked: NDArray[np.int64]
    watch_seconds: NDArray[np.float32]
    page: NDArray[np.int64]
    impression_day: NDArray[np.int64]
    video: NDArray[np.int64]
    video_seconds: NDArray[np.float32]  # NaN if unknown


class Ranker:
    """A SavedModel whose signatures `score`, `explain` and `records` map raw features to log-odds of watch time."""

    def __init__(self, folder: str) -> None:
        self._tf = import_tensorflow()
        local = local_copy(folder)
        self.spec = RankingSpec.from_json((Path(local) / "spec.json").read_text(encoding="utf-8"))
        self._model: Any = self._tf.saved_model.load(local)  # keeps the variables of the signatures alive

    def score(self, request: NDArray[Any], query: Features, impressions: Features) -> NDArray[np.float32]:
        """Return the log-odds of watch time, float32 [candidates]; their exponentials are expected seconds.

        request: int [candidates], ascending, the row of the query features for each candidate. query: the spec's
        `query_features`, [requests]; watches and tokens are int [requests, history], the newest last, 0 in front.
        impressions: the spec's `impression_features`, [candidates].
        """
        found = self._in_parts("score", request, query, impressions)
        return np.concatenate([np.zeros(0, np.float32), *(part["log_odds"].numpy() for part in found)])

    def explain(self, request: NDArray[Any], query: Features, impressions: Features) -> NDArray[np.float32]:
        """Return the effect of each feature on a candidate's log-odds, compared with the mean of that feature over the
        training impressions: float32 [candidates, features of the spec]."""
        none = np.zeros((0, len(self.spec.features)), np.float32)
        found = self._in_parts("explain", request, query, impressions)
        return np.concatenate([none, *(part["moves"].numpy() for part in found)])

    def records(self, path: str) -> Iterator[ScoredImpressions]:
        """Yield the impressions of a record file, of up to `USERS_AT_ONCE` users at a time."""
        with temporary_local_copy(path) as local:
            for records in self._tf.data.TFRecordDataset(local, "GZIP").batch(USERS_AT_ONCE).prefetch(1):
                found = self._model.signatures["records"](records=records)
                columns = {name: values.numpy() for name, values in found.items()}
                yield ScoredImpressions(user_ids=[user.decode() for user in columns.pop("user_id")], **columns)

    def _in_parts(
        self, signature: str, request: NDArray[Any], query: Features, impressions: Features
    ) -> Iterator[dict[str, Any]]:
        for start in range(0, len(request), CANDIDATES_AT_ONCE):
            part = slice(start, start + CANDIDATES_AT_ONCE)
            users, rows = np.unique(request[part], return_inverse=True)
            columns = {"request": rows}
            columns |= {name: query[name][users] for name in self.spec.query_features}
            columns |= {name: impressions[name][part] for name in self.spec.impression_features}
            yield self._model.signatures[signature](
                **{name: self._tf.constant(values, self._dtype(name)) for name, values in columns.items()}
            )

    def _dtype(self, name: str) -> Any:
        return self._tf.float32 if name in self.spec.numbers else self._tf.int32


@process_cache
def load_ranker(folder: str) -> Ranker:
    """Return the ranker at `folder`, loaded once per process."""
    return Ranker(folder)


def bin_records(path: str, ranker: str) -> CalibrationBins:
    """Return the sums over the impressions of one record file. ranker: its folder."""
    parts = (
        CalibrationBins.from_impressions(
            found.log_odds, found.clicked, found.watch_seconds, user_halves(pl.Series(found.user_ids))[found.user]
        )
        for found in load_ranker(ranker).records(path)
    )
    return reduce(CalibrationBins.merge, parts, CalibrationBins.empty())


@dataclass
class BinImpressions(beam.PTransform):
    """Sum up the impressions of record files, given by path, for each file: `CalibrationBins`."""

    ranker: str  # folder

    def expand(self, paths: beam.PCollection[str]) -> beam.PCollection[CalibrationBins]:
        return paths | beam.Reshuffle() | beam.Map(bin_records, self.ranker)


Measured = tuple[ImpressionMetrics, CalibrationSums]


def measure_records(path: str, ranker: str, edges: Sequence[float]) -> Measured | None:
    """Return the metrics of the expected seconds of one record file; None for a file without users.

    ranker: its folder. edges: `class_edges`. Each half of the users has the calibration of the other half.
    """
    calibration, parts = load_calibration(ranker), list[Measured]()
    for found in load_ranker(ranker).records(path):
        users = pl.Series(found.user_ids)
        seconds = calibration.seconds(found.log_odds, found.video_seconds, user_halves(users)[found.user])
        columns = (found.clicked, found.watch_seconds)
        metrics = ImpressionMetrics.from_impressions(found.user, found.page, *columns, np.log(seconds))
        parts.append((metrics, CalibrationSums.from_impressions(users, found.user, seconds, *columns, edges)))
    return merge_measured(parts)


def merge_measured(parts: Iterable[Measured | None]) -> Measured | None:
    """Return all parts merged; None if there are none."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    metrics, sums = zip(*known, strict=True)
    return merge_impressions(metrics), reduce(CalibrationSums.merge, sums)


@dataclass(frozen=True, kw_only=True)
class RankerFigures:
    """The metrics of expected seconds on held-out impressions, by name, and their calibration."""

    figures: dict[str, int | float]
    calibration: MeasuredCalibration


@dataclass
class MeasureRanker(beam.PTransform):
    """Measure the ranker on record files, given by path; return one `RankerFigures`, or none without impressions."""

    ranker: str  # folder, with its calibration
    edges: Sequence[float]  # `class_edges`

    def expand(self, paths: beam.PCollection[str]) -> beam.PCollection[RankerFigures]:
        parts = paths | beam.Reshuffle() | beam.Map(self._measure)
        return parts | beam.CombineGlobally(merge_measured).without_defaults() | "Record" >> beam.FlatMap(self._figures)

    def _measure(self, path: str) -> Measured | None:
        found = measure_records(path, self.ranker, self.edges)
        progress.advance()
        return found

    def _figures(self, found: Measured | None) -> Iterator[RankerFigures]:
        if found is not None:
            metrics, sums = found
            fitted = load_calibration(self.ranker).is_fitted
            yield RankerFigures(figures=metrics.compute(), calibration=sums.compute(fitted=fitted))
