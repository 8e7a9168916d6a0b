"""The loss against numpy, and what its odds mean."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.ranker.loss import side_weights, weighted_logistic
from transforms.core.tensorflow_import import tf


@pytest.mark.parametrize("kind", ["watch_seconds", "exact", "equal"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_loss_is_numpy_s(kind: str, seed: int) -> None:
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
    loss = weighted_logistic(given[2], *side_weights(given[0], given[1], kind))
    assert float(loss) == pytest.approx(expected / 50, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "odds"),
    [("watch_seconds", (40 + 80) / 6), ("exact", (40 + 80) / 8), ("equal", 2 / 6)],
    ids=["of the paper: seconds / unclicked", "seconds / all", "clicks / unclicked"],
)
def test_the_loss_of_one_value_for_all_is_least_at_these_odds(kind: str, odds: float) -> None:
    clicked, seconds = tf.constant([1.0, 1] + [0.0] * 6), tf.constant([40.0, 80] + [0.0] * 6)
    weights = side_weights(clicked, seconds, kind)
    logit = tf.Variable(np.log(odds), dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = weighted_logistic(tf.fill([8], logit), *weights)
    assert float(tape.gradient(loss, logit)) == pytest.approx(0, abs=1e-4)
    for other in (0.9, 1.1):
        assert float(weighted_logistic(tf.fill([8], float(np.log(odds * other))), *weights)) > float(loss)


def test_far_from_the_truth_the_loss_stays_a_number() -> None:
    loss = weighted_logistic(tf.constant([200.0, -200.0]), tf.constant([0.0, 1000.0]), tf.constant([1.0, 0.0]))
    assert float(loss) == pytest.approx(100_100)
