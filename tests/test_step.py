from __future__ import annotations

import numpy as np
from trainer_records import SPEC, random_records

from trainer.config import ModelSettings, TrainingSettings
from trainer.inputs import Batch, cut_windows, parse_records
from trainer.losses import NegativeSampler
from trainer.model import Model
from trainer.quiet import tf
from trainer.step import TrainingStep

MODEL = ModelSettings(dimension=8, hidden=[16], negatives=10)


def new_step() -> TrainingStep:
    counts = np.arange(SPEC.videos, 0, -1)
    return TrainingStep(Model(SPEC, MODEL, counts, seed=1), NegativeSampler(counts), MODEL, TrainingSettings())


def batch() -> Batch:
    parsed = parse_records(tf.constant(random_records(20, seed=3)), SPEC, training=True)
    return cut_windows(parsed.lists, parsed.pointers, SPEC)


def test_steps_on_one_batch_lower_its_loss_and_touch_only_the_rows_used() -> None:
    step = new_step()
    one = {**batch(), "watches": tf.fill(batch()["watches"].shape, 4)}
    before = step.model.tower.tables["watches"].weights.numpy()
    losses = [float(step(one)) for _ in range(10)]
    changed = (step.model.tower.tables["watches"].weights.numpy() != before).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [4]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert all(not table.weights[0].numpy().any() for table in step.model.tables.values())


def test_a_gradient_that_is_no_number_shows_in_the_loss() -> None:
    one = batch()
    ages = one["example_age"].numpy()
    ages[0] = np.nan
    assert np.isnan(float(new_step()({**one, "example_age": tf.constant(ages)})))
