"""How good the ranker is: its figures on the impressions of held-out users, which it did not learn from.

records of held-out impressions, ranker -> MeasureRanker -> per-user loss, AUC, NDCG, calibration (paper, 4.3)
"""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from transforms.core import progress
from transforms.ranking.impression_metrics import ImpressionMetrics, merge_impressions
from transforms.ranking.ranker import load_ranker


def measure_records(path: str, ranker: str) -> ImpressionMetrics:
    """Of one record file. ranker: its folder."""
    parts = [
        ImpressionMetrics.of(*(found[name] for name in ("user", "page", "clicked", "watch_seconds", "log_odds")))
        for _, found in load_ranker(ranker).records(path)
    ]
    return merge_impressions(parts)


@dataclass(frozen=True, kw_only=True)
class RankerFigures:
    """The ranker on held-out impressions: figures by name, and the points of its calibration curve."""

    figures: dict[str, int | float]
    calibration: list[dict[str, int | float]]


@dataclass
class MeasureRanker(beam.PTransform):
    """Paths of record files -> one `RankerFigures`; none if there is no file."""

    ranker: str  # folder

    def expand(self, paths: beam.PCollection[str]) -> beam.PCollection[RankerFigures]:
        parts = paths | beam.Reshuffle() | beam.Map(self._measure)
        return parts | beam.CombineGlobally(merge_impressions).without_defaults() | "Record" >> beam.Map(_figures)

    def _measure(self, path: str) -> ImpressionMetrics:
        found = measure_records(path, self.ranker)
        progress.advance()
        return found


def _figures(found: ImpressionMetrics) -> RankerFigures:
    figures = {
        name: float(value) if isinstance(value, np.floating) else value for name, value in found.compute().items()
    }
    return RankerFigures(figures=figures, calibration=found.calibration())
