from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_records import SPEC, random_records, random_user, record, write_file, write_folder
from trainings import read_vectors

from trainer.config import LossName, ModelSettings, TrainingSettings
from trainer.examples import read_folder, read_label_counts
from trainer.export import ServedTower, write_video_vectors
from trainer.inputs import cut_windows, parse_records
from trainer.record_files import RecordFiles
from trainer.training import FitResult, fit
from trainer.trends import SHRINKAGE, SLOT_DAYS, TRENDS, UNSEEN, WEEK, Trends, read_trends, trend_features
from transforms.core.tensorflow_import import tf

COUNTS = st.integers(1, 30).flatmap(
    lambda days: st.integers(1, 5).flatmap(
        lambda videos: st.lists(
            st.lists(st.integers(0, 9), min_size=videos, max_size=videos), min_size=days, max_size=days
        )
    )
)


def expected(counts: list[list[int]], video: int, first: int) -> list[float]:
    """The trends of a video as of a day, by the table of the module."""
    videos = len(counts[0])

    def total(days: list[list[int]]) -> int:
        return sum(map(sum, days))

    def shrunk(days: list[list[int]], towards: float) -> float:
        own = sum(day[video] for day in days)
        return (own + SHRINKAGE * videos * towards) / (total(days) + SHRINKAGE * videos)

    older = counts[first:]
    share = (sum(day[video] for day in older) + UNSEEN) / (total(older) + UNSEEN * videos)
    week = shrunk(older[:WEEK], share)
    return [math.log(share * videos), math.log(week / share), math.log(shrunk(older[:1], week) / week)]


@given(counts=COUNTS)
def test_trends_of_each_slot_are_those_of_the_table(counts: list[list[int]]) -> None:
    found = trend_features(np.array(counts, np.int32))
    slots = found.shape[1] // TRENDS
    assert SLOT_DAYS[slots - 1] >= len(counts) > (SLOT_DAYS[slots - 2] if slots > 1 else -1)
    assert not found[0].any()
    for video in range(len(counts[0])):
        for slot in range(slots):
            trends = found[1 + video, TRENDS * slot : TRENDS * (slot + 1)]
            np.testing.assert_allclose(trends, expected(counts, video, SLOT_DAYS[slot]), rtol=1e-4, atol=1e-5)


@given(counts=COUNTS, day=st.integers(0, 29), extra=st.integers(1, 9))
def test_trends_as_of_a_day_do_not_depend_on_later_days(counts: list[list[int]], day: int, extra: int) -> None:
    day = min(day, len(counts) - 1)
    changed = [[n + extra for n in row] if i <= day else row for i, row in enumerate(counts)]
    before, after = (trend_features(np.array(rows, np.int32)) for rows in (counts, changed))
    earlier = TRENDS * int(np.searchsorted(SLOT_DAYS, day, side="right"))  # the first slot that starts before that day
    np.testing.assert_array_equal(before[:, earlier:], after[:, earlier:])


def test_a_rising_video_has_positive_trends() -> None:
    counts = np.full((20, 3), 5, np.int32)
    counts[:WEEK, 1], counts[0, 2] = 50, 50
    overall, week, day = trend_features(counts)[1:, :TRENDS].T
    assert week[1] > 0 > week[0] and day[2] > 0 > day[0]
    assert overall[1] > overall[0]


def test_weights_are_in_the_slot_of_the_moment() -> None:
    trends = Trends(features=tf.zeros([4, TRENDS * 17]))  # slots up to day 18
    weights = tf.constant([[1.0, 2, 3]] * 5)
    wide = trends.widen(tf.fill([5, 2], 7.0), weights, tf.constant([0, 3, 15, 16, 400])).numpy()
    assert (wide[:, :2] == 7).all()
    by_slot = wide[:, 2:].reshape(5, 17, TRENDS)
    # Day 15 has the trends as of day 16, which sees no later watch; days before the logs have the last slot.
    for row, slot in enumerate([0, 3, 15, 15, 16]):
        np.testing.assert_array_equal(by_slot[row, slot], [1, 2, 3])
        assert by_slot[row].sum() == 6
    same = trends.widen(tf.fill([5, 2], 7.0), weights, None).numpy()
    np.testing.assert_array_equal(same[:, 2 : 2 + TRENDS], weights)


@pytest.mark.parametrize(
    ("holdout_days", "columns"), [(0, [0, 1, 2]), (1, [0, 1, 2, 3, 4, 5]), (30, [0, 1, 2, 9, 10, 11])]
)
def test_exported_columns_are_those_of_serving_and_of_the_holdout(holdout_days: int, columns: list[int]) -> None:
    assert Trends(features=tf.zeros([4, TRENDS * 4])).served_columns(holdout_days) == columns


def test_trends_count_the_labels_of_the_records(tmp_path: Path) -> None:
    rows = [
        {"label": [1, 2, 2], "as_of_days": [3, 1, 2]},  # on the days 2, 0 and 1 before the end
        {"label": [3, 1], "as_of_days": [1, 1]},
    ]
    path = write_file(tmp_path / "train.gz", [record(f"u{i}", **row) for i, row in enumerate(rows)])
    found = read_trends(RecordFiles.from_paths([path]), videos=3)
    counts = np.array([[1, 1, 1], [0, 1, 0], [1, 0, 0]], np.int32)
    np.testing.assert_array_equal(found.features, trend_features(counts))


def test_labels_without_their_days_are_an_error(tmp_path: Path) -> None:
    path = write_file(tmp_path / "train.gz", [record("u", label=[1, 2])])
    with pytest.raises(tf.errors.InvalidArgumentError, match="run the examples stage again"):
        read_trends(RecordFiles.from_paths([path]), videos=3)


DATED = replace(SPEC, holdout_days=2)
LOSSES = [loss for loss in get_args(LossName) if loss != "hierarchical_softmax"]


def dated_records(count: int, *, seed: int, as_of_days: int) -> list[bytes]:
    """Records of one pointer at a moment."""
    draw = np.random.default_rng(seed)
    rows = [random_user(draw, DATED, pointers=1) | {"as_of_days": [as_of_days]} for _ in range(count)]
    return [record(f"user {i}", **row) for i, row in enumerate(rows)]


def fitted(tmp_path: Path, **model: object) -> FitResult:
    folder = write_folder(
        tmp_path / "examples",
        train={"0": random_records(40, seed=1, spec=DATED)},
        holdout={"h": dated_records(10, seed=9, as_of_days=2)},
        spec=DATED,
    )
    settings = {"dimension": 8, "hidden": [16], "negatives": 20, "hard_pool": 40, "trends": True} | model
    files = read_folder(folder)
    return fit(
        files,
        read_label_counts(files),
        model_settings=ModelSettings.model_validate(settings),
        settings=TrainingSettings(batch_size=32, epochs=2),
        checkpoints=f"{tmp_path}/checkpoints",
        logs=f"{tmp_path}/logs",
    )


@pytest.mark.parametrize(
    "model",
    [*({"loss": loss} for loss in LOSSES), {"history": "attention"}, {"co_watches": True}, {"shared_vectors": True}],
)
def test_exported_vectors_give_the_scores_of_the_model(tmp_path: Path, model: dict[str, object]) -> None:
    """At both moments that are exported: the end of the window, and the start of the held-out days."""
    result = fitted(tmp_path, **model)
    trained, files = result.model, read_folder(str(tmp_path / "examples"))
    path = f"{tmp_path}/vectors.parquet"
    write_video_vectors(trained, read_label_counts(files), path)
    videos = read_vectors(path)
    assert videos.shape == (30, 8 + 2 * TRENDS + 1)
    served = ServedTower(trained.tower)
    scores = {}
    for days in (0, 2):
        records = tf.constant(dated_records(20, seed=4, as_of_days=days))
        parsed = parse_records(records, DATED, training=False)
        batch = cut_windows(parsed.lists, parsed.pointers, DATED)
        scores[days] = result.step.loss.scores(trained.tower(batch))[:, 1:].numpy()
        users = served.from_examples(records)["vector"].numpy()
        np.testing.assert_allclose(users @ videos.T, scores[days], rtol=1e-4, atol=1e-4)
    assert np.abs(scores[0] - scores[2]).max() > 0.01


def test_static_shapes_compute_the_same_loss_with_trends(tmp_path: Path) -> None:
    """The function for XLA and that of TensorFlow."""
    loss, draw = fitted(tmp_path).step.loss, np.random.default_rng(1)
    assert loss.trends is not None
    labels = tf.constant(draw.integers(1, 31, 16), tf.int32)
    users = tf.constant(draw.normal(size=(16, 8 + TRENDS * loss.trends.slots)), tf.float32)
    candidates = loss.candidates(labels, users, seed=tf.constant([1, 2]))
    expected_loss = loss(users, labels, candidates)
    loss.written_out = True
    np.testing.assert_allclose(loss(users, labels, candidates), expected_loss, rtol=1e-5)
