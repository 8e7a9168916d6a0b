"""The exported ranker, applied to arrays and files; its metrics on several files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from ranking_records import SPEC, random_records, write_graph, write_records

from trainer.ranker.config import RankerSettings
from trainer.ranker.export import export_ranker
from trainer.ranker.inputs import all_impressions
from trainer.ranker.model import Ranker as Trained
from transforms.core.records import WriteRecords, pop_records
from transforms.core.tensorflow_import import tf
from transforms.ranking import ranker
from transforms.ranking.calibration import CalibrationBins, bins_of
from transforms.ranking.impression_metrics import ImpressionMetrics
from transforms.ranking.ranker import (
    BinImpressions,
    MeasureRanker,
    Ranker,
    RankerFigures,
    ScoredImpressions,
    bin_records,
    load_ranker,
    measure_records,
    merge_measured,
)

RECORDS = random_records(60, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("ranker")
    trained = Trained(SPEC, RankerSettings(hidden=[8]), graph=write_graph(made), odds=3.0, seed=1)
    export_ranker(trained, str(made / "ranker"))
    return str(made / "ranker")


def asked() -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return candidates of five requests, one of which has none."""
    batch = {name: of.numpy() for name, of in all_impressions(tf.constant(RECORDS), SPEC)[1].items()}
    request = np.repeat(np.arange(5), [3, 0, 7, 1, 4])
    query = {name: batch[name][:5] for name in SPEC.query_features}
    return request, query, {name: batch[name][: len(request)] for name in SPEC.impression_features}


@pytest.mark.parametrize("at_once", [1, 4, 1_000])
def test_scores_do_not_depend_on_the_batch_size(folder: str, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(ranker, "CANDIDATES_AT_ONCE", at_once)
    request, query, impressions = asked()
    found = load_ranker(folder).score(request, query, impressions)
    every = {name: of[request] for name, of in query.items()} | impressions | {"request": np.arange(len(request))}
    model = tf.saved_model.load(folder)
    kinds = {name: tf.float32 if name in SPEC.numbers else tf.int32 for name in every}
    expected = model.signatures["score"](**{name: tf.constant(of, kinds[name]) for name, of in every.items()})
    np.testing.assert_allclose(found, expected["log_odds"], rtol=1e-5, atol=1e-5)
    moves = load_ranker(folder).explain(request, query, impressions)
    assert moves.shape == (len(request), len(SPEC.features))


def test_no_candidates(folder: str) -> None:
    request, query, impressions = asked()
    none = {name: of[:0] for name, of in impressions.items()}
    assert Ranker(folder).score(request[:0], query, none).shape == (0,)
    assert Ranker(folder).explain(request[:0], query, none).shape == (0, len(SPEC.features))


def test_records_are_scored_with_users_and_labels(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranker, "USERS_AT_ONCE", 25)
    (path,) = write_records(tmp_path, RECORDS, files=1)
    parts = list(load_ranker(folder).records(path))
    assert [len(part.user_ids) for part in parts] == [25, 25, 10]
    assert [user for part in parts for user in part.user_ids] == [f"user {i}" for i in range(60)]
    batch = all_impressions(tf.constant(RECORDS), SPEC)[1]
    for name in ("clicked", "watch_seconds", "page", "impression_day", "video"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), batch[name])
    lengths = np.concatenate([part.video_seconds for part in parts])
    expected = batch["video_seconds"] if "video_seconds" in SPEC.numbers else np.full(len(lengths), np.nan)
    np.testing.assert_array_equal(lengths, expected)
    assert all(part.user.max() < len(part.user_ids) for part in parts)


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
    """A ranker whose record files are named by their number of batches."""

    def records(self, path: str) -> Iterator[ScoredImpressions]:
        for n in range(int(path)):
            columns = impressions(int(path) * 10 + n, 4)
            columns |= dict.fromkeys(("impression_day", "video"), np.zeros(30, np.int64))
            lengths = np.full(30, 1.5, np.float32)
            users = [f"{path}-{n}-{user}" for user in range(4)]
            yield ScoredImpressions(user_ids=users, video_seconds=lengths, **columns)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranker, "load_ranker", lambda folder: ByHand())


EDGES = [-1.0, 0.0]


@pytest.mark.usefixtures("by_hand")
def test_batches_are_measured_together() -> None:
    batches = [impressions(seed, 4) for seed in (20, 21)]
    limited = [batch | {"log_odds": np.minimum(batch["log_odds"], np.log(1.5))} for batch in batches]
    parts = [ImpressionMetrics.from_impressions(**batch) for batch in limited]
    measured = measure_records("2", "ranker", EDGES)
    assert measured is not None
    metrics, sums = measured
    assert metrics.compute() == parts[0].merge(parts[1]).compute()
    assert sums.users == 8 and sums.impressions.sum() == 60
    bins = bin_records("2", "ranker")
    assert np.sum(bins.clicks) == sum(batch["clicked"].sum() for batch in batches)
    assert np.sum(bins.watched) == 1_000 * sum(batch["watch_seconds"].sum() for batch in batches)
    log_odds = np.concatenate([batch["log_odds"] for batch in batches])
    assert np.sum(bins.impressions, axis=0).tolist() == np.bincount(bins_of(log_odds), minlength=4_096).tolist()


@pytest.mark.usefixtures("by_hand")
def test_files_are_measured_together(tmp_path: Path) -> None:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        (
            pipeline
            | beam.Create(["1", "0", "2"])
            | MeasureRanker("ranker", EDGES)
            | WriteRecords(str(tmp_path / "records"))
        )
    (record,) = pop_records(str(tmp_path / "records"), RankerFigures).of(RankerFigures)
    whole = merge_measured([measure_records(path, "ranker", EDGES) for path in "12"])
    assert whole is not None
    assert record.figures == json.loads(json.dumps(whole[0].compute(), default=float))
    assert record.calibration == whole[1].compute(fitted=False)
    assert [of.impressions for of in record.calibration.classes] == whole[1].impressions.tolist()


@pytest.mark.usefixtures("by_hand")
def test_files_are_summed_up_for_the_calibration(tmp_path: Path) -> None:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(["1", "2"]) | BinImpressions("ranker") | WriteRecords(str(tmp_path / "records"))
    found = pop_records(str(tmp_path / "records"), CalibrationBins).of(CalibrationBins)
    assert found[0].merge(found[1]) == bin_records("1", "ranker").merge(bin_records("2", "ranker"))


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("paths", [[], ["0"]])
def test_no_impressions_give_no_record(tmp_path: Path, paths: list[str]) -> None:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        listed = pipeline | beam.Create(["1", *paths]) | beam.Filter(lambda path: path != "1")
        listed | MeasureRanker("ranker", EDGES) | WriteRecords(str(tmp_path / "records"))
    assert pop_records(str(tmp_path / "records"), RankerFigures).of(RankerFigures) == []
