from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from trainer_records import SPEC, following_examples, random_records, write_file

from trainer.attention import Attention
from trainer.config import ModelSettings, TrainingSettings
from trainer.examples import read_folder, read_label_counts
from trainer.inputs import epoch_batches
from trainer.model import UserTower
from trainer.sequences import LabelPositions, history_rows
from trainer.tables import Table
from trainer.training import fit
from transforms.core.tensorflow_import import tf

SETTINGS = ModelSettings(dimension=8, hidden=[16], history="attention", attention_heads=2)
LENGTH = SPEC.watch_history
Floats = npt.NDArray[np.float64]


def moved(module: tf.Module, seed: int) -> Any:
    """Add random values to every variable: many start at zero, and zeros hide mistakes."""
    draw = np.random.default_rng(seed)
    for variable in module.trainable_variables:
        variable.assign_add(0.3 * draw.normal(size=variable.shape))
    return module


def normed(x: Floats, norm: Any) -> Floats:
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-6) * norm.scale.numpy() + norm.shift.numpy()


def dense(x: Floats, layer: Any) -> Floats:
    return x @ layer.kernel.numpy() + layer.bias.numpy()


def by_hand(encoder: Attention, vectors: Floats, ids: list[int]) -> Floats:
    """Return the state of the last of `ids`, computed for one position, head and neighbour at a time, as the oracle."""
    if not any(ids):
        return np.array(encoder.nothing.numpy())
    states = [vectors[i] for i in ids]
    for block in encoder.blocks:
        parts = [dense(normed(s, block.norms[0]), block.inputs).reshape(3, block.heads, -1) for s in states]
        mixed = []
        for place, (query, _, _) in enumerate(parts):
            heads = []
            for head in range(block.heads):
                seen = [p for p in range(place + 1) if ids[p]] or [place]
                logits = [
                    query[head] @ parts[p][1][head] / np.sqrt(query.shape[1]) + block.distances.numpy()[head, place - p]
                    for p in seen
                ]
                weights = np.exp(np.array(logits) - max(logits))
                heads.append(sum(w * parts[p][2][head] for w, p in zip(weights / weights.sum(), seen, strict=True)))
            mixed.append(np.concatenate(heads))
        states = [s + dense(m, block.outputs) for s, m in zip(states, mixed, strict=True)]
        states = [s + dense(np.maximum(dense(normed(s, block.norms[1]), block.wide), 0), block.back) for s in states]
    return normed(states[-1], encoder.norm)


def windows_of(*histories: list[int]) -> tf.Tensor:
    return tf.constant([([0] * LENGTH + history)[-LENGTH:] for history in histories], tf.int32)


def test_attention_equals_the_oracle() -> None:
    encoder = moved(Attention(SETTINGS, length=LENGTH, seed=1), 2)
    table = Table(10, 8, scale=1.0, seed=(1, 2), name="table")
    histories = [[3, 0, 7], [1, 2, 3, 4, 5], [], [9, 9, 9, 1, 0], [4], [0, 0]]
    windows, positions = history_rows({"watches": windows_of(*histories)})
    encoded = encoder(table.embed(windows), positions).numpy()
    expected = [by_hand(encoder, table.weights.numpy().astype(float), history) for history in histories]
    np.testing.assert_allclose(encoded, expected, rtol=1e-4, atol=1e-5)
    assert encoder.width == encoded.shape[1]


@pytest.mark.parametrize("co_watches", [False, True])
def test_a_label_in_a_sequence_has_the_vector_of_its_window(tmp_path: Path, co_watches: bool) -> None:
    """Compare every label of an epoch in its sequence with the window that serving reads."""
    tower = moved(UserTower(SPEC, SETTINGS.model_copy(update={"co_watches": co_watches}), seed=1), 3)
    file = write_file(tmp_path / "a.tfrecord.gz", random_records(60, seed=4))
    read_inside = 0
    for batch in epoch_batches([file], SPEC, batch_size=64, seed=1, epochs=range(1), sequences=True):
        rows, positions = batch["watches"].numpy(), batch["position"].numpy()
        windows = windows_of(*(row[:n].tolist() for row, n in zip(rows, positions, strict=True)))
        served = {name: of for name, of in batch.items() if name not in ("sequence", "position")} | {"watches": windows}
        np.testing.assert_allclose(tower(batch), tower(served), rtol=1e-4, atol=1e-5)
        read_inside += int(((positions < LENGTH) & (windows.numpy() > 0).any(axis=1)).sum())
    assert read_inside > 50


def test_dropout_depends_on_its_seed() -> None:
    encoder = Attention(SETTINGS.model_copy(update={"attention_dropout": 0.5}), length=LENGTH, seed=1)
    history = Table(10, 8, scale=1.0, seed=(1, 2), name="table").embed(windows_of([1, 2, 3]))
    positions = LabelPositions(row=tf.constant([0]), position=tf.constant([LENGTH]))
    draws = [
        encoder(history, positions, dropout_seed=None if seed is None else tf.constant(seed)).numpy()
        for seed in ([1, 2], [1, 2], [1, 3], None, None)
    ]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()
    assert (draws[3] == draws[4]).all() and (draws[0] != draws[3]).any()


def test_every_variable_gets_a_dense_gradient_without_nan() -> None:
    """Also for rows without a known video, where every position is masked."""
    encoder = Attention(SETTINGS, length=LENGTH, seed=1)
    history = Table(10, 8, scale=1.0, seed=(1, 2), name="table").embed(windows_of([1, 2, 3], [], [0, 4]))
    _, positions = history_rows({"watches": history.indices})
    with tf.GradientTape() as tape:
        tape.watch(history.rows)
        loss = tf.reduce_sum(tf.sin(encoder(history, positions)))
    gradients = tape.gradient(loss, [history.rows, *encoder.trainable_variables])
    for gradient, variable in zip(gradients[1:], encoder.trainable_variables, strict=True):
        assert isinstance(gradient, tf.Tensor) and np.isfinite(gradient).all(), variable.name
        assert np.abs(gradient).max() > 0, variable.name
    assert np.isfinite(tf.convert_to_tensor(gradients[0])).all()


def test_windows_compile_with_static_shapes() -> None:
    encoder = Attention(SETTINGS, length=LENGTH, seed=1)
    table = Table(10, 8, scale=1.0, seed=(1, 2), name="table")
    history = table.embed(windows_of([1, 2, 3], [4]))

    @tf.function(jit_compile=True, autograph=False)
    def compiled(rows: tf.Tensor) -> tf.Tensor:
        positions = LabelPositions(row=tf.range(2), position=tf.fill([2], LENGTH))
        embedded = type(history)(ids=history.ids, rows=rows, indices=history.indices, known=history.known)
        return encoder(embedded, positions)

    _, positions = history_rows({"watches": history.indices})
    np.testing.assert_allclose(compiled(history.rows), encoder(history, positions), rtol=1e-4, atol=1e-5)


def test_it_learns_what_follows_the_last_watch(tmp_path: Path) -> None:
    folder = following_examples(tmp_path / "examples")
    files = read_folder(folder)
    fitted = fit(
        files,
        read_label_counts(files),
        model_settings=ModelSettings(dimension=16, hidden=[32], history="attention", attention_blocks=1, negatives=50),
        settings=TrainingSettings(batch_size=64, epochs=2),
        checkpoints=f"{tmp_path}/checkpoints",
        logs=f"{tmp_path}/logs",
    )
    # By chance 10 of 60; one follower in five is drawn by chance.
    assert fitted.progress.holdout[-1]["recall@10"] > 0.85
