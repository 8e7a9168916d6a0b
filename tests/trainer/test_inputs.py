from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_records import SPEC, random_records, random_user, record, write_file

from trainer.inputs import count_labels, cut_windows, epoch_batches, one_pointer_batches, parse_records
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

NO_TOKENS = FeatureSpec(videos=30, tokens=0, watch_history=3, search_history=4)


def window(values: list[int], end: int, length: int) -> list[int]:
    """Return the window in plain Python, as the oracle."""
    last = values[:end][-length:]
    return [0] * (length - len(last)) + last


@settings(max_examples=fewer(30), deadline=None)
@given(seed=st.integers(0, 10_000), users=st.integers(1, 6))
def test_windows_are_the_last_ids_before_each_pointer(seed: int, users: int) -> None:
    draw = np.random.default_rng(seed)
    lists = [random_user(draw) for _ in range(users)]
    parsed = parse_records(tf.constant([record(str(i), **u) for i, u in enumerate(lists)]), SPEC, training=True)
    batch = cut_windows(parsed.lists, parsed.pointers, SPEC)
    for name, length in (("watches", 5), ("tokens", 4)):
        expected = [window(u[name], end, length) for u in lists for end in u[f"{name}_end"]]
        assert batch[name].numpy().tolist() == expected
        assert batch[name].dtype == tf.int32
    for name in ("label", "example_age", "country", "age"):
        assert batch[name].numpy().tolist() == [value for u in lists for value in u[name]]
    assert set(batch) == {"watches", "tokens", "label", "example_age", "country", "age"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"watches_end": [4]}, "watches_end must lie in the record's watches"),
        ({"watches_end": [-1]}, "watches_end must lie in the record's watches"),
        ({"label": [1, 2]}, "label must have one value a pointer"),
        ({"example_age": []}, "example_age must have one value a pointer"),
        ({"example_age": [float("nan")]}, r"example_age must lie in \[0, 1\]"),
        ({"example_age": [-0.1]}, r"example_age must lie in \[0, 1\]"),
        ({"example_age": [1.1]}, r"example_age must lie in \[0, 1\]"),
    ],
)
def test_inconsistent_records_are_errors(change: dict[str, Any], message: str) -> None:
    lists: dict[str, Any] = {"watches": [1, 2, 3], "label": [1], "watches_end": [3], "example_age": [0.5]} | change
    other = record("next user", watches=[7, 8, 9], label=[1], watches_end=[3], example_age=[0.5])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        parse_records(tf.constant([record("u", **lists), other]), NO_TOKENS, training=True)


def rows(batch: dict[str, tf.Tensor]) -> list[tuple[Any, ...]]:
    columns = [batch[name].numpy().tolist() for name in sorted(batch)]
    return [tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in zip(*columns, strict=True)]


def write_three(folder: Path) -> list[str]:
    return [write_file(folder / f"{i}.tfrecord.gz", random_records(40, seed=i)) for i in range(3)]


def test_an_epoch_has_each_label_once_in_exact_batches(tmp_path: Path) -> None:
    files = write_three(tmp_path)
    batches = list(epoch_batches(files, SPEC, batch_size=32, seed=1, epochs=range(1), pool_users=25))
    everything = [record for i in range(3) for record in random_records(40, seed=i)]
    parsed = parse_records(tf.constant(everything), SPEC, training=True)
    expected = Counter(rows(cut_windows(parsed.lists, parsed.pointers, SPEC)))
    assert Counter(row for batch in batches for row in rows(batch)) == expected
    sizes = [int(batch["label"].shape[0]) for batch in batches]
    assert set(sizes[:-1]) == {32} and 0 < sizes[-1] <= 32
    assert count_labels(files) == sum(sizes) == expected.total()


def test_an_epoch_depends_only_on_seed_and_epoch(tmp_path: Path) -> None:
    files = write_three(tmp_path)

    def order(seed: int, epoch: int, files: list[str] = files) -> list[tuple[Any, ...]]:
        batches = epoch_batches(files, SPEC, batch_size=32, seed=seed, epochs=range(epoch, epoch + 1), pool_users=25)
        return [row for batch in batches for row in rows(batch)]

    first = order(1, 0)
    assert order(1, 0, files[::-1]) == first
    assert order(1, 1) != first and order(2, 0) != first


def test_a_batch_mixes_users(tmp_path: Path) -> None:
    """The labels of a user are consecutive in the record, but not in the batches."""
    users = [
        record(str(u), watches=[u], label=[u] * 20, watches_end=[1] * 20, example_age=[0.0] * 20) for u in range(1, 31)
    ]
    file = write_file(tmp_path / "a.tfrecord.gz", users)
    first = next(iter(epoch_batches([file], NO_TOKENS, batch_size=60, seed=1, epochs=range(1))))
    assert len(set(first["label"].numpy().tolist())) > 15


def test_holdout_batches_have_inputs_labels_and_watched_videos(tmp_path: Path) -> None:
    held = [
        record("a", watches=[3, 0, 5, 6, 9], label=[4, 0], watches_end=[4], example_age=[0.0]),
        record("b", watches=[], label=[7], watches_end=[0], example_age=[0.0]),
    ]
    file = write_file(tmp_path / "h.tfrecord.gz", held)
    ((batch, labels, watched),) = one_pointer_batches([file], NO_TOKENS, batch_size=10, records=10)
    assert batch["watches"].numpy().tolist() == [[0, 5, 6], [0, 0, 0]]
    assert labels.to_list() == [[4, 0], [7]]
    assert watched.to_list() == [[3, 0, 5, 6], []]
    ((batch, _, _),) = one_pointer_batches([file], NO_TOKENS, batch_size=10, records=1)
    assert len(batch["watches"]) == 1


def test_without_files_there_are_no_labels() -> None:
    assert count_labels([]) == 0
