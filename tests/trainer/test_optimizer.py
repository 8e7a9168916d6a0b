from __future__ import annotations

import numpy as np
import pytest

from trainer.optimizer import Adam, RowwiseAdagrad
from trainer.tables import SummedTable, Table
from transforms.core.tensorflow_import import tf


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rowwise_adagrad_equals_numpy(seed: int) -> None:
    draw = np.random.default_rng(seed)
    table = Table(20, 3, scale=1.0, seed=(seed, 0), name="table")
    optimizer = RowwiseAdagrad({"table": table}, learning_rate=0.1)
    weights, accumulator = table.weights.numpy(), np.zeros(21)
    for _ in range(4):
        ids, factors = draw.integers(0, 21, (5, 6)), draw.normal(size=(5, 6, 3)).astype(np.float32)
        used = table.embed(tf.constant(ids, tf.int32))
        with tf.GradientTape() as tape:
            tape.watch(used.rows)
            loss = tf.reduce_sum(used.vectors() * factors)
        optimizer.apply("table", used, tape.gradient(loss, used.rows))
        gradient = np.zeros((21, 3))
        np.add.at(gradient, ids.ravel(), factors.reshape(-1, 3))
        gradient[0] = 0
        accumulator += (gradient**2).mean(axis=1)
        weights = weights - 0.1 * gradient / np.sqrt(np.maximum(accumulator, 1e-30))[:, None]
        np.testing.assert_allclose(table.weights.numpy(), weights, rtol=1e-4, atol=1e-5)
    assert not table.weights.numpy()[0].any()
    np.testing.assert_allclose(optimizer.accumulators["table"].numpy(), accumulator, rtol=1e-4)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("sum_first", [False, True])
def test_the_gradient_of_a_sum_updates_the_rows_of_both_tables(static: bool, sum_first: bool) -> None:
    """Rows of the shared table are used twice in a step: in either order, no update is lost."""
    draw = np.random.default_rng(4)
    own, shared = (Table(size, 3, scale=1.0, seed=(size, 0), name=name) for size, name in ((9, "own"), (14, "shared")))
    own.static = shared.static = static
    summed = SummedTable(own, shared)
    tables = {"own": own, "shared": shared}
    optimizer = RowwiseAdagrad(tables, learning_rate=0.1, sums={"own": ("own", "shared")})
    weights = {name: table.weights.numpy() for name, table in tables.items()}
    ids, other_ids = draw.integers(0, 10, 12), draw.integers(0, 15, 7)
    np.testing.assert_allclose(summed.read(0, 10), weights["own"] + weights["shared"][:10])
    np.testing.assert_allclose(summed.gather(ids), summed.embed(tf.constant(ids, tf.int32)).vectors())
    used, inputs = summed.embed(tf.constant(ids, tf.int32)), shared.embed(tf.constant(other_ids, tf.int32))
    factors, other_factors = draw.normal(size=(12, 3)).astype("f"), draw.normal(size=(7, 3)).astype("f")
    with tf.GradientTape() as tape:
        tape.watch([used.rows, inputs.rows])
        loss = tf.reduce_sum(used.vectors() * factors) + tf.reduce_sum(inputs.vectors() * other_factors)
    of_sum, of_inputs = tape.gradient(loss, [used.rows, inputs.rows])
    updates = [("shared", inputs, of_inputs), ("own", used, of_sum)]
    for update in updates[::-1] if sum_first else updates:
        optimizer.apply(*update)
    squares = {name: np.zeros(len(rows)) for name, rows in weights.items()}
    expected = [(other_ids, other_factors, ["shared"]), (ids, factors, ["own", "shared"])]
    for places, values, names in expected[::-1] if sum_first else expected:
        gradient = np.zeros((15, 3))
        np.add.at(gradient, places, values)
        gradient[0] = 0
        for name in names:
            of_table = gradient[: len(weights[name])]
            squares[name] += (of_table**2).mean(axis=1)
            weights[name] = weights[name] - 0.1 * of_table / np.sqrt(np.maximum(squares[name], 1e-30))[:, None]
    for name, table in tables.items():
        np.testing.assert_allclose(table.weights.numpy(), weights[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(optimizer.accumulators[name].numpy(), squares[name], rtol=1e-4)


def test_adam_equals_numpy() -> None:
    start = np.array([[1.0, -2.0]], np.float32)
    variable = tf.Variable(start)
    optimizer = Adam([variable], learning_rate=0.01)
    value, first, second = start.astype(float), np.zeros((1, 2)), np.zeros((1, 2))
    for step in range(1, 6):
        gradient = np.array([[0.5 * step, -1.0]])
        optimizer.apply([tf.constant(gradient, tf.float32)])
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        rate = 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        value = value - rate * first / (np.sqrt(second) + 1e-7)
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5)


@pytest.mark.parametrize("seed", [1, 2])
def test_static_shapes_have_the_same_means_gradients_and_rows(seed: int) -> None:
    draw = np.random.default_rng(seed)
    ids = tf.constant(draw.integers(0, 12, (6, 7)), tf.int32)
    up = draw.normal(size=(6, 3)).astype(np.float32)
    found = []
    for static in (False, True):
        table = Table(20, 3, scale=1.0, seed=(seed, 0), name="table")
        table.static = static
        optimizer = RowwiseAdagrad({"table": table}, learning_rate=0.1)
        used = table.embed(ids)
        with tf.GradientTape() as tape:
            tape.watch(used.rows)
            mean = used.mean()
            loss = tf.reduce_sum(mean * up)
        optimizer.apply("table", used, tape.gradient(loss, used.rows))
        assert used.ids.shape == ([42] if static else [len(np.unique(ids))])
        found.append((mean.numpy(), used.vectors().numpy(), table.weights.numpy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_mean_is_that_of_its_vectors() -> None:
    draw = np.random.default_rng(3)
    table = Table(9, 4, scale=1.0, seed=(3, 0), name="table")
    used = table.embed(tf.constant(draw.integers(0, 10, (5, 6)), tf.int32))
    up = draw.normal(size=(5, 4)).astype(np.float32)
    known = used.known.numpy()[..., np.newaxis] / np.maximum(used.known.numpy().sum(1), 1)[:, np.newaxis, np.newaxis]
    with tf.GradientTape() as tape:
        tape.watch(used.rows)
        loss = tf.reduce_sum(used.mean() * up)
    expected = np.zeros(used.rows.shape)
    np.add.at(expected, used.indices.numpy(), known * up[:, np.newaxis])
    np.testing.assert_allclose(tape.gradient(loss, used.rows), expected, rtol=1e-5, atol=1e-6)
