from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from trainer.losses import Compared, NegativeSampler, sampled_softmax
from trainer.quiet import tf

VIDEOS, DIMENSION = 9, 4


def arrays(seed: int) -> tuple[npt.NDArray[np.float32], ...]:
    draw = np.random.default_rng(seed)
    shapes = [(6, DIMENSION), (VIDEOS + 1, DIMENSION), (VIDEOS + 1,)]
    users, vectors, biases = (draw.normal(size=shape).astype(np.float32) for shape in shapes)
    return users, vectors, biases, draw.integers(1, VIDEOS + 1, 6)


def compare(
    labels: npt.NDArray[np.int64],
    negatives: npt.NDArray[np.int64],
    vectors: tf.Tensor,
    biases: tf.Tensor,
    log_expected: npt.NDArray[np.float32],
) -> Compared:
    labels, negatives = tf.constant(labels, tf.int32), tf.constant(negatives, tf.int32)
    return Compared(
        labels=labels,
        label_vectors=tf.gather(vectors, labels),
        label_biases=tf.gather(biases, labels),
        label_log_expected=tf.gather(log_expected, labels),
        negatives=negatives,
        negative_vectors=tf.gather(vectors, negatives),
        negative_biases=tf.gather(biases, negatives),
        negative_log_expected=tf.gather(log_expected, negatives),
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_all_videos_drawn_it_is_the_full_softmax_in_value_and_gradient(seed: int) -> None:
    users, vectors, biases, labels = arrays(seed)
    given = [tf.constant(a) for a in (users, vectors, biases)]
    nothing = np.zeros(VIDEOS + 1, np.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(given)
        sampled = sampled_softmax(given[0], compare(labels, np.arange(1, VIDEOS + 1), given[1], given[2], nothing))
        logits = given[0] @ tf.transpose(given[1][1:]) + given[2][1:]
        full = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels - 1, logits=logits))
    np.testing.assert_allclose(sampled, full, rtol=1e-5)
    for a, b in zip(tape.gradient(sampled, given), tape.gradient(full, given), strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(a), tf.convert_to_tensor(b), atol=1e-6)


def expected_draws(count: int) -> npt.NDArray[np.float32]:
    counts = np.arange(VIDEOS, 0, -1) ** 2 + 1
    return np.concatenate([[1], count * counts / counts.sum()]).astype(np.float32)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_is_tensorflows_sampled_softmax(seed: int) -> None:
    users, vectors, biases, labels = arrays(seed)
    # Distinct: of a negative drawn twice TensorFlow masks one accidental hit and leaves the other.
    negatives = np.random.default_rng(seed).permutation(np.arange(1, VIDEOS + 1))[:6]
    expected = expected_draws(6)
    ours = sampled_softmax(users, compare(labels, negatives, vectors, biases, np.log(expected)))
    theirs = tf.nn.sampled_softmax_loss(
        vectors,
        biases,
        labels[:, None],
        users,
        num_sampled=6,
        num_classes=VIDEOS + 1,
        sampled_values=(negatives, expected[labels][:, None], expected[negatives]),
        remove_accidental_hits=True,
    )
    np.testing.assert_allclose(ours, tf.reduce_mean(theirs), rtol=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_negatives_drawn_twice_count_twice_and_no_accidental_hit_is_left(seed: int) -> None:
    users, vectors, biases, labels = arrays(seed)
    negatives = np.random.default_rng(seed).integers(1, VIDEOS + 1, 20)
    expected = expected_draws(20)
    ours = sampled_softmax(users, compare(labels, negatives, vectors, biases, np.log(expected)))
    np.testing.assert_allclose(ours, by_hand(users, vectors, biases, labels, negatives, expected), rtol=1e-5)


def by_hand(users, vectors, biases, labels, negatives, expected) -> float:  # type: ignore[no-untyped-def]
    losses = []
    for user, label in zip(users, labels, strict=True):
        kept = [label, *negatives[negatives != label]]
        logits = vectors[kept] @ user + biases[kept] - np.log(expected[kept])
        losses.append(np.log(np.exp(logits).sum()) - logits[0])
    return float(np.mean(losses))


def test_negatives_are_drawn_by_label_count_plus_one() -> None:
    counts = np.array([0, 7, 1, 90])
    sampler = NegativeSampler(counts)
    drawn = np.bincount(sampler.draw(200_000, seed=tf.constant([1, 2])).numpy(), minlength=5)
    share = np.array([0, 1, 8, 2, 91]) / 102
    # Five standard deviations of a binomial draw.
    assert (np.abs(drawn / 200_000 - share) <= 5 * np.sqrt(share / 200_000)).all()
    expected = np.exp(sampler.log_expected(tf.constant([1, 4]), count=102).numpy())
    np.testing.assert_allclose(expected, [1, 91], rtol=1e-5)


def test_the_rarest_videos_share_is_not_clipped() -> None:
    counts = np.array([10**12, 0])
    np.testing.assert_allclose(
        NegativeSampler(counts).log_expected(tf.constant([2]), count=1), [-np.log(1e12)], rtol=1e-6
    )


def test_the_same_seed_draws_the_same() -> None:
    sampler = NegativeSampler(np.arange(100))
    draws = [sampler.draw(50, seed=tf.constant(seed)).numpy().tolist() for seed in ([1, 2], [1, 2], [1, 3])]
    assert draws[0] == draws[1] != draws[2]
