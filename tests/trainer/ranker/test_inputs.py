"""Impressions with their histories, compared with plain Python, and invalid records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranking_records import BARE, SPEC, random_records, random_user, record, write_records

from trainer.ranker.inputs import all_impressions, impression_batches, parse_ranking_records, read_labels
from trainer.record_files import RecordFiles
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf


def users(seed: int, count: int, spec: RankingSpec = SPEC) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    return [random_user(draw, spec) for _ in range(count)]


def window(values: np.ndarray, end: int, length: int) -> list[int]:
    """Return the last `length` of the first `end` values, padded with 0 in front."""
    last = values[:end][-length:].tolist()
    return [0] * (length - len(last)) + last


@pytest.mark.parametrize("spec", [SPEC, BARE], ids=["all features", "bare"])
def test_impressions_have_the_windows_before_them_and_their_features(spec: RankingSpec) -> None:
    made = users(1, 30, spec)
    _, batch = all_impressions(tf.constant([record(f"u{i}", of, spec) for i, of in enumerate(made)]), spec)
    histories = {"watches": spec.watch_history, **({"tokens": spec.search_history} if spec.tokens else {})}
    for name, length in histories.items():
        expected = [window(of[name], end, length) for of in made for end in of[f"{name}_end"]]
        np.testing.assert_array_equal(batch[name].numpy(), expected)
    for name in [
        *spec.impression_features,
        *spec.categories,
        *spec.numbers,
        "clicked",
        "watch_seconds",
        "page",
        "impression_weight",
    ]:
        values = np.concatenate([user[name] for user in made])
        np.testing.assert_array_equal(batch[name].numpy(), values.astype(batch[name].dtype.as_numpy_dtype))


def test_an_epoch_has_each_impression_once_in_random_order(tmp_path: Path) -> None:
    files = RecordFiles.from_paths(write_records(tmp_path, random_records(60, seed=2)))

    def seconds(seed: int, epochs: range) -> list[float]:
        batches = impression_batches(files, SPEC, batch_size=7, seed=seed, epochs=epochs)
        return [float(value) for batch in batches for value in batch["watch_seconds"]]

    expected = sorted(float(of) for user in users(2, 60) for of in user["watch_seconds"])
    one, again, other, second = seconds(1, range(1)), seconds(1, range(1)), seconds(2, range(1)), seconds(1, range(2))
    assert sorted(one) == sorted(other) == expected
    assert one == again == second[: len(one)]
    assert one != other and second[len(one) :] != one
    assert sorted(second[len(one) :]) == expected


def test_read_labels_has_the_labels_of_all_records(tmp_path: Path) -> None:
    files = RecordFiles.from_paths(write_records(tmp_path, random_records(20, seed=3)))
    columns = [np.concatenate([part[i].numpy() for part in read_labels(files)]) for i in (0, 1, 2)]
    made = users(3, 20)
    for found, name in zip(columns, ("clicked", "watch_seconds", "impression_weight"), strict=True):
        assert sorted(found) == sorted(np.concatenate([of[name] for of in made]).astype(float))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score": [1.0]}, "score must have one value a pointer"),
        ({"clicked": [1, 0, 1]}, "clicked must have one value a pointer"),
        ({"watches_end": [0, 5]}, "watches_end must lie in the record's watches"),
        ({"clicked": [2, 0]}, "clicked must be 0 or 1"),
        ({"watch_seconds": [-1.0, 0]}, "watch_seconds finite"),
        ({"watch_seconds": [1.0, 2.0]}, "watch_seconds finite"),
        ({"watch_seconds": [float("inf"), 0]}, "watch_seconds finite"),
        ({"watch_seconds": [float("nan"), 0]}, "watch_seconds finite"),
        ({"impression_weight": [1.0, 0.0]}, "impression_weight finite and above 0"),
        ({"impression_weight": [1.0, float("inf")]}, "impression_weight finite and above 0"),
        ({"impression_weight": [1.0]}, "impression_weight must have one value a pointer"),
    ],
)
def test_invalid_records_are_errors(changed: dict[str, Any], message: str) -> None:
    names = ["video", "channel", "page", "impression_day", *SPEC.categories, *SPEC.numbers, "watches_end", "tokens_end"]
    sound: dict[str, Any] = {name: [0, 0] for name in names} | {"watches": [3, 4], "tokens": [1], "clicked": [1, 0]}
    sound |= {"watch_seconds": [9.0, 0], "impression_weight": [1.0, 4.0]}
    assert parse_ranking_records(tf.constant([record("u", sound)]), SPEC).pointer_counts.numpy().tolist() == [2]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        parse_ranking_records(tf.constant([record("u", sound | changed)]), SPEC)
