"""Steps, epochs, the loss, and records from which nothing can be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranking_records import BARE, SPEC, random_records, random_user, record, score_decides, write_graph, write_records

from trainer.errors import TrainingError
from trainer.ranker.config import RankerSettings
from trainer.ranker.inputs import all_impressions
from trainer.ranker.model import Ranker
from trainer.ranker.step import RankerStep, label_weights, weighted_logistic
from trainer.ranker.training import LabelTotals, RankingFiles, fit_ranker, sum_labels
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
    step, one = RankerStep(ranker, settings), all_impressions(tf.constant(random_records(9, seed=3)), SPEC)[1]
    one["video"] = tf.fill(one["video"].shape, 4)
    one["watches"] = tf.fill(one["watches"].shape, 7)
    before = ranker.tables["videos"].weights.numpy()
    losses = [float(step(one)) for _ in range(20)]
    assert losses[-1] < losses[0]
    changed = np.flatnonzero((ranker.tables["videos"].weights.numpy() != before).any(axis=1))
    assert changed.tolist() == [4, 7]


def test_totals_are_sums_over_all_impressions(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    made = [random_user(draw) for _ in range(25)]
    records = RecordFiles.from_paths(write_records(tmp_path, [record(f"u{i}", of) for i, of in enumerate(made)]))
    clicked, seconds = (np.concatenate([of[name] for of in made]) for name in ("clicked", "watch_seconds"))
    found = sum_labels(records, "watch_seconds")
    assert (found.impressions, found.positive) == (len(clicked), seconds.sum())
    assert found.negative == 2 * (clicked == 0).sum(), "an unclicked impression of these records stands for two"
    assert found.weight == clicked.sum() + found.negative
    assert found.odds == pytest.approx(seconds.sum() / found.negative)
    assert (found.users, found.pool_users) == (25, 4096), "few impressions: the largest pool"
    assert LabelTotals(users=10**5, impressions=10**8, weight=1, positive=1, negative=1).pool_users == 131
    assert found.mean_weight == pytest.approx(found.weight / len(clicked))


def test_a_planted_pattern_is_learned(files: RankingFiles) -> None:
    fitted = fit_ranker(files, SETTINGS)
    ranker, progress = fitted.ranker, fitted.progress
    assert progress.losses[-1]["loss"] < progress.losses[0]["loss"]
    assert progress.examples == 6 * sum_labels(RecordFiles.from_paths(files.train), "watch_seconds").impressions
    _, fresh = all_impressions(tf.constant(score_decides(300, seed=2)), SPEC)
    user = np.zeros(len(fresh["video"]), int)
    labels = (fresh["clicked"].numpy(), fresh["watch_seconds"].numpy())
    learned = ImpressionMetrics.from_impressions(user, user, *labels, ranker(fresh).numpy()).compute()
    best = ImpressionMetrics.from_impressions(user, user, *labels, fresh["score"].numpy()).compute()
    chance = ImpressionMetrics.from_impressions(user, user, *labels, np.zeros(len(user))).compute()
    assert chance["per_user_loss"] == 0.5
    assert learned["per_user_loss"] < best["per_user_loss"] + 0.05 < 0.25


@pytest.mark.slow
def test_a_training_is_deterministic(files: RankingFiles) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1, "dropout": 0.2})
    one, again = (fit_ranker(files, settings) for _ in range(2))
    losses = [[point["loss"] for point in of.progress.losses] for of in (one, again)]
    assert losses[0] == pytest.approx(losses[1])
    other = fit_ranker(files, settings.model_copy(update={"seed": 2}))
    assert losses[0][0] != pytest.approx(other.progress.losses[0]["loss"], rel=1e-6)


def test_means_are_the_means_of_the_inputs(files: RankingFiles) -> None:
    ranker = fit_ranker(files, SETTINGS.model_copy(update={"epochs": 1, "batch_size": 128})).ranker
    _, all_of = all_impressions(tf.constant(score_decides(900, seed=1)), SPEC)
    inputs = ranker.inputs(all_of, ranker.embed(all_of))
    for part, mean in ranker.means.items():  # 50 batches of 128 are more than all impressions
        expected = np.average(inputs[part].numpy(), axis=0, weights=all_of["impression_weight"].numpy())
        np.testing.assert_allclose(mean, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("clicked", "seconds", "message"),
    [
        ([1, 1], [4, 5], "the 2 impressions are 9 in all .* and 0 for"),
        ([0, 0], [0, 0], "the 2 impressions are 0 in all .* and 2 for"),
        ([1, 0], [0, 0], "the 2 impressions are 0 in all .* and 1 for"),
    ],
)
def test_there_must_be_watched_clicks_and_unclicked_impressions(
    tmp_path: Path, clicked: list[int], seconds: list[float], message: str
) -> None:
    paper = SETTINGS.model_copy(update={"positive_weights": "watch_seconds"})
    names = ("watches_end", "video", "page", "impression_day")
    lists: dict[str, Any] = {name: [0, 0] for name in names}
    lists |= {"watches": [], "clicked": clicked, "watch_seconds": seconds, "impression_weight": [1, 1]}
    train = write_records(tmp_path, [record("u", lists, BARE)], files=1)
    with pytest.raises(TrainingError, match=message):
        fit_ranker(RankingFiles(train=train, spec=BARE, graph=None), paper)


def test_without_files_there_is_nothing_to_learn() -> None:
    with pytest.raises(TrainingError, match="weights of the 0 impressions"):
        fit_ranker(RankingFiles(train=(), spec=BARE, graph=None), SETTINGS)


def test_a_loss_that_is_not_finite_ends_the_training(files: RankingFiles) -> None:
    wild = SETTINGS.model_copy(update={"tower_learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"the loss must be finite, but is (nan|inf) at step \d+: lower"):
        fit_ranker(files, wild)


# ---- the loss compared with numpy, and the odds that minimise it


@pytest.mark.parametrize("kind", ["watch_seconds", "exact", "equal"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_loss_equals_numpy(kind: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    clicked, logits = draw.integers(0, 2, 50), draw.normal(size=50) * 5
    seconds = clicked * draw.integers(0, 500, 50)
    expected = 0.0
    for click, watched, logit in zip(clicked, seconds, logits, strict=True):
        odds = np.exp(logit)
        of_positive, of_negative = -np.log(odds / (1 + odds)), -np.log(1 / (1 + odds))
        weight = 1 if kind == "equal" else watched
        expected += weight * of_positive if click else of_negative
        expected += of_negative if click and kind == "exact" else 0
    given = [tf.constant(of.astype(np.float32)) for of in (clicked, seconds, logits)]
    loss = weighted_logistic(given[2], *label_weights(given[0], given[1], kind))
    assert float(loss) == pytest.approx(expected / 50, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "odds"),
    [("watch_seconds", (40 + 80) / 6), ("exact", (40 + 80) / 8), ("equal", 2 / 6)],
    ids=["paper: seconds / unclicked", "seconds / all", "clicks / unclicked"],
)
def test_these_odds_minimise_the_loss(kind: str, odds: float) -> None:
    clicked, seconds = tf.constant([1.0, 1] + [0.0] * 6), tf.constant([40.0, 80] + [0.0] * 6)
    weights = label_weights(clicked, seconds, kind)
    logit = tf.Variable(np.log(odds), dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = weighted_logistic(tf.fill([8], logit), *weights)
    assert float(tape.gradient(loss, logit)) == pytest.approx(0, abs=1e-4)  # the loss is convex


def test_the_loss_of_extreme_logits_is_finite() -> None:
    loss = weighted_logistic(tf.constant([200.0, -200.0]), tf.constant([0.0, 1000.0]), tf.constant([1.0, 0.0]))
    assert float(loss) == pytest.approx(100_100)


@pytest.mark.parametrize("kind", ["watch_seconds", "exact", "equal"])
def test_the_weighted_loss_of_samples_has_the_expectation_of_the_loss_of_all(kind: str) -> None:
    """Loss and gradient, over the mean weight, of 4,000 samples that keep a quarter of the unclicked impressions."""
    draw, count, share = np.random.default_rng(4), 60, 0.25
    clicked = (draw.random(count) < 0.2).astype(np.float32)
    seconds = clicked * draw.integers(1, 300, count).astype(np.float32)
    logits = tf.constant(draw.normal(size=count).astype(np.float32) * 2)
    positive, negative = label_weights(tf.constant(clicked), tf.constant(seconds), kind)

    def loss_and_gradient(weights: np.ndarray) -> np.ndarray:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = weighted_logistic(logits, positive, negative, tf.constant(weights, tf.float32))
        return np.array([float(loss), *tape.gradient(loss, logits).numpy()])

    expected, samples = loss_and_gradient(np.ones(count)), []
    for _ in range(4_000):
        drawn = (clicked == 1) | (draw.random(count) < share)
        samples.append(loss_and_gradient(np.where(drawn, np.where(clicked == 1, 1, 1 / share), 0)))
    error = np.std(samples, axis=0) / np.sqrt(len(samples))
    np.testing.assert_array_less(np.abs(np.mean(samples, axis=0) - expected), 4.5 * error + 1e-6)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_predicted_seconds_are_those_watched_whatever_share_was_sampled(
    graph: str, tmp_path: Path, share: float
) -> None:
    """On all of the impressions that the sample was drawn from, the mean prediction is the mean watch time."""
    draw, whole, sampled = np.random.default_rng(6), [], []
    for user in range(1_500):
        lists = random_user(draw)
        count = len(lists["video"])
        clicked = (draw.random(count) < 0.15).astype(int)
        lists |= {"clicked": clicked, "watch_seconds": clicked * draw.integers(20, 60, count)}
        weights = np.where(clicked == 1, 1.0, 1 / share)
        whole.append(record(f"u{user}", lists | {"impression_weight": np.ones(count)}))
        rows = (clicked == 1) | (draw.random(count) < share)
        of_impressions = {name: of for name, of in lists.items() if name not in ("watches", "tokens", "record_night")}
        lists |= {name: of[rows] for name, of in (of_impressions | {"impression_weight": weights}).items()}
        sampled.append(record(f"u{user}", lists))
    files = RankingFiles(train=write_records(tmp_path, sampled), spec=SPEC, graph=graph)
    ranker = fit_ranker(files, SETTINGS.model_copy(update={"epochs": 2})).ranker
    _, batch = all_impressions(tf.constant(whole), SPEC)
    predicted, watched = np.exp(ranker(batch).numpy()).mean(), batch["watch_seconds"].numpy().mean()
    assert predicted == pytest.approx(watched, rel=0.12)


def test_epochs_follow_from_the_number_of_impressions(files: RankingFiles) -> None:
    fitted = fit_ranker(files, RankerSettings(hidden=[4], batch_size=256))
    impressions = sum_labels(RecordFiles.from_paths(files.train), "exact").impressions
    assert fitted.settings.epochs == 3 and fitted.progress.examples == 3 * impressions
    assert fitted.explained == {"epochs": f"3 ({impressions:,} impressions; 3,000,000 in 1 to 3)"}
    assert fit_ranker(files, RankerSettings(hidden=[4], epochs=1)).explained == {}
