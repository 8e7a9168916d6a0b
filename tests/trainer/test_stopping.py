"""The users of early stopping: their choice, and that no epoch learns from their newest label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_records import SPEC, random_user, record, write_file

from trainer import stopping
from trainer.inputs import epoch_batches
from trainer.record_files import RecordFiles
from trainer.replay import Replay
from trainer.stopping import StoppingUsers, choose_stopping_users, read_user_ids
from trainer.training import TrainingData
from transforms.core.tensorflow_import import tf

USERS = 400
LISTS = [random_user(np.random.default_rng(user), pointers=user % 4) for user in range(USERS)]
RECORDS = [record(f"user {user}", **lists) for user, lists in enumerate(LISTS)]
WITH_LABELS = {f"user {user}".encode() for user in range(USERS) if user % 4}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> RecordFiles:
    folder = tmp_path_factory.mktemp("records")
    return RecordFiles.from_paths([write_file(folder / f"{i}.tfrecord.gz", RECORDS[i::3]) for i in range(3)])


def chosen(files: RecordFiles, **changed: object) -> StoppingUsers:
    found = choose_stopping_users(files, **{"held_out": set(), "seed": 1, "limit": USERS, **changed})  # type: ignore[arg-type]
    assert found is not None
    return found


def number(user_id: bytes) -> int:
    return int(user_id.split()[1])


def test_users_are_a_share_of_those_with_a_label(files: RecordFiles, tmp_path: Path) -> None:
    found = chosen(files)
    assert 0.02 < len(found.user_ids) / len(WITH_LABELS) < 0.09 and set(found.user_ids) < WITH_LABELS
    assert found.records.numpy().tolist() == [RECORDS[number(user)] for user in found.user_ids]
    other_order = RecordFiles.from_paths([write_file(tmp_path / "one.tfrecord.gz", RECORDS[::-1])])
    assert chosen(other_order).user_ids == found.user_ids
    assert chosen(files, seed=2).user_ids != found.user_ids
    assert chosen(files, limit=3).user_ids == found.user_ids[:3]


def test_held_out_users_are_not_chosen(files: RecordFiles) -> None:
    held_out = set(chosen(files).user_ids[::2])
    assert set(chosen(files, held_out=held_out).user_ids) == set(chosen(files).user_ids) - held_out
    (last,) = chosen(files, held_out=WITH_LABELS - {b"user 7"}).user_ids
    assert last == b"user 7", "at least one user, whatever the digest"
    assert choose_stopping_users(files, WITH_LABELS, seed=1, limit=9) is None
    assert read_user_ids(files) == {f"user {user}".encode() for user in range(USERS)}


@pytest.mark.parametrize("replay", [None, Replay(days=1, fraction=0.5, salt="s")])
def test_epochs_learn_all_labels_except_the_newest_of_these_users(files: RecordFiles, replay: Replay | None) -> None:
    """Compare with the same epochs without early stopping; (label, country, example age) identifies a label."""
    found = chosen(files)
    options: dict[str, Any] = {"batch_size": 32, "seed": 1, "replay": replay}

    def labels(epoch: int, **more: Any) -> list[tuple[float, ...]]:
        batches = epoch_batches(files, SPEC, epochs=range(epoch, epoch + 1), **options, **more)
        names = ("label", "country", "example_age")
        return sorted(row for b in batches for row in zip(*(b[n].numpy().tolist() for n in names), strict=True))

    counts = TrainingData(spec=SPEC, records=files, replay=replay, stopping=found).labels_per_epoch(2)
    for epoch in range(2):
        every, learned = labels(epoch), labels(epoch, withheld=found.newest_labels)
        newest = list[tuple[float, ...]]()
        for user in found.user_ids:
            lists, kept = LISTS[number(user)], True
            if replay:
                kept = bool(replay.keeps(tf.constant([RECORDS[number(user)]]), epoch).numpy()[-1])
            age = float(np.float32(lists["example_age"][-1]))
            newest += [(lists["label"][-1], lists["country"][-1], age)] if kept else []
        assert sorted(learned + newest) == every and len(learned) == counts[epoch]


def test_the_newest_label_is_measured_with_the_history_before_it(files: RecordFiles) -> None:
    found = chosen(files)
    user = 0
    for batch, labels, watched in found.batches(SPEC, batch_size=5):
        for row in range(labels.nrows().numpy()):
            lists = LISTS[number(found.user_ids[user])]
            end = lists["watches_end"][-1]
            assert labels[row].numpy().tolist() == lists["label"][-1:]
            assert watched[row].numpy().tolist() == lists["watches"][:end]
            window = ([0] * SPEC.watch_history + lists["watches"][:end])[-SPEC.watch_history :]
            assert batch["watches"][row].numpy().tolist() == window
            user += 1
    assert user == len(found.user_ids)
    assert stopping.STOPPING_SHARE == 0.05
