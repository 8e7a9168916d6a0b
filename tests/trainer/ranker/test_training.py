"""Steps, passes and what nothing can be learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranking_records import BARE, SPEC, random_records, random_user, record, score_decides, write_graph, write_records

from trainer.errors import TrainingError
from trainer.ranker.config import RankerSettings
from trainer.ranker.inputs import served_batch
from trainer.ranker.model import Ranker
from trainer.ranker.training import RankerStep, RankingFiles, fit_ranker, totals
from trainer.record_files import RecordFiles
from transforms.core.tensorflow_import import tf
from transforms.ranking.impression_metrics import ImpressionMetrics

SETTINGS = RankerSettings(hidden=[16], batch_size=64, epochs=6)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_graph(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def files(graph: str, tmp_path_factory: pytest.TempPathFactory) -> RankingFiles:
    train = write_records(tmp_path_factory.mktemp("train"), score_decides(900, seed=1))
    return RankingFiles(train=train, spec=SPEC, graph=graph)


@pytest.mark.parametrize("kind", ["watch_seconds", "exact", "equal"])
def test_steps_on_one_batch_lower_its_loss_and_touch_only_the_rows_used(graph: str, kind: str) -> None:
    settings = RankerSettings.model_validate({"hidden": [16], "positive_weights": kind})
    ranker = Ranker(SPEC, settings, graph=graph, odds=1.0, seed=1)
    step, one = RankerStep(ranker, settings), served_batch(tf.constant(random_records(9, seed=3)), SPEC)[1]
    one["video"] = tf.fill(one["video"].shape, 4)
    one["watches"] = tf.fill(one["watches"].shape, 7)
    before = ranker.tables["videos"].weights.numpy()
    losses = [float(step(one)) for _ in range(20)]
    assert losses[-1] < losses[0]
    changed = np.flatnonzero((ranker.tables["videos"].weights.numpy() != before).any(axis=1))
    assert changed.tolist() == [4, 7]


def test_totals_are_those_of_all_impressions(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    made = [random_user(draw) for _ in range(25)]
    records = RecordFiles.of(write_records(tmp_path, [record(f"u{i}", of) for i, of in enumerate(made)]))
    clicked, seconds = (np.concatenate([of[name] for of in made]) for name in ("clicked", "watch_seconds"))
    found = totals(records, "watch_seconds")
    assert (found.impressions, found.positive) == (len(clicked), seconds.sum())
    assert found.negative == (clicked == 0).sum()
    assert found.odds == pytest.approx(seconds.sum() / (clicked == 0).sum())


def test_a_planted_pattern_is_learned(files: RankingFiles) -> None:
    ranker, progress = fit_ranker(files, SETTINGS)
    assert progress.losses[-1]["loss"] < progress.losses[0]["loss"]
    assert progress.examples == 6 * totals(RecordFiles.of(files.train), "watch_seconds").impressions
    _, fresh = served_batch(tf.constant(score_decides(300, seed=2)), SPEC)
    user = np.zeros(len(fresh["video"]), int)
    labels = (fresh["clicked"].numpy(), fresh["watch_seconds"].numpy())
    learned = ImpressionMetrics.from_impressions(user, user, *labels, ranker(fresh).numpy()).compute()
    best = ImpressionMetrics.from_impressions(user, user, *labels, fresh["score"].numpy()).compute()
    chance = ImpressionMetrics.from_impressions(user, user, *labels, np.zeros(len(user))).compute()
    assert chance["per_user_loss"] == 0.5
    assert learned["per_user_loss"] < best["per_user_loss"] + 0.05 < 0.25


def test_the_same_files_and_settings_give_the_same_ranker(files: RankingFiles) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1, "dropout": 0.2})
    one, again = (fit_ranker(files, settings) for _ in range(2))
    assert [point["loss"] for point in one[1].losses] == pytest.approx([point["loss"] for point in again[1].losses])
    other = fit_ranker(files, settings.model_copy(update={"seed": 2}))
    assert one[1].losses[0]["loss"] != pytest.approx(other[1].losses[0]["loss"], rel=1e-6)


def test_means_are_those_of_the_inputs(files: RankingFiles) -> None:
    ranker, _ = fit_ranker(files, SETTINGS.model_copy(update={"epochs": 1, "batch_size": 128}))
    _, all_of = served_batch(tf.constant(score_decides(900, seed=1)), SPEC)
    inputs = ranker.inputs(all_of, ranker.embed(all_of))
    for part, mean in ranker.means.items():  # 50 batches of 128 are more than there are
        np.testing.assert_allclose(mean, inputs[part].numpy().mean(axis=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("clicked", "seconds", "message"),
    [
        ([1, 1], [4, 5], "the 2 impressions the former weigh 9 and the latter 0"),
        ([0, 0], [0, 0], "the 2 impressions the former weigh 0 and the latter 2"),
        ([1, 0], [0, 0], "the 2 impressions the former weigh 0 and the latter 1"),
    ],
)
def test_there_must_be_watched_clicks_and_others(
    tmp_path: Path, clicked: list[int], seconds: list[float], message: str
) -> None:
    names = ("watches_end", "video", "page", "impression_day")
    lists: dict[str, Any] = {name: [0, 0] for name in names} | {
        "watches": [],
        "clicked": clicked,
        "watch_seconds": seconds,
    }
    train = write_records(tmp_path, [record("u", lists, BARE)], files=1)
    with pytest.raises(TrainingError, match=message):
        fit_ranker(RankingFiles(train=train, spec=BARE, graph=None), SETTINGS)


def test_without_files_there_is_nothing_to_learn() -> None:
    with pytest.raises(TrainingError, match="of the 0 impressions"):
        fit_ranker(RankingFiles(train=(), spec=BARE, graph=None), SETTINGS)


def test_a_loss_that_is_no_number_ends_the_training(files: RankingFiles) -> None:
    wild = SETTINGS.model_copy(update={"tower_learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"the loss must stay a number, but is (nan|inf) at step \d+: lower"):
        fit_ranker(files, wild)
