"""The exported ranker applied to arrays and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ranking_records import SPEC, random_records, write_graph, write_records

from trainer.ranker.config import RankerSettings
from trainer.ranker.export import export_ranker
from trainer.ranker.inputs import served_batch
from trainer.ranker.model import Ranker as Trained
from transforms.core.tensorflow_import import tf
from transforms.ranking import ranker
from transforms.ranking.ranker import Ranker, load_ranker

RECORDS = random_records(60, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("ranker")
    trained = Trained(SPEC, RankerSettings(hidden=[8]), graph=write_graph(made), odds=3.0, seed=1)
    export_ranker(trained, str(made / "ranker"))
    return str(made / "ranker")


def asked() -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A few candidates of each of five requests, one of which has none."""
    batch = {name: of.numpy() for name, of in served_batch(tf.constant(RECORDS), SPEC)[1].items()}
    request = np.repeat(np.arange(5), [3, 0, 7, 1, 4])
    query = {name: batch[name][:5] for name in SPEC.query_features}
    return request, query, {name: batch[name][: len(request)] for name in SPEC.impression_features}


@pytest.mark.parametrize("at_once", [1, 4, 1_000])
def test_candidates_are_scored_alike_however_many_at_once(
    folder: str, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
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


def test_records_come_with_users_and_labels(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranker, "USERS_AT_ONCE", 25)
    (path,) = write_records(tmp_path, RECORDS, files=1)
    parts = list(load_ranker(folder).records(path))
    assert [len(users) for users, _ in parts] == [25, 25, 10]
    assert [user for users, _ in parts for user in users] == [f"user {i}" for i in range(60)]
    batch = served_batch(tf.constant(RECORDS), SPEC)[1]
    for name in ("clicked", "watch_seconds", "page", "impression_day", "video"):
        np.testing.assert_array_equal(np.concatenate([of[name] for _, of in parts]), batch[name])
    assert all(of["user"].max() < len(users) for users, of in parts)
