from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from trainer_records import SPEC, random_records

from trainer.batch import Batch
from trainer.config import ModelSettings
from trainer.history import ENCODERS, Mean, Recency, Shortcut
from trainer.holdout import top_videos
from trainer.inputs import cut_windows, parse_records
from trainer.model import ACTIVATIONS, Model, UserTower, category_dimension
from trainer.sequences import history_rows
from trainer.tables import Table
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

WINDOWS = np.array([[0, 0, 3, 0, 7], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0], [9, 9, 9, 1, 0]], np.int32)


def mean_by_hand(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    rows = [[vectors[i] for i in window if i] for window in WINDOWS]
    return np.array([np.mean(row, axis=0) if row else np.zeros(vectors.shape[1]) for row in rows], np.float32)


def test_mean_ignores_unknown_videos() -> None:
    table = Table(10, 3, scale=1.0, seed=(1, 2), name="table")
    windows, positions = history_rows({"watches": tf.constant(WINDOWS)})
    encoded = Mean(ModelSettings(dimension=3), length=5, seed=1)(table.embed(windows), positions)
    np.testing.assert_allclose(encoded, mean_by_hand(table.weights.numpy()), rtol=1e-5, atol=1e-6)


def test_recency_concatenates_mean_weighted_mean_and_last_video() -> None:
    table = Table(10, 3, scale=1.0, seed=(1, 2), name="table")
    encoder = Recency(ModelSettings(dimension=3), length=5, seed=1)
    encoder.logits.assign(np.random.default_rng(1).normal(size=(5, 3)))
    windows, positions = history_rows({"watches": tf.constant(WINDOWS)})
    encoded = encoder(table.embed(windows), positions).numpy()
    vectors, weights = table.weights.numpy(), np.exp(encoder.logits.numpy())
    for row, window in zip(encoded, WINDOWS, strict=True):
        known = window > 0
        total = (weights * known[:, None]).sum(axis=0)
        weighted = (vectors[window] * weights).sum(axis=0) / np.where(total > 0, total, 1)
        np.testing.assert_allclose(row[3:6], weighted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(encoded[:, :3], mean_by_hand(vectors), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(encoded[:, 6:], vectors[WINDOWS[:, -1]], rtol=1e-6)
    assert encoder.width == encoded.shape[1]


def test_the_shortcut_is_a_decaying_sum_divided_by_a_power_of_its_weights() -> None:
    table = Table(10, 3, scale=1.0, seed=(1, 2), name="table")
    shortcut = Shortcut(length=5)
    shortcut.gain.assign(2.0)
    windows, positions = history_rows({"watches": tf.constant(WINDOWS)})
    found = shortcut(table.embed(windows), positions).numpy()
    vectors, decay = table.weights.numpy(), 0.9 ** np.arange(4, -1, -1)
    for row, window in zip(found, WINDOWS, strict=True):
        weights = decay * (window > 0)
        expected = 2 * weights @ vectors[window] / np.sqrt(max(weights.sum(), 1e-6))
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)


def test_history_dropout_drops_its_share_of_watches_and_none_without_a_seed() -> None:
    spec = FeatureSpec(videos=30, tokens=0, watch_history=50, search_history=4)
    tower = UserTower(spec, ModelSettings(dimension=4, hidden=[], history_dropout=0.3), seed=1)
    batch = {"watches": tf.random.stateless_uniform([200, 50], (1, 2), 1, 31, tf.int32), "example_age": tf.zeros([200])}
    dropped, same, other = (tower.embed(batch, dropout_seed=tf.constant([5, step]))["watches"] for step in (1, 1, 2))
    assert np.mean(~dropped.known.numpy()) == pytest.approx(0.3, abs=0.02)
    np.testing.assert_array_equal(dropped.known, same.known)
    assert (dropped.known.numpy() != other.known.numpy()).any()
    assert tower.embed(batch)["watches"].known.numpy().all()


def batch_of(spec: FeatureSpec, count: int = 12) -> Batch:
    parsed = parse_records(tf.constant(random_records(count, seed=5, spec=spec)), spec, training=True)
    return cut_windows(parsed.lists, parsed.pointers, spec)


@pytest.mark.parametrize("history", list(ENCODERS))
@pytest.mark.parametrize(
    "spec", [SPEC, FeatureSpec(videos=30, tokens=0, watch_history=5, search_history=4)], ids=["all", "watches alone"]
)
def test_the_tower_returns_a_vector_for_each_pointer(history: str, spec: FeatureSpec) -> None:
    settings = ModelSettings(dimension=8, hidden=[16, 8], history=history)
    batch = batch_of(spec)
    users = UserTower(spec, settings, seed=1)(batch)
    assert users.shape == (len(batch["label"]), 8)
    assert np.isfinite(users).all()


@pytest.mark.parametrize("history", list(ENCODERS))
def test_look_up_and_embed_give_the_same_vectors(history: str) -> None:
    tower = UserTower(SPEC, ModelSettings(dimension=8, hidden=[16], history=history), seed=3)
    batch = batch_of(SPEC)
    np.testing.assert_array_equal(tower.vectors(batch, tower.look_up(batch)), tower(batch))


@pytest.mark.parametrize(
    ("hidden", "widths"),
    [
        ("depth-0", []),
        ("depth-1", [256]),
        ("depth-2", [512, 256]),
        ("depth-3", [1024, 512, 256]),
        ("depth-4", [2048, 1024, 512, 256]),
        ([24, 12], [24, 12]),
        ([], []),
    ],
)
def test_a_depth_is_a_tower_of_the_paper(hidden: str | list[int], widths: list[int]) -> None:
    settings = ModelSettings.model_validate({"dimension": 8, "hidden": hidden})
    tower = UserTower(SPEC, settings, seed=1)
    assert settings.hidden == widths
    assert [layer.kernel.shape[1] for layer in tower.layers] == [*widths, 8]
    assert tower(batch_of(SPEC)).shape[1] == 8


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_the_hidden_layers_use_the_activation_and_the_last_is_linear(activation: str) -> None:
    settings = ModelSettings.model_validate({"dimension": 8, "hidden": [16], "activation": activation})
    tower, batch = UserTower(SPEC, settings, seed=1), batch_of(SPEC)
    inputs = tf.concat(tower._inputs(batch, tower.embed(batch), None), axis=1)
    expected = tower.layers[1](getattr(tf.nn, activation)(tower.layers[0](inputs)))
    np.testing.assert_allclose(tower(batch), expected, rtol=1e-5, atol=1e-6)


def test_every_input_changes_the_user_vector() -> None:
    tower = UserTower(SPEC, ModelSettings(dimension=8, hidden=[16]), seed=1)
    batch = {name: tensor[:1] for name, tensor in batch_of(SPEC).items()}
    batch |= {"watches": tf.constant([[0, 0, 1, 2, 3]]), "tokens": tf.constant([[0, 0, 1, 2]])}
    batch |= {"country": tf.constant([1]), "age": tf.constant([0.5]), "example_age": tf.constant([0.3])}
    changes = {"watches": [[0, 0, 1, 2, 4]], "tokens": [[0, 0, 1, 3]], "country": [2], "age": [0.0]}
    for name, value in {**changes, "example_age": [0.4]}.items():
        changed = {**batch, name: tf.constant(value, batch[name].dtype)}
        assert not np.allclose(tower(changed), tower(batch)), name
    # An unknown number differs from 0.
    assert not np.allclose(tower({**batch, "age": tf.constant([-1.0])}), tower({**batch, "age": tf.constant([0.0])}))


def test_without_example_age_the_tower_has_no_input_for_it() -> None:
    with_age, without = (
        UserTower(SPEC, ModelSettings(dimension=8, hidden=[16], example_age=read), seed=1) for read in (True, False)
    )
    batch = batch_of(SPEC)
    older = {**batch, "example_age": (batch["example_age"] + 1) / 2}
    assert (without(older).numpy() == without(batch).numpy()).all()
    assert not np.allclose(with_age(older), with_age(batch))
    assert with_age.layers[0].kernel.shape[0] - without.layers[0].kernel.shape[0] == 3  # the powers


def test_only_the_watch_history_has_shared_rows() -> None:
    spec = FeatureSpec(videos=30, tokens=0, watch_history=5, search_history=4, shared_rows=3)
    model = Model(spec, ModelSettings(dimension=8, hidden=[16]), np.ones(30, np.int64), seed=1)
    sizes = {name: table.size for name, table in model.tables.items()}
    assert sizes == {"watches": 33, "videos": 30, "biases": 30}
    one = {name: tensor[:1] for name, tensor in batch_of(spec).items()}
    users = [model.tower({**one, "watches": tf.constant([[0, 0, 1, 2, last]])}).numpy() for last in (0, 31, 33)]
    assert not np.allclose(users[0], users[1]) and not np.allclose(users[1], users[2])


def test_a_shared_row_in_the_history_excludes_no_video() -> None:
    watched = tf.ragged.constant([[5, 2], [4], []], dtype=tf.int32)
    scores = tf.constant([[9.0, 3.0, 2.0, 1.0]] * 3)  # column 0 is no video
    assert top_videos(scores, watched, k=3).tolist() == [[1, 3, -1], [1, 2, 3], [1, 2, 3]]


def test_dropout_depends_on_its_seed_and_is_off_without() -> None:
    tower = UserTower(SPEC, ModelSettings(dimension=8, hidden=[16], dropout=0.5), seed=1)
    batch = batch_of(SPEC)
    draws = [
        tower.vectors(batch, tower.embed(batch), dropout_seed=tf.constant(seed)).numpy()
        for seed in ([1, 2], [1, 2], [1, 3])
    ]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()
    assert (tower(batch).numpy() == tower(batch).numpy()).all()


def test_initial_biases_rank_by_label_count() -> None:
    counts = np.arange(30, 0, -1)
    model = Model(SPEC, ModelSettings(dimension=8, hidden=[16]), counts, seed=1)
    np.testing.assert_allclose(np.exp(model.biases.weights[1:, 0]).sum(), 1, rtol=1e-5)
    assert (np.diff(model.biases.weights[1:, 0]) < 0).all()
    assert all(not table.weights[0].numpy().any() for table in model.tables.values())


def test_category_dimension_grows_like_the_logarithm() -> None:
    assert [category_dimension(n) for n in (0, 1, 3, 200, 100_000)] == [1, 2, 3, 9, 18]
