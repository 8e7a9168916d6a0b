from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.sampling import (
    MASKED_LOGIT,
    ByLabelCounts,
    HardNegatives,
    InBatch,
    LearnedUnigram,
    Mixed,
    NegativeSampler,
    VideoDistribution,
    best_for_others,
    hardest,
)
from trainer.tables import Table
from transforms.core.tensorflow_import import tf

COUNTS = np.array([0, 7, 1, 90])
SHARES = np.array([1, 8, 2, 91]) / 102
FED = np.array([0, 0.5, 3.25, 6.25])  # how often an epoch of a warm start has each label
SEED = tf.constant([1, 2])
LABELS = tf.constant([4, 2, 4], tf.int32)
USERS = tf.zeros([3, 2])


def shares_of(ids: tf.Tensor, videos: int = 4) -> npt.NDArray[np.float64]:
    return np.bincount(ids.numpy(), minlength=videos + 1)[1:] / len(ids)


def within_five_deviations(drawn: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], draws: int) -> bool:
    return bool((np.abs(drawn - shares) <= 5 * np.sqrt(shares / draws)).all())


def test_negatives_are_drawn_by_label_count_plus_one() -> None:
    sampler = NegativeSampler(COUNTS)
    drawn = sampler.draw(200_000, seed=SEED)
    assert within_five_deviations(shares_of(drawn), SHARES, 200_000)
    expected = np.exp(sampler.log_expected(tf.constant([1, 4]), count=102).numpy())
    np.testing.assert_allclose(expected, [1, 91], rtol=1e-5)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=70), st.integers(0, 2**31 - 1))
def test_binary_search_equals_searchsorted(counts: list[int], seed: int) -> None:
    sampler = NegativeSampler(np.array(counts))
    ends = np.cumsum(np.array(counts) + 1)
    tickets = tf.random.stateless_uniform([20], [seed, 1], maxval=int(ends[-1]), dtype=tf.int64).numpy()
    expected = 1 + np.searchsorted(ends, tickets, side="right")
    np.testing.assert_array_equal(sampler.draw(20, seed=tf.constant([seed, 1])), expected)


def test_small_probabilities_are_not_clipped() -> None:
    sampler = NegativeSampler(np.array([10**12, 0]))
    np.testing.assert_allclose(sampler.log_expected(tf.constant([2]), count=1), [-np.log(1e12)], rtol=1e-6)
    np.testing.assert_allclose(sampler.log_presence(tf.constant([2]), count=10), [np.log(1e-11)], rtol=1e-5)


def test_draws_depend_only_on_the_seed() -> None:
    draws = ByLabelCounts(NegativeSampler(np.arange(100)), count=50)
    one = draws(LABELS, USERS, seed=SEED).ids.numpy().tolist()
    assert draws(LABELS[:1], USERS[:1] + 1, seed=SEED).ids.numpy().tolist() == one
    assert draws(LABELS, USERS, seed=tf.constant([1, 3])).ids.numpy().tolist() != one


def test_presence_is_the_share_of_pools_with_a_video() -> None:
    sampler, pools = NegativeSampler(COUNTS), 4_000
    drawn = sampler.draw(pools * 10, seed=SEED).numpy().reshape(pools, 10)
    held = np.array([(drawn == i).any(axis=1).mean() for i in (1, 2, 3, 4)])
    found = np.exp(sampler.log_presence(tf.range(1, 5), count=10))
    assert (np.abs(held - found) <= 5 * np.sqrt(found * (1 - found) / pools) + 1e-6).all()


def test_the_presence_of_a_certain_video_is_one() -> None:
    assert float(NegativeSampler(np.array([5])).log_presence(tf.constant([1]), count=3)[0]) == 0


def test_in_batch_negatives_are_the_labels_with_expected_counts() -> None:
    drawn = InBatch(NegativeSampler(COUNTS))(LABELS, USERS, seed=SEED)
    assert drawn.ids.numpy().tolist() == [4, 2, 4]
    np.testing.assert_allclose(np.exp(drawn.log_expected), 3 * SHARES[[3, 1, 3]], rtol=1e-5)
    np.testing.assert_allclose(drawn.label_log_expected, drawn.log_expected)


def test_in_batch_negatives_may_have_the_expected_counts_of_other_labels() -> None:
    drawn = InBatch(VideoDistribution(FED))(LABELS, USERS, seed=SEED)
    np.testing.assert_allclose(np.exp(drawn.log_expected), 3 * FED[[3, 1, 3]] / 10, rtol=1e-6)
    np.testing.assert_allclose(drawn.label_log_expected, drawn.log_expected)


@pytest.mark.parametrize("fed", [None, FED])
def test_mixed_negatives_have_the_expected_counts_of_labels_and_draws(fed: npt.NDArray[np.float64] | None) -> None:
    """Count over many batches whose labels are drawn by the counts of an epoch, as in training."""
    sampler, batches, size, count = NegativeSampler(COUNTS), 3_000, 3, 4
    mixed = Mixed(sampler, count=count, labels=None if fed is None else VideoDistribution(fed))
    seen, shares = Counter[int](), SHARES if fed is None else fed / 10
    labels = tf.constant(1 + np.random.default_rng(9).choice(4, batches * size, p=shares), tf.int32)

    @tf.function(autograph=False)
    def ids(number: tf.Tensor) -> tf.Tensor:
        return mixed(labels[number * size : (number + 1) * size], USERS, seed=tf.stack([1, number])).ids

    for number in range(batches):
        seen.update(ids(tf.constant(number)).numpy().tolist()[1:])  # for the first row, whose label is not a negative
    times = np.array([seen[i] / batches for i in (1, 2, 3, 4)])
    expected = (size - 1) * shares + count * SHARES
    drawn = mixed(tf.constant([1, 2, 3]), USERS, seed=SEED)
    assert len(drawn.ids) == size + count
    np.testing.assert_allclose(np.exp(drawn.label_log_expected), expected[:3], rtol=1e-5)
    np.testing.assert_allclose(np.exp(drawn.log_expected), expected[drawn.ids.numpy() - 1], rtol=1e-5)
    assert within_five_deviations(times, expected, batches)


def test_one_label_and_draws_have_the_expected_counts_of_draws() -> None:
    mixed = Mixed(NegativeSampler(COUNTS), count=4, labels=VideoDistribution(FED))
    drawn = mixed(tf.constant([2]), USERS[:1], seed=SEED)
    np.testing.assert_allclose(np.exp(drawn.log_expected), 4 * SHARES[drawn.ids.numpy() - 1], rtol=1e-5)


def test_labels_by_the_label_counts_have_exactly_the_expected_counts_of_draws() -> None:
    """A cold start with another rounding would be another training."""
    sampler = NegativeSampler(COUNTS)
    for drawn, count in ((InBatch(sampler), 3), (Mixed(sampler, count=4), 3 - 1 + 4)):
        negatives = drawn(LABELS, USERS, seed=SEED)
        for ids, expected in ((negatives.ids, negatives.log_expected), (LABELS, negatives.label_log_expected)):
            np.testing.assert_array_equal(expected, sampler.log_expected(ids, count=count))


def best_by_hand(labels: list[int], scores: npt.NDArray[np.float32]) -> dict[int, float]:
    """Return the best score of each video, for scores [batch, videos + 1]."""
    others = {video: [row[video] for row, label in zip(scores, labels, strict=True) if label != video] for video in IDS}
    return {video: max(found) for video, found in others.items() if found}


IDS = range(1, 9)


@pytest.mark.parametrize("seed", range(5))
def test_hard_negatives_are_distinct_and_have_the_highest_scores(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels, pool = draw.integers(1, 9, 2), np.sort(draw.integers(1, 9, 12))
    scores = draw.normal(size=(2, 9)).astype(np.float32)
    best = best_for_others(tf.constant(labels), tf.constant(pool), tf.constant(scores[:, pool]))
    ids, found, floor = hardest(tf.constant(pool), best, count=4)
    expected = best_by_hand(labels.tolist(), scores)
    ranked = sorted(set(pool.tolist()) & set(expected), key=lambda video: -expected[video])[:4]
    assert ids.numpy()[found].tolist() == ranked
    assert float(floor) == (expected[ranked[-1]] if len(ranked) == 4 else -MASKED_LOGIT)


def test_missing_hard_negatives_are_marked() -> None:
    pool = tf.constant([1, 1, 2])
    best = best_for_others(tf.constant([2]), pool, tf.constant([[0.5, 0.5, 3.0]]))
    ids, found, floor = hardest(pool, best, count=3)
    assert ids.numpy()[found].tolist() == [1]  # the second 1 is a repetition, and 2 is the label of the only user
    assert float(floor) == -MASKED_LOGIT


def one_dimensional(biases: npt.NDArray[np.float32]) -> tuple[Table, Table]:
    """Return videos whose scores are their biases for all users."""
    videos, table = (Table(len(biases), 1, scale=0.0, seed=(1, 1), name=name) for name in ("videos", "biases"))
    table.weights[1:, 0].assign(biases)
    return videos, table


def test_the_score_decides_whether_a_video_is_a_hard_negative_or_a_draw() -> None:
    tables = one_dimensional(np.array([3.0, 1.0, 4.0, 2.0], np.float32))
    sampler = HardNegatives(NegativeSampler(COUNTS), *tables, count=12, share=1 / 6, pool=500)
    drawn = sampler(LABELS, tf.zeros([3, 1]), seed=SEED)
    ids, expected = drawn.ids.numpy(), drawn.log_expected.numpy()
    assert ids[10:].tolist() == [3, 1]  # the highest biases; a pool of 500 has them with near certainty
    hard = np.isin(ids[:10], [1, 3])
    assert ((expected[:10] > MASKED_LOGIT / 2) == hard).all() and not hard.all()
    present = 1 - (1 - SHARES) ** 500
    kept = expected < MASKED_LOGIT / 2
    by_hand = np.where(np.isin(ids, [1, 3]), present[ids - 1], 10 * SHARES[ids - 1])
    np.testing.assert_allclose(np.exp(expected[kept]), by_hand[kept], rtol=1e-4)
    np.testing.assert_allclose(np.exp(drawn.label_log_expected), 10 * SHARES[[3, 1, 3]], rtol=1e-4)


def test_a_label_that_scores_like_hard_negatives_has_their_expected_count() -> None:
    tables = one_dimensional(np.array([1.0, 3.0, 2.0, 4.0], np.float32))
    sampler = HardNegatives(NegativeSampler(COUNTS), *tables, count=12, share=1 / 12, pool=50)
    drawn = sampler(LABELS, tf.zeros([3, 1]), seed=SEED)
    expected = [1 - (1 - SHARES[3]) ** 50, 11 * SHARES[1], 1 - (1 - SHARES[3]) ** 50]
    np.testing.assert_allclose(np.exp(drawn.label_log_expected), expected, rtol=1e-4)


def test_hard_negatives_and_draws_represent_every_video_once() -> None:
    """Over many draws, the mean weight of each video, 1 / expected count, is 1."""
    tables = one_dimensional(np.linspace(0, 1, 30, dtype=np.float32)[::-1].copy())
    sampler = HardNegatives(NegativeSampler(np.arange(30)), *tables, count=8, share=0.5, pool=20)
    label = tf.constant([30])

    @tf.function(autograph=False)
    def weights(number: tf.Tensor) -> tf.Tensor:
        drawn = sampler(label, tf.zeros([1, 1]), seed=tf.stack([number, 1]))
        return tf.math.unsorted_segment_sum(tf.exp(-drawn.log_expected), drawn.ids, 31)

    sums = np.mean([weights(tf.constant(number)) for number in range(3_000)], axis=0)
    assert abs(sums[1:30].mean() - 1) < 0.03
    assert (np.abs(sums[1:30] - 1) < 0.35).all()


def test_hard_negatives_depend_on_the_users_and_the_pool_does_not() -> None:
    videos = Table(40, 2, scale=0.0, seed=(1, 1), name="videos")
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    videos.weights[1:].assign(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    biases = Table(40, 1, scale=0.0, seed=(1, 1), name="biases")
    sampler = HardNegatives(NegativeSampler(np.ones(40, np.int64)), videos, biases, count=10, share=0.4, pool=2_000)
    east, west = (
        sampler(tf.constant([30]), tf.constant([[x, 0.01]]), seed=SEED).ids.numpy().tolist() for x in (1.0, -1.0)
    )
    assert sorted(east[6:]) == [1, 2, 3, 40] and sorted(west[6:]) == [19, 20, 21, 22]  # the pool has all videos
    assert east[:6] == west[:6]


def test_the_learned_sampler_draws_frequent_labels_more_often() -> None:
    sampler = LearnedUnigram(4, count=1_000)
    labels = tf.constant([4] * 90 + [2] * 10)

    @tf.function(autograph=False)
    def step() -> tuple[tf.Tensor, tf.Tensor]:  # the op keeps its state between calls of one graph
        drawn = sampler(labels, USERS, seed=SEED)
        return drawn.ids, drawn.label_log_expected

    assert within_five_deviations(shares_of(step()[0]), np.full(4, 0.25), 1_000)
    for _ in range(20):
        ids, label_log_expected = step()
    assert within_five_deviations(shares_of(ids), np.array([0.001, 0.1, 0.001, 0.9]), 1_000)
    np.testing.assert_allclose(np.exp(label_log_expected)[[0, 99]], [900, 100], rtol=0.02)
