"""The labels that a warm start learns from, compared with a plain reading of the records."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_records import SPEC, random_records, record, write_file

from trainer.inputs import epoch_batches
from trainer.replay import Replay
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

USERS, LABELS = 60, 12
PLAIN = FeatureSpec(videos=USERS * LABELS, tokens=0, watch_history=3, search_history=4)


def user(number: int) -> bytes:
    """Return a record with distinct labels, of days 0 to 5 in turn."""
    labels = [number * LABELS + i + 1 for i in range(LABELS)]
    return record(
        f"user {number}",
        watches=labels,
        label=labels,
        watches_end=list(range(LABELS)),
        example_age=[0.0] * LABELS,
        label_days=[i % 6 for i in range(LABELS)],
    )


RECORDS = [user(number) for number in range(USERS)]
NEW = {number * LABELS + i + 1 for number in range(USERS) for i in range(LABELS) if i % 6 < 2}
OLD = set(range(1, USERS * LABELS + 1)) - NEW


def learned(replay: Replay, epoch: int, records: list[bytes] = RECORDS) -> set[int]:
    """Return the labels of an epoch that `keeps` selects."""
    labels = [
        label for r in records for label in tf.train.Example.FromString(r).features.feature["label"].int64_list.value
    ]
    kept = replay.keeps(tf.constant(records), epoch).numpy().tolist()
    return {label for label, keep in zip(labels, kept, strict=True) if keep}


def write_two(folder: Path) -> list[str]:
    return [write_file(folder / f"{i}.tfrecord.gz", RECORDS[i::2]) for i in range(2)]


def test_an_epoch_has_every_new_label_and_epochs_share_the_old_labels() -> None:
    replay = Replay(days=2, fraction=0.25, salt="2026-11-20")
    passes = [learned(replay, epoch) for epoch in range(5)]
    assert all(found >= NEW for found in passes)
    replayed = [found - NEW for found in passes]
    assert all(0.15 < len(found) / len(OLD) < 0.35 for found in replayed)
    assert Counter(label for found in replayed[:4] for label in found) == Counter(OLD)  # each once in four epochs
    assert replayed[4] == replayed[0]


def test_another_night_replays_other_labels() -> None:
    first, second = (learned(Replay(days=2, fraction=0.25, salt=salt), 0) - NEW for salt in ("one", "other"))
    assert len(first & second) < 0.5 * len(first)


@pytest.mark.parametrize(("fraction", "days", "expected"), [(0.0, 2, NEW), (1.0, 2, NEW | OLD), (0.0, 0, set())])
def test_limits_of_the_settings(fraction: float, days: int, expected: set[int]) -> None:
    assert learned(Replay(days=days, fraction=fraction, salt=""), 3) == expected


def test_the_choice_of_labels_does_not_depend_on_other_records() -> None:
    replay = Replay(days=2, fraction=0.25, salt="s")
    alone = set().union(*(learned(replay, 1, [r]) for r in RECORDS))
    assert alone == learned(replay, 1) == learned(replay, 1, RECORDS[::-1])


@pytest.mark.parametrize("sequences", [False, True])
def test_batches_have_the_chosen_labels_and_the_counted_number(tmp_path: Path, sequences: bool) -> None:
    files, replay = write_two(tmp_path), Replay(days=2, fraction=0.25, salt="s")
    counts = replay.count(files, epochs=3)
    for epoch in range(3):
        batches: list[dict[str, Any]] = list(
            epoch_batches(
                files, PLAIN, batch_size=32, seed=1, epochs=range(epoch, epoch + 1), pool_users=7, replay=replay,
                sequences=sequences,
            )
        )  # fmt: skip
        labels = [label for batch in batches for label in batch["label"].numpy().tolist()]
        assert len(labels) == len(set(labels)) == counts[epoch]
        assert set(labels) == learned(replay, epoch)
    assert len(set(counts)) > 1  # otherwise a count of the first epoch would suffice


def test_label_counts_are_the_mean_of_what_epochs_learn_from(tmp_path: Path) -> None:
    files = [write_file(tmp_path / f"{i}.tfrecord.gz", random_records(60, seed=i)) for i in range(2)]
    replay = Replay(days=2, fraction=0.25, salt="s")

    def withheld(serialized: tf.Tensor) -> tf.Tensor:
        """Withhold the labels of a few days."""
        days = tf.io.parse_example(serialized, {"label_days": tf.io.RaggedFeature(tf.int64)})["label_days"].values
        return (days == 1) | (days == 3)

    for no_epoch_has in (None, withheld):
        batches = epoch_batches(
            files, SPEC, batch_size=32, seed=1, epochs=range(4), replay=replay, withheld=no_epoch_has
        )
        learned_from = np.concatenate([batch["label"].numpy() for batch in batches])
        direct = np.bincount(learned_from, minlength=SPEC.videos + 1)[1:] / 4  # each old label is in one of four epochs
        np.testing.assert_array_equal(replay.label_counts(files, videos=SPEC.videos, withheld=no_epoch_has), direct)
        assert len(set(direct % 1)) == 4
    assert replay.label_counts([], videos=3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("sequences", [False, True])
def test_pools_without_labels_are_skipped(tmp_path: Path, sequences: bool) -> None:
    replay = Replay(days=0, fraction=0.0, salt="s")
    batches = epoch_batches(
        write_two(tmp_path),
        PLAIN,
        batch_size=32,
        seed=1,
        epochs=range(1),
        pool_users=7,
        sequences=sequences,
        replay=replay,
    )
    assert list(batches) == []
    assert replay.count(write_two(tmp_path), epochs=2) == [0, 0]
    assert replay.count([], epochs=2) == [0, 0]


def test_records_without_label_days_are_an_error() -> None:
    old = record("u", watches=[1], label=[1], watches_end=[0], example_age=[0.0])
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="label_days must have one value a label: run the examples"
    ):
        Replay(days=1, fraction=0.2, salt="").keeps(tf.constant([old]), 0)
