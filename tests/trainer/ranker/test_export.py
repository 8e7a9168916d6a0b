"""The signatures of the exported ranker return what the ranker in memory returns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ranking_records import SPEC, random_records, write_graph

from trainer.batch import REQUEST
from trainer.ranker.config import RankerSettings
from trainer.ranker.export import ServedRanker, export_ranker
from trainer.ranker.inputs import all_impressions
from trainer.ranker.model import PARTS, Ranker
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

RECORDS = random_records(40, seed=1)


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    graph = write_graph(tmp_path_factory.mktemp("graph"))
    made = Ranker(SPEC, RankerSettings(hidden=[8, 4]), graph=graph, odds=3.0, seed=1)
    for part in PARTS:
        made.means[part].assign(np.random.default_rng(1).normal(size=made.width(part)).astype(np.float32))
    return made


def features() -> dict[str, tf.Tensor]:
    """Return each impression as its own request."""
    batch = all_impressions(tf.constant(RECORDS), SPEC)[1]
    rows = tf.range(len(batch["video"]))
    return {REQUEST: rows, **{name: batch[name] for name in SPEC.features}}


def test_a_loaded_ranker_returns_what_the_ranker_returned(ranker: Ranker, tmp_path: Path) -> None:
    export_ranker(ranker, str(tmp_path / "ranker"))
    loaded, asked = tf.saved_model.load(str(tmp_path / "ranker")), features()
    scored = loaded.signatures["score"](**asked)["log_odds"].numpy()
    np.testing.assert_allclose(scored, ranker(asked), rtol=1e-5, atol=1e-5)
    of_records = loaded.signatures["records"](records=tf.constant(RECORDS))
    np.testing.assert_allclose(of_records["log_odds"], scored, rtol=1e-5, atol=1e-5)
    explained = loaded.signatures["explain"](**asked)
    np.testing.assert_allclose(explained["log_odds"], scored, rtol=1e-5, atol=1e-5)
    assert explained["moves"].shape == (len(scored), len(SPEC.features))
    assert RankingSpec.from_json((tmp_path / "ranker" / "spec.json").read_text(encoding="utf-8")) == SPEC


def test_records_have_the_user_of_each_impression(ranker: Ranker) -> None:
    parsed, batch = all_impressions(tf.constant(RECORDS), SPEC)
    found = {name: of.numpy() for name, of in ServedRanker(ranker).records(tf.constant(RECORDS)).items()}
    np.testing.assert_array_equal(np.bincount(found["user"], minlength=40), parsed.pointer_counts)
    assert found["user_id"].tolist() == [f"user {i}".encode() for i in range(40)]
    for name in ("clicked", "watch_seconds", "page", "impression_day", "video"):
        np.testing.assert_array_equal(found[name], batch[name])


def test_a_move_is_the_change_from_the_mean_of_a_feature(ranker: Ranker) -> None:
    asked = features()
    inputs = {part: of.numpy() for part, of in ranker.inputs(asked, ranker.embed(asked)).items()}
    found = ServedRanker(ranker).explain(asked)
    log_odds = ranker(asked).numpy()
    for place, name in enumerate(SPEC.features):
        part = "query" if name in SPEC.query_features else "impression"
        changed = {one: of.copy() for one, of in inputs.items()}
        columns = ranker.columns[part][name]
        changed[part][:, columns] = ranker.means[part].numpy()[columns]
        expected = log_odds - ranker.logits({p: tf.constant(of) for p, of in changed.items()}, None).numpy()
        np.testing.assert_allclose(found["moves"][:, place], expected, rtol=1e-3, atol=1e-4)
    assert np.abs(found["moves"]).max() > 0.1
