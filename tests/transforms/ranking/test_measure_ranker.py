"""The ranker on held-out impressions: several files as one, in plain numbers ready for JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest

from transforms.core.records import WriteRecords, pop_records
from transforms.ranking import measure_ranker
from transforms.ranking.impression_metrics import ImpressionMetrics
from transforms.ranking.measure_ranker import MeasureRanker, RankerFigures, measure_records


def impressions(seed: int, users: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    clicked = draw.integers(0, 2, 30)
    return {
        "user": draw.integers(0, users, 30),
        "page": draw.integers(0, 3, 30),
        "clicked": clicked,
        "watch_seconds": clicked * draw.integers(1, 99, 30).astype(np.float32),
        "log_odds": draw.normal(size=30).astype(np.float32),
    }


class ByHand:
    """A ranker whose record files are numbers: so many batches of users each."""

    def records(self, path: str) -> Any:
        return (([f"{path}-{n}"], impressions(int(path) * 10 + n, 4)) for n in range(int(path)))


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_ranker, "load_ranker", lambda folder: ByHand())


def test_batches_are_measured_together() -> None:
    parts = [ImpressionMetrics.of(**impressions(seed, 4)) for seed in (20, 21)]
    assert measure_records("2", "ranker").compute() == parts[0].merge(parts[1]).compute()


def test_files_are_measured_together(tmp_path: Path) -> None:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(["1", "2"]) | MeasureRanker("ranker") | WriteRecords(str(tmp_path / "records"))
    (record,) = pop_records(str(tmp_path / "records"), RankerFigures).of(RankerFigures)
    whole = measure_records("1", "ranker").merge(measure_records("2", "ranker"))
    assert record.figures == json.loads(json.dumps(whole.compute(), default=float))
    assert record.calibration == whole.calibration()


def test_no_file_is_no_record(tmp_path: Path) -> None:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        empty = pipeline | beam.Create(["1"]) | beam.Filter(lambda path: False)
        empty | MeasureRanker("ranker") | WriteRecords(str(tmp_path / "records"))
    assert pop_records(str(tmp_path / "records"), RankerFigures).of(RankerFigures) == []
