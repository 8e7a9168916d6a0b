from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trainer_records import SPEC, record, write_file

from trainer.co_watches import (
    GAINS,
    PARTIAL_WEIGHT,
    POPULARITIES,
    POWER,
    Histories,
    Ints,
    TableStart,
    decay_weights,
    factorise,
    read_histories,
)
from trainer.config import ModelSettings
from trainer.model import Model
from trainer.record_files import RecordFiles
from transforms.core.tensorflow_import import tf

VIDEOS = 40


def random_histories(seed: int, users: int = 300, partial: float = 0) -> Histories:
    """Two groups of users, who watch mostly the videos of their half; users 0 and 1 have no watch and one watch.

    A share `partial` of the watches is not completed.
    """
    draw, sequences = np.random.default_rng(seed), list[Ints]()
    for user in range(users):
        half = 1 + draw.integers(0, VIDEOS // 2, draw.integers(2, 20)) + (user % 2) * VIDEOS // 2
        sequences.append(np.where(draw.random(len(half)) < 0.1, draw.integers(1, VIDEOS + 1, len(half)), half))
    sequences[0], sequences[1] = sequences[0][:0], sequences[1][:1]
    ids = np.concatenate(sequences)
    ids += np.where(draw.random(len(ids)) < partial, VIDEOS, 0)
    return Histories(ids=ids, offsets=np.cumsum([0, *map(len, sequences)]))


def counts_of(histories: Histories) -> Ints:
    return np.bincount(histories.ids, minlength=VIDEOS + 1)[1 : VIDEOS + 1].astype(np.int64)


def start_of(histories: Histories, *, dimension: int = 8, shared: bool = False) -> TableStart:
    counts = counts_of(histories)
    return factorise(histories, label_counts=counts, dimension=dimension, length=6, seed=1, shared=shared)


@pytest.mark.parametrize(("partial", "shared"), [(0, False), (0.4, False), (0.4, True)])
def test_the_tables_are_the_largest_singular_vectors(partial: float, shared: bool) -> None:
    histories = random_histories(1, partial=partial)
    matrix = np.zeros((len(histories.offsets) - 1, VIDEOS))
    for user, (first, stop) in enumerate(zip(histories.offsets, histories.offsets[1:], strict=False)):
        for id in histories.ids[first:stop] - 1:
            matrix[user, id % VIDEOS] = min(1, matrix[user, id % VIDEOS] + (1 if id < VIDEOS else PARTIAL_WEIGHT))
    matrix /= np.sqrt(matrix.sum(axis=0))
    _, values, vectors = np.linalg.svd(matrix)
    expected = (vectors[:2].T * values[:2] ** POWER) @ vectors[:2]  # the groups; the values after them are close
    start = start_of(histories, dimension=2, shared=shared)
    assert np.array_equal(start.inputs[: VIDEOS + 1], start.outputs) == shared
    found = start.inputs[1 : VIDEOS + 1] @ start.outputs[1:].T
    np.testing.assert_allclose(found / np.abs(found).max(), expected / np.abs(expected).max(), atol=1e-3)
    for table in (start.inputs, start.outputs):
        assert not table[0].any()
        assert np.square(table[1 : VIDEOS + 1]).sum(axis=1).mean() == pytest.approx(1, rel=1e-4)
    assert start.inputs.shape == (2 * VIDEOS + 1, 2) and start.outputs.shape == (VIDEOS + 1, 2)
    np.testing.assert_allclose(start.inputs[VIDEOS + 1 :], PARTIAL_WEIGHT * start.inputs[1 : VIDEOS + 1])


def test_the_start_is_the_same_in_every_run() -> None:
    first, second = (start_of(random_histories(2)) for _ in range(2))
    np.testing.assert_array_equal(first.inputs, second.inputs)
    assert (first.gain, first.popularity) == (second.gain, second.popularity)


@pytest.mark.parametrize("partial", [0, 0.4])
def test_gain_and_popularity_make_the_last_completed_watches_most_likely(partial: float) -> None:
    histories = random_histories(3, partial=partial)
    start, counts = start_of(histories), counts_of(histories)
    share = np.log((counts + 1) / (counts + 1).sum())

    def loss(gain: float, popularity: float) -> float:
        losses = []
        for first, stop in zip(histories.offsets, histories.offsets[1:], strict=False):
            while stop > first and histories.ids[stop - 1] > VIDEOS:
                stop -= 1
            if stop - first < 2:
                continue
            before = histories.ids[first : stop - 1][-6:]
            weights = decay_weights(6)[-len(before) :]
            user = weights @ start.inputs[before] / np.sqrt(weights.sum())
            logits = gain * start.outputs[1:] @ user + popularity * share
            losses.append(np.log(np.exp(logits).sum()) - logits[histories.ids[stop - 1] - 1])
        return float(np.mean(losses))

    grid = {(gain, popularity): loss(gain, popularity) for gain in GAINS for popularity in POPULARITIES}
    assert loss(start.gain, start.popularity) == pytest.approx(min(grid.values()), rel=1e-5)
    assert start.gain > 1  # the groups are distinct


@pytest.mark.parametrize("shared", [False, True])
def test_a_model_that_starts_from_co_watches_ranks_the_videos_of_the_users_group_first(shared: bool) -> None:
    histories = random_histories(4)
    start, spec = (
        start_of(histories, shared=shared),
        SPEC.__class__(videos=VIDEOS, tokens=0, watch_history=6, search_history=1),
    )
    settings = ModelSettings(dimension=8, hidden=[16], co_watches=True, shared_vectors=shared)
    model = Model(spec, settings, counts_of(histories), seed=1)
    model.start_from(start)
    assert model.tables["videos"].weights.numpy().any() != shared, "own rows start at zero"
    watches = tf.constant([[0, 0, 0, 1, 2, 3], [0, 0, 0, 0, 21, 22]])
    users = model.tower({"watches": watches, "example_age": tf.zeros([2])}).numpy()
    scores = users @ model.videos.read(0, VIDEOS + 1).numpy().T + model.biases.weights.numpy()[:, 0]
    best = np.argsort(-scores[:, 1:], axis=1)[:, :10] + 1
    assert (best[0] <= VIDEOS // 2).all() and (best[1] > VIDEOS // 2).all()


@pytest.mark.parametrize("ids", [[], [3], [3, 3]])
def test_histories_with_few_watches_give_a_finite_start(ids: list[int]) -> None:
    histories = Histories(ids=np.array(ids, np.int64), offsets=np.array([0, len(ids)]))
    start = factorise(histories, label_counts=np.ones(5, np.int64), dimension=8, length=4, seed=1)
    assert start.inputs.shape == (11, 8) and start.outputs.shape == (6, 8)
    assert np.isfinite(start.inputs).all() and np.isfinite(start.outputs).all() and np.isfinite(start.gain)


def test_histories_are_the_known_watches_before_the_newest_label(tmp_path: Path) -> None:
    records = [
        record("a", watches=[4, 0, SPEC.videos + 1, 7], label=[9], watches_end=[4]),
        record("b", watches=[], label=[], watches_end=[]),
        record("c", watches=[5], label=[2, 3], watches_end=[0, 1]),
    ]
    files = RecordFiles.from_paths([write_file(tmp_path / "a.tfrecord.gz", records)])
    histories = read_histories(files, replace(SPEC, shared_rows=1))
    assert histories.ids.tolist() == [4, 7, 5]
    assert histories.offsets.tolist() == [0, 2, 2, 3]
    partial = read_histories(files, replace(SPEC, partial_watches=True))
    assert partial.ids.tolist() == [4, SPEC.videos + 1, 7, 5]


def test_no_records_give_no_histories() -> None:
    histories = read_histories(RecordFiles(paths=()), SPEC)
    assert histories.ids.tolist() == [] and histories.offsets.tolist() == [0]
