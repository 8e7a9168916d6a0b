from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from trainer_records import SPEC, random_records

from trainer.batch import Batch
from trainer.config import ModelSettings, TrainingSettings
from trainer.distribution import Replicas
from trainer.inputs import cut_windows, parse_records
from trainer.losses import make_loss
from trainer.model import Model
from trainer.step import LAST_FACTOR, LinearDecay, TrainingStep
from transforms.core.tensorflow_import import tf

MODEL = ModelSettings(dimension=8, hidden=[16], negatives=10)


def new_step(
    loss: str = "sampled_softmax", replicas: Replicas | None = None, *, history: str = "mean", shared: bool = False
) -> TrainingStep:
    counts = np.arange(SPEC.videos, 0, -1)
    settings = MODEL.model_copy(update={"loss": loss, "history": history, "shared_vectors": shared})
    model = Model(SPEC, settings, counts, seed=1)
    return TrainingStep(model, make_loss(settings, model, counts), TrainingSettings(), replicas=replicas)


def cross_entropy(step: TrainingStep, one: Batch) -> tf.Tensor:
    """Return the cross entropy of the labels among all videos, by the scores of the ranking."""
    logits = step.loss.scores(step.model.tower(one))[:, 1:]
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=one["label"] - 1, logits=logits))


def batch() -> Batch:
    parsed = parse_records(tf.constant(random_records(20, seed=3)), SPEC, training=True)
    return cut_windows(parsed.lists, parsed.pointers, SPEC)


LOSSES = get_args(ModelSettings.model_fields["loss"].annotation)


@pytest.mark.parametrize("loss", LOSSES)
def test_steps_on_one_batch_lower_its_loss_and_touch_only_the_rows_used(loss: str) -> None:
    step = new_step(loss)
    one = {**batch(), "watches": tf.fill(batch()["watches"].shape, 4)}
    before = step.model.tower.tables["watches"].weights.numpy()
    first = float(cross_entropy(step, one))
    for _ in range(10):
        step(one)
    changed = (step.model.tower.tables["watches"].weights.numpy() != before).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [4]
    assert float(cross_entropy(step, one)) < first
    assert all(not table.weights[0].numpy().any() for table in step.adagrad.tables.values())


def test_with_shared_vectors_a_label_moves_its_row_of_the_inputs_as_well() -> None:
    step, one = new_step("in_batch", shared=True), {name: values[:3] for name, values in batch().items()}
    one = {**one, "watches": tf.zeros_like(one["watches"])}  # an empty history, so that only labels have gradients
    model, inputs = step.model, step.model.tower.tables["watches"]
    before = [table.weights.numpy() for table in (model.tables["videos"], inputs)]
    assert (model.videos.read(0, SPEC.videos + 1).numpy() == before[0] + before[1][: SPEC.videos + 1]).all()
    step(one)
    for table, rows in zip((model.tables["videos"], inputs), before, strict=True):
        moved = np.flatnonzero((table.weights.numpy() != rows).any(axis=1)).tolist()
        assert moved == sorted({*one["label"].numpy().tolist()})


def test_a_linear_decay_scales_the_updates_of_a_step() -> None:
    """The same step from the same variables, at the start, after three quarters, and behind the end of a decay."""
    moves = []
    for taken in (0, 75, 1_000):
        step = new_step("softmax")  # draws nothing
        step.decay = LinearDecay(first=7, steps=100)
        step.steps.assign(7 + taken)
        watches, kernel = step.model.tower.tables["watches"].weights, step.model.tower.layers[0].kernel
        before = watches.numpy(), kernel.numpy()
        step(batch())
        moves.append([np.abs(new.numpy() - old).sum() for new, old in zip((watches, kernel), before, strict=True)])
    first, late, last = np.array(moves)
    np.testing.assert_allclose(late / first, 0.25, rtol=1e-3)
    np.testing.assert_allclose(last / first, LAST_FACTOR, rtol=2e-2)


@pytest.mark.parametrize("loss", ["in_batch", "nce"])
def test_only_the_compared_rows_of_the_output_tables_change(loss: str) -> None:
    step = new_step(loss)
    one = {name: values[:3] for name, values in batch().items()}
    tables = [step.model.videos, step.model.biases]
    before = [table.weights.numpy() for table in tables]
    drawn = step.loss.sampler(one["label"], tf.zeros([3, 8]), seed=tf.stack([step.seeds["negatives"], 0])).ids
    step(one)
    compared = sorted({*one["label"].numpy().tolist(), *drawn.numpy().tolist()})
    assert len(compared) < SPEC.videos
    for table, rows in zip(tables, before, strict=True):
        assert np.flatnonzero((table.weights.numpy() != rows).any(axis=1)).tolist() == compared


@pytest.mark.parametrize(
    ("loss", "history", "shared"),
    [*((loss, "mean", False) for loss in LOSSES), *((loss, "recency", True) for loss in ("mixed", "hard_negatives"))],
)
def test_a_step_compiles_for_accelerators_and_learns_the_same(loss: str, history: str, shared: bool) -> None:
    step, static = (
        new_step(loss, replicas, history=history, shared=shared) for replicas in (None, Replicas(static=True))
    )
    compiled = tf.function(static, jit_compile=True, autograph=False)
    for _ in range(2):
        np.testing.assert_allclose(compiled(batch()), step(batch()), rtol=1e-5)
    for one, other in zip(static.variables, step.variables, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_tree_learns_its_nodes_and_no_videos() -> None:
    step = new_step("hierarchical_softmax")
    videos, nodes = step.model.videos.weights.numpy(), step.loss.tables["nodes"].weights.numpy()
    step(batch())
    assert (step.model.videos.weights.numpy() == videos).all()
    assert (step.loss.tables["nodes"].weights.numpy() != nodes).any()


def test_a_nan_gradient_makes_the_loss_nan() -> None:
    one = batch()
    ages = one["example_age"].numpy()
    ages[0] = np.nan
    assert np.isnan(float(new_step()({**one, "example_age": tf.constant(ages)})))
