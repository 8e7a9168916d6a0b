from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from trainer_records import SPEC, record, write_file

from trainer.co_watches import Histories, read_histories
from trainer.export import last_watches
from trainer.record_files import RecordFiles
from trainer.transitions import SHRINKAGE, count_transitions, write_transitions
from transforms.contracts.transitions import DECAY, LAGS
from transforms.core.tensorflow_import import tf

VIDEOS = 9


def random_sequences(seed: int, users: int = 60) -> list[list[int]]:
    """Watches of users, oldest first; ids above `VIDEOS` were not completed."""
    draw = np.random.default_rng(seed)
    return [draw.integers(1, 2 * VIDEOS + 1, draw.integers(0, 12)).tolist() for _ in range(users)]


def histories_of(sequences: list[list[int]]) -> Histories:
    ids = np.array([id for sequence in sequences for id in sequence], np.int64)
    return Histories(ids=ids, offsets=np.cumsum([0, *map(len, sequences)]))


def shares_by_hand(sequences: list[list[int]]) -> dict[int, dict[int, float]]:
    counts: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for sequence in sequences:
        completed = [id for id in sequence if id <= VIDEOS]
        for place, first in enumerate(completed):
            for lag, then in enumerate(completed[place + 1 : place + 1 + LAGS]):
                if then != first:
                    counts[first][then] += DECAY**lag
    return {
        first: {then: count / (sum(found.values()) + SHRINKAGE) for then, count in found.items()}
        for first, found in counts.items()
    }


@pytest.mark.parametrize("followers", [3, 20])
def test_shares_are_those_counted_by_hand(followers: int) -> None:
    sequences = random_sequences(1)
    shares = count_transitions(histories_of(sequences), videos=VIDEOS, followers=followers)
    expected = shares_by_hand(sequences)
    for id in range(1, VIDEOS + 1):
        row = shares[id - 1]
        best = sorted(expected[id].items(), key=lambda item: (-round(item[1], 6), item[0]))[:followers]
        assert [int(then) + 1 for then in row.indices] == [then for then, _ in best]
        assert row.data == pytest.approx([share for _, share in best], rel=1e-5)
    assert float(shares.sum(axis=1).max()) < 1


def test_users_without_two_completed_watches_have_no_transitions() -> None:
    shares = count_transitions(histories_of([[], [3], [3, VIDEOS + 4], [5, 5]]), videos=VIDEOS)
    assert shares.shape == (VIDEOS, VIDEOS) and shares.nnz == 0


def test_the_file_has_a_row_for_each_video(tmp_path: Path) -> None:
    shares = count_transitions(histories_of(random_sequences(2, users=4)), videos=VIDEOS)
    write_transitions(shares, str(tmp_path / "transitions.parquet"))
    rows = pq.read_table(tmp_path / "transitions.parquet").to_pylist()
    assert [row["id"] for row in rows] == list(range(1, VIDEOS + 1))
    for row in rows:
        assert row["followers"] == (shares[row["id"] - 1].indices + 1).tolist()
        assert row["shares"] == pytest.approx(shares[row["id"] - 1].data.tolist())
    assert any(row["followers"] for row in rows) and not all(row["followers"] for row in rows)


def test_histories_end_with_the_newest_label_on_request(tmp_path: Path) -> None:
    users = [record("u1", watches=[1, 0, 2], label=[2, 7]), record("u2", watches=[], label=[4])]
    records = RecordFiles.from_paths([write_file(tmp_path / "train.tfrecord.gz", users)])
    assert read_histories(records, SPEC).ids.tolist() == [1, 2]
    whole = read_histories(records, SPEC, newest_labels=True)
    assert whole.ids.tolist() == [1, 2, 7, 4] and whole.offsets.tolist() == [0, 3, 4]


def test_last_watches_are_completed_ones_of_known_videos() -> None:
    windows = np.array([[0, 0, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 5, 12, 0, 3, 13, 4]], np.int32)
    found = last_watches(tf.constant(windows), videos=9).numpy().tolist()
    for window, last in zip(windows.tolist(), found, strict=True):
        known = [id for id in window if 0 < id <= 9][-LAGS:]
        assert last == [0] * (LAGS - len(known)) + known
