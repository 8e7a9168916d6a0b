from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from trainer.config import DEPTHS, ModelSettings
from trainer.errors import TrainingError
from trainer.losses import Candidates, Comparison, Loss, make_loss, noise_contrastive, sampled_softmax
from trainer.model import Model
from trainer.sampling import (
    MASKED_LOGIT,
    ByLabelCounts,
    HardNegatives,
    InBatch,
    Mixed,
    NegativeSampler,
    SampledNegatives,
)
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

VIDEOS, DIMENSION, BATCH = 9, 4, 6
SPEC = FeatureSpec(videos=VIDEOS, tokens=0, watch_history=3, search_history=0)
COUNTS = np.arange(VIDEOS, 0, -1) ** 2
SHARES = (COUNTS + 1) / (COUNTS + 1).sum()
SEED = tf.constant([1, 2])
Arrays = npt.NDArray[Any]


def arrays(seed: int) -> tuple[Arrays, Arrays, Arrays, Arrays]:
    """Return user vectors, video vectors by id, biases by id, and labels."""
    draw = np.random.default_rng(seed)
    shapes = [(BATCH, DIMENSION), (VIDEOS + 1, DIMENSION), (VIDEOS + 1,)]
    users, vectors, biases = (draw.normal(size=shape).astype(np.float32) for shape in shapes)
    return users, vectors, biases, draw.integers(1, VIDEOS + 1, BATCH)


def compare(labels: Arrays, negatives: Arrays, vectors: Any, biases: Any, log_expected: Arrays) -> Comparison:
    labels, negatives = tf.constant(labels, tf.int32), tf.constant(negatives, tf.int32)
    return Comparison(
        labels=labels,
        label_vectors=tf.gather(vectors, labels),
        label_biases=tf.gather(biases, labels),
        drawn=SampledNegatives(
            ids=negatives,
            log_expected=tf.gather(log_expected, negatives),
            label_log_expected=tf.gather(log_expected, labels),
        ),
        negative_vectors=tf.gather(vectors, negatives),
        negative_biases=tf.gather(biases, negatives),
    )


def expected_draws(count: int) -> Arrays:
    return np.concatenate([[1], count * SHARES]).astype(np.float32)


def same_value_and_gradients(ours: Callable[..., tf.Tensor], theirs: Callable[..., tf.Tensor], *given: Arrays) -> None:
    """Assert equal values and gradients of two functions of the same arrays."""
    inputs = [tf.constant(array) for array in given]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        a, b = ours(*inputs), theirs(*inputs)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for x, y in zip(tape.gradient(a, inputs), tape.gradient(b, inputs), strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(x), tf.convert_to_tensor(y), atol=1e-5)


def full_softmax(labels: Arrays) -> Callable[..., tf.Tensor]:
    def loss(users: tf.Tensor, vectors: tf.Tensor, biases: tf.Tensor) -> tf.Tensor:
        logits = users @ tf.transpose(vectors[1:]) + biases[1:]
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels - 1, logits=logits))

    return loss


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(sampled_softmax, tf.nn.sampled_softmax_loss), (noise_contrastive, tf.nn.nce_loss)],
    ids=["sampled_softmax", "nce"],
)
def test_losses_equal_those_of_tensorflow_for_the_same_candidates(ours: Any, theirs: Any, seed: int) -> None:
    *given, labels = arrays(seed)
    # Distinct, because TensorFlow masks only one accidental hit of a negative that was drawn twice.
    negatives = np.random.default_rng(seed).permutation(np.arange(1, VIDEOS + 1))[:6]
    assert set(negatives) & set(labels)
    expected = expected_draws(6)

    def tensorflows(users: tf.Tensor, vectors: tf.Tensor, biases: tf.Tensor) -> tf.Tensor:
        losses = theirs(
            vectors,
            biases,
            labels[:, None],
            users,
            num_sampled=6,
            num_classes=VIDEOS + 1,
            sampled_values=(negatives, expected[labels][:, None], expected[negatives]),
            remove_accidental_hits=True,
        )
        return tf.reduce_mean(losses)

    def our_loss(users: tf.Tensor, vectors: tf.Tensor, biases: tf.Tensor) -> tf.Tensor:
        return ours(users, compare(labels, negatives, vectors, biases, np.log(expected)))

    same_value_and_gradients(our_loss, tensorflows, *given)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["sampled_softmax", "nce", "in_batch", "mixed", "hard_negatives"])
def test_the_functions_of_tensorflow_equal_those_for_xla_with_repeated_negatives(name: str, seed: int) -> None:
    *given, labels = arrays(seed)
    loss, users, _ = built(name, seed, negatives=20)
    candidates = loss.candidates(tf.constant(labels, tf.int32), users, seed=SEED)
    hits = labels[:, None] == candidates.drawn.ids.numpy()
    assert (hits.sum(axis=1) > 1).any()  # otherwise one accidental hit a row would be enough
    written_out, _, _ = built(name, seed, negatives=20)
    loss.written_out, written_out.written_out = False, True
    same_value_and_gradients(of_rows(loss, candidates, labels), of_rows(written_out, candidates, labels), *given)


@pytest.mark.parametrize(
    ("name", "static", "calls"),
    [
        ("sampled_softmax", False, ["sampled_softmax_loss"]),
        ("sampled_softmax", True, []),
        ("nce", False, []),  # tf.nn.nce_loss costs 10 % of a step
        ("nce", True, []),
    ],
)
def test_the_sampled_softmax_of_tensorflow_is_used_without_static_shapes(
    monkeypatch: pytest.MonkeyPatch, name: str, static: bool, calls: list[str]
) -> None:
    called = list[str]()

    def record(function: str) -> None:
        original = getattr(tf.nn, function)

        def call(*args: Any, **options: Any) -> Any:
            called.append(function)
            return original(*args, **options)

        monkeypatch.setattr(tf.nn, function, call)

    record("sampled_softmax_loss")
    record("nce_loss")
    loss, users, labels = built(name)
    loss.videos.static = loss.biases.static = static
    value(loss, users, labels)
    assert called == calls


def softmax_by_hand(positive: float, negatives: Arrays) -> float:
    return float(np.log(np.exp(positive) + np.exp(negatives).sum()) - positive)


def nce_by_hand(positive: float, negatives: Arrays) -> float:
    return float(np.log1p(np.exp(-positive)) + np.log1p(np.exp(negatives)).sum())


def by_hand(one: Any, given: tuple[Arrays, ...], negatives: Arrays, expected: Arrays) -> float:
    users, vectors, biases, labels = given
    losses = []
    for user, label in zip(users, labels, strict=True):
        logits = vectors @ user + biases - np.log(expected)
        losses.append(one(logits[label], logits[negatives[negatives != label]]))
    return float(np.mean(losses))


def built(name: str, seed: int = 1, **settings: Any) -> tuple[Loss[Any], tf.Tensor, tf.Tensor]:
    """Return a loss over tables of random rows, users, and labels."""
    users, vectors, biases, labels = arrays(seed)
    chosen = ModelSettings(dimension=DIMENSION, hidden=[], loss=name, **settings)
    model = Model(SPEC, chosen, COUNTS, seed=1)
    model.videos.weights[1:].assign(vectors[1:])
    model.biases.weights[1:].assign(biases[1:, None])
    loss = make_loss(chosen, model, COUNTS)
    for number, table in enumerate(loss.tables.values()):
        table.weights[1:].assign(tf.random.stateless_normal([table.size, table.dimension], [seed, number]))
    return loss, tf.constant(users), tf.constant(labels, tf.int32)


def value(loss: Loss[Any], users: Arrays, labels: Arrays) -> float:
    return float(loss(users, labels, loss.candidates(labels, users, seed=SEED)))


@pytest.mark.parametrize(
    ("settings", "one"),
    [
        ({"name": "sampled_softmax", "negatives": 20}, softmax_by_hand),
        ({"name": "nce", "negatives": 20}, nce_by_hand),
        ({"name": "in_batch"}, softmax_by_hand),
        ({"name": "mixed", "negatives": 20}, softmax_by_hand),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else "",
)
def test_losses_of_drawn_negatives_equal_those_by_hand(settings: dict[str, Any], one: Any) -> None:
    loss, users, labels = built(**settings)
    drawn = loss.sampler(labels, users, seed=SEED).ids.numpy()
    # The label of a row is in the batch once and is not a negative of that row; the other labels are.
    times = {"in_batch": BATCH, "mixed": BATCH - 1 + 20}.get(settings["name"], 20)
    expected = by_hand(one, arrays(1), drawn, expected_draws(times))
    np.testing.assert_allclose(value(loss, users, labels), expected, rtol=1e-5)


class EachOnce(NegativeSampler):
    """A sampler that repeats all videos in order, each with an expected count of 1."""

    def draw(self, count: int, *, seed: tf.Tensor) -> tf.Tensor:
        return 1 + tf.range(count) % VIDEOS

    def log_expected(self, ids: tf.Tensor, *, count: int | tf.Tensor) -> tf.Tensor:
        return tf.zeros(ids.shape)

    def log_presence(self, ids: tf.Tensor, *, count: int) -> tf.Tensor:
        return tf.zeros(ids.shape)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_loss_of_hard_negatives_equals_that_by_hand(seed: int) -> None:
    """Compute a softmax over the label and the other negatives of each row, with the log-q correction."""
    loss, users, labels = built("hard_negatives", seed, negatives=8, hard_pool=20, hard_share=0.5)
    drawn = loss.sampler(labels, users, seed=SEED)
    ids, (given, vectors, biases, _) = drawn.ids.numpy(), arrays(seed)
    losses = []
    for user, label, expected in zip(given, labels.numpy(), drawn.label_log_expected.numpy(), strict=True):
        scores = (vectors @ user + biases)[ids] - drawn.log_expected.numpy()
        counts = (ids != label) & (drawn.log_expected.numpy() < MASKED_LOGIT / 2)  # the others are also in the pool
        losses.append(softmax_by_hand(vectors[label] @ user + biases[label] - expected, scores[counts]))
    np.testing.assert_allclose(value(loss, users, labels), np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize(("hard", "seed"), [(1, 1), (4, 2), (9, 3), (12, 4)])
def test_hard_negatives_of_all_videos_equal_the_full_softmax(hard: int, seed: int) -> None:
    *given, labels = arrays(seed)
    loss, users, _ = built("hard_negatives", seed)
    sampler, count = EachOnce(COUNTS), VIDEOS + hard
    loss.sampler = HardNegatives(
        sampler, loss.videos, loss.biases, count=count, share=hard / count, pool=max(VIDEOS, hard)
    )
    candidates = loss.candidates(tf.constant(labels, tf.int32), users, seed=SEED)
    same_value_and_gradients(of_rows(loss, candidates, labels), full_softmax(labels), *given)


def of_rows(loss: Loss[Any], candidates: Candidates, labels: Arrays) -> Callable[..., tf.Tensor]:
    """Return a loss as a function of user vectors, and of all video vectors and biases."""

    def value(users: tf.Tensor, vectors: tf.Tensor, biases: tf.Tensor) -> tf.Tensor:
        rows = {"videos": vectors, "biases": biases[:, tf.newaxis]}
        used = {name: replace(each, rows=tf.gather(rows[name], each.ids)) for name, each in candidates.used.items()}
        return loss(users, tf.constant(labels, tf.int32), replace(candidates, used=used))

    return value


@pytest.mark.parametrize(("name", "sampler"), [("sampled_softmax", ByLabelCounts), ("mixed", Mixed)])
def test_with_each_video_drawn_once_a_loss_equals_the_full_softmax(name: str, sampler: type[Any]) -> None:
    *given, _ = arrays(5)
    labels = np.full(BATCH, 3)  # one label for all rows, so that for `mixed` all labels are accidental hits
    loss, users, _ = built(name, 5)
    loss.sampler = sampler(EachOnce(COUNTS), count=VIDEOS)
    candidates = loss.candidates(tf.constant(labels, tf.int32), users, seed=SEED)
    same_value_and_gradients(of_rows(loss, candidates, labels), full_softmax(labels), *given)


def test_in_batch_with_each_video_as_a_label_equals_the_full_softmax() -> None:
    draw = np.random.default_rng(1)
    *_, vectors, biases, _ = arrays(1)
    users, labels = draw.normal(size=(VIDEOS, DIMENSION)).astype(np.float32), draw.permutation(VIDEOS) + 1
    loss, *_ = built("in_batch")
    loss.sampler = InBatch(EachOnce(COUNTS))
    candidates = loss.candidates(tf.constant(labels, tf.int32), tf.constant(users), seed=SEED)
    same_value_and_gradients(of_rows(loss, candidates, labels), full_softmax(labels), users, vectors, biases)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_full_softmax_is_the_cross_entropy_over_all_videos(seed: int) -> None:
    loss, users, labels = built("softmax", seed)
    *given, _ = arrays(seed)
    candidates = loss.candidates(labels, users, seed=SEED)
    same_value_and_gradients(of_rows(loss, candidates, labels.numpy()), full_softmax(labels.numpy()), *given)


def test_the_loss_of_the_tree_is_the_negative_log_probability_of_the_leaf() -> None:
    loss, users, labels = built("hierarchical_softmax")
    scores = loss.scores(users).numpy()[:, 1:]
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-5)
    expected = -scores[np.arange(BATCH), labels.numpy() - 1].mean()
    np.testing.assert_allclose(value(loss, users, labels), expected, rtol=1e-5)


def test_a_tree_over_one_video_has_no_loss() -> None:
    settings = ModelSettings(dimension=2, hidden=[], loss="hierarchical_softmax")
    model = Model(replace(SPEC, videos=1), settings, np.array([5]), seed=1)
    loss, users, labels = make_loss(settings, model, np.array([5])), tf.ones([2, 2]), tf.constant([1, 1])
    assert value(loss, users, labels) == 0
    assert loss.scores(users).numpy().tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("name", ["sampled_softmax", "in_batch", "softmax"])
def test_scores_are_the_logits_that_serving_ranks_by(name: str) -> None:
    loss, users, _ = built(name)
    given, vectors, biases, _ = arrays(1)
    np.testing.assert_allclose(loss.scores(users)[:, 1:], given @ vectors[1:].T + biases[1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sampled_softmax", "nce", "hierarchical_softmax", "softmax"])
def test_the_losses_of_parts_add_up_to_that_of_the_batch(name: str) -> None:
    """Compute it as replicas do: each its part, with negatives that depend only on the seed."""
    loss, users, labels = built(name, negatives=8)
    parts = [value(loss, users[part], labels[part]) for part in (slice(0, 3), slice(3, 6))]
    np.testing.assert_allclose(np.mean(parts), value(loss, users, labels), rtol=1e-5)


def test_nce_accepts_the_learned_sampler() -> None:
    loss, users, labels = built("nce", negatives=20, sampler="learned_unigram")
    candidates = loss.candidates(labels, users, seed=SEED)
    expected = np.zeros(VIDEOS + 1, np.float32)
    expected[candidates.drawn.ids.numpy()] = candidates.drawn.log_expected.numpy()
    expected[labels.numpy()] = candidates.drawn.label_log_expected.numpy()
    found = float(loss(users, labels, candidates))
    np.testing.assert_allclose(
        found, by_hand(nce_by_hand, arrays(1), candidates.drawn.ids.numpy(), np.exp(expected)), rtol=1e-5
    )


def test_a_softmax_over_many_videos_is_rejected_by_default() -> None:
    with pytest.raises(TrainingError, match=r"at most 8 videos, but there are 9.*raise softmax_limit"):
        built("softmax", softmax_limit=8)
    built("softmax", softmax_limit=9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": "depth-5"}, f"must be a list of widths or one of {', '.join(DEPTHS)}"),
        ({"activation": "sine"}, "'relu', 'elu', 'gelu', 'leaky_relu', 'selu', 'swish' or 'tanh'"),
        ({"dimension": 8, "history": "attention", "attention_heads": 3}, "8 is not a multiple of 3"),
        ({"dimension": 8, "history": "attention", "attention_heads": 16}, "8 is not a multiple of 16"),
        *(
            ({name: True, "loss": "hierarchical_softmax"}, f"no video vectors, which {name} = true needs")
            for name in ("trends", "shared_vectors")
        ),
        ({"sampler": "learned_unigram"}, 'needs loss = "nce", but the loss is "sampled_softmax"'),
        ({"loss": "hard_negatives", "negatives": 1}, "must be at least 2"),
        ({"loss": "hard_negatives", "negatives": 30, "hard_pool": 20}, r"at most hard_pool \(20\).*but is 30"),
    ],
)
def test_inconsistent_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSettings(**settings)
