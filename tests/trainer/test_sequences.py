from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_records import SPEC, random_records, random_user, record, write_file

from trainer.inputs import cut_windows, epoch_batches, parse_records
from trainer.sequences import SEQUENCES_PER_POOL, history_rows, share_sequences, shuffle_sequences
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf


def spec_of(length: int) -> FeatureSpec:
    return FeatureSpec(videos=30, tokens=0, watch_history=length, search_history=4)


@settings(max_examples=fewer(40), deadline=None)
@given(seed=st.integers(0, 10_000), users=st.integers(1, 6), length=st.integers(1, 9))
def test_a_label_sees_at_least_the_last_half_of_a_row_and_nothing_after_it(seed: int, users: int, length: int) -> None:
    draw, spec = np.random.default_rng(seed), spec_of(length)
    lists = [random_user(draw, spec) for _ in range(users)]
    parsed = parse_records(tf.constant([record(str(i), **u) for i, u in enumerate(lists)]), spec, training=True)
    pointers = share_sequences(parsed.pointers, length=length, pool=tf.constant(3, tf.int64))
    batch = {name: tensor.numpy() for name, tensor in cut_windows(parsed.lists, pointers, spec).items()}
    before = [u["watches"][:end] for u in lists for end in u["watches_end"]]
    assert len(before) == len(batch["label"])
    rows: dict[int, Any] = {}
    for past, row, position, sequence in zip(
        before, batch["watches"], batch["position"], batch["sequence"], strict=True
    ):
        least = min(len(past), length - length // 2)
        assert least <= position <= length
        # The rest of the row is earlier history, or padding.
        assert row[:position].tolist() == ([0] * position + past)[len(past) :]
        assert rows.setdefault(sequence, row.tolist()) == row.tolist()
    assert set(rows) <= {3 * SEQUENCES_PER_POOL + i for i in range(len(rows))}


def test_labels_near_each_other_share_a_row() -> None:
    one = record("u", watches=list(range(1, 26)), label=[1] * 26, watches_end=list(range(26)), example_age=[0.0] * 26)
    parsed = parse_records(tf.constant([one]), spec_of(10), training=True)
    shared = share_sequences(parsed.pointers, length=10, pool=tf.constant(0, tf.int64))
    assert Counter(shared["sequence"].numpy().tolist()) == {0: 11, 1: 5, 2: 5, 3: 5}


@settings(max_examples=fewer(20), deadline=None)
@given(sequences=st.lists(st.integers(0, 9), max_size=30), seed=st.integers(0, 99))
def test_sequences_are_shuffled_whole_and_their_labels_keep_their_order(sequences: list[int], seed: int) -> None:
    numbers = {sequence: number for number, sequence in enumerate(dict.fromkeys(sequences))}
    sequence = tf.constant([5 * SEQUENCES_PER_POOL + numbers[s] for s in sequences], tf.int64)
    places = shuffle_sequences(sequence, seed=tf.constant([seed, 1])).numpy()
    assert sorted(places) == list(range(len(sequences)))
    shuffled = sequence.numpy()[places]
    assert np.count_nonzero(np.diff(shuffled)) == max(len(numbers) - 1, 0)
    for number in numbers.values():
        assert (np.diff(places[shuffled == 5 * SEQUENCES_PER_POOL + number]) > 0).all()


def test_a_pass_over_sequences_has_each_label_once_in_exact_batches(tmp_path: Path) -> None:
    files = [write_file(tmp_path / f"{i}.tfrecord.gz", random_records(40, seed=i)) for i in range(3)]

    def batches(as_sequences: bool, epoch: int = 0) -> list[dict[str, Any]]:
        passes = range(epoch, epoch + 1)
        found = epoch_batches(files, SPEC, batch_size=32, seed=1, epochs=passes, pool_users=25, sequences=as_sequences)
        return [{name: tensor.numpy() for name, tensor in batch.items()} for batch in found]

    sequences, windows = batches(True), batches(False)
    assert [len(batch["label"]) for batch in sequences] == [len(batch["label"]) for batch in windows]

    def labels(found: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
        names = ("label", "example_age", "country", "age")
        return Counter(row for b in found for row in zip(*(b[n].tolist() for n in names), strict=True))

    assert labels(sequences) == labels(windows)
    assert any((a["label"] != b["label"]).any() for a, b in zip(sequences, batches(True, epoch=1), strict=True))


def test_a_batch_has_each_sequence_once_across_pools(tmp_path: Path) -> None:
    """Sequences of many users, in one batch from two pools."""
    users = [
        record(str(u), watches=[u] * 4, label=[u] * 4, watches_end=[1, 2, 3, 4], example_age=[0.0] * 4)
        for u in range(1, 21)
    ]
    file = write_file(tmp_path / "a.tfrecord.gz", users)
    batches = epoch_batches([file], spec_of(5), batch_size=80, seed=1, epochs=range(1), pool_users=10, sequences=True)
    (batch,) = batches
    rows, positions = history_rows(batch)
    assert rows.shape == (20, 5)
    read_by = defaultdict(list)
    for row, label in zip(positions.row.numpy(), batch["label"].numpy(), strict=True):
        read_by[tuple(rows[row].numpy())].append(label)
    assert read_by == {(0, u, u, u, u): [u] * 4 for u in range(1, 21)}


@pytest.mark.parametrize("sequences", [False, True])
def test_a_pool_without_labels_yields_no_batch(tmp_path: Path, sequences: bool) -> None:
    nothing = [record(str(u), watches=[1], label=[], watches_end=[], example_age=[]) for u in range(6)]
    some = [record("x", watches=[1], label=[2], watches_end=[1], example_age=[0.0])]
    file = write_file(tmp_path / "a.tfrecord.gz", nothing + some)
    batches = epoch_batches(
        [file], spec_of(5), batch_size=4, seed=1, epochs=range(2), pool_users=2, sequences=sequences
    )
    assert [batch["label"].numpy().tolist() for batch in batches] == [[2], [2]]


def test_windows_are_their_own_rows() -> None:
    windows = tf.constant([[0, 1, 2], [0, 1, 2]])
    rows, positions = history_rows({"watches": windows})
    assert (rows.numpy() == windows.numpy()).all()
    assert positions.row.numpy().tolist() == [0, 1] and positions.position.numpy().tolist() == [3, 3]
