"""Tests of what a peer's process does: the time box, checkpoints, neutral logs and lists."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.peers import protocol
from benchmarks.peers.neutral_logs import write_neutral
from benchmarks.peers.protocol import Ints, Logs, Settings, another_epoch, is_checkpoint, read_logs, run

WATCHES = [("u2", "v1", 1, True), ("u1", "v3", 2, True), ("u2", "v2", 3, True), ("u1", "v9", 4, False)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Neutral logs: u1 watched v3, u2 watched v1 and v2, and u1 is asked."""
    (tmp_path / "watches").mkdir()
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    rows = [(user, video, start + dt.timedelta(minutes=at), done) for user, video, at, done in WATCHES]
    names = ["user_id", "video_id", "time", "completed"]
    pl.DataFrame(rows[2:], names, orient="row").write_parquet(tmp_path / "watches" / "a.parquet")
    pl.DataFrame(rows[:2], names, orient="row").write_parquet(tmp_path / "watches" / "b.parquet")
    truth = tmp_path / "pairs.parquet"
    pl.DataFrame({"user_id": ["u1", "new"], "video_id": ["v1", "v1"]}).write_parquet(truth)
    write_neutral(tmp_path / "watches", truth, tmp_path)
    return tmp_path


def test_neutral_logs_are_the_completed_watches_in_time_order(folder: Path) -> None:
    logs = read_logs(folder)
    assert logs.user_ids.to_list() == ["u1", "u2"] and logs.item_ids.to_list() == ["v1", "v2", "v3"]
    assert (logs.user.tolist(), logs.item.tolist(), logs.asked.tolist()) == ([1, 0, 1], [0, 2, 1], [0])
    assert [history.tolist() for history in logs.histories()] == [[2], [0, 1]]


def test_recent_keeps_the_last_items_oldest_first(folder: Path) -> None:
    rows, lengths = read_logs(folder).recent(np.array([1, 0]), 2)
    assert (rows.tolist(), lengths.tolist()) == ([[1, 2], [3, 0]], [2, 1])


def test_prefixes_have_no_item_of_the_label_or_later(folder: Path) -> None:
    user, rows, lengths, label = read_logs(folder).prefixes(2)
    assert (user.tolist(), rows.tolist(), lengths.tolist(), label.tolist()) == ([1], [[1, 0]], [1], [2])


def test_best_leaves_out_what_a_user_watched(folder: Path) -> None:
    scores = np.array([[3, 2, 1], [1, 2, 3]], np.float32)
    assert read_logs(folder).best(scores, np.array([1, 0]), 5).tolist() == [[2, -1, -1], [1, 0, -1]]


@pytest.mark.parametrize(("epochs", "spent", "more"), [(1, 10, True), (3, 30, True), (4, 40, False), (1, 70, False)])
def test_training_ends_at_the_epoch_nearest_to_the_seconds(epochs: int, spent: float, more: bool) -> None:
    assert another_epoch(epochs, spent, seconds=42) is more


def test_checkpoints_are_evenly_spaced_on_a_logarithmic_scale() -> None:
    assert [n for n in range(1, 50) if is_checkpoint(n, 1)] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert [n for n in range(1, 50) if is_checkpoint(n, n / 50)] == [6, 8, 12, 16, 24, 32, 48]


class Latest:
    """Scores an item by its number; an epoch takes a hundredth of a second."""

    def __init__(self, logs: Logs, settings: Settings) -> None:
        self.logs, self.sign, self.epochs = logs, settings["sign"], 0

    def train_epoch(self) -> None:
        self.epochs += 1
        time.sleep(0.01)

    def recommend(self, users: Ints, k: int) -> Ints:
        scores = np.tile(self.sign * np.arange(self.logs.items, dtype=np.float32), (len(users), 1))
        return self.logs.best(scores, users, k)


def _run(monkeypatch: pytest.MonkeyPatch, folder: Path, out: Path, *arguments: str) -> list[dict[str, float]]:
    out.mkdir()
    command = ["peer", str(folder), str(out), "--settings", '{"sign": 1}', *arguments]
    monkeypatch.setattr(sys, "argv", command)
    run(Latest)
    result = json.loads((out / "result.json").read_text())
    assert result["peak_bytes"] > 1_000_000 and result["whole_seconds"] > result["ready_seconds"]
    points: list[dict[str, float]] = result["points"]
    return points


def test_a_peer_lists_all_users_after_its_epochs(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(protocol, "USERS_AT_ONCE", 1)
    (point,) = _run(monkeypatch, folder, tmp_path / "out", "--epochs", "3", "--k", "1")
    assert point["epochs"] == 3 and point["listed_users"] == 2 and point["train_seconds"] >= 0.03
    lists = pl.read_parquet(tmp_path / "out" / "lists-3" / "lists.parquet")
    assert lists.rows() == [("u1", ["v2"]), ("u2", ["v3"])]


def test_a_peer_lists_asked_users_until_the_epochs_or_the_seconds_end(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    points = _run(monkeypatch, folder, tmp_path / "few", "--epochs", "3", "--seconds", "1000")
    assert [point["epochs"] for point in points] == [1, 2, 3]
    points = _run(monkeypatch, folder, tmp_path / "many", "--epochs", "1000", "--seconds", "0.2")
    assert len(points) >= 2 and points[-1]["train_seconds"] > 0.1
    for point in points:
        lists = pl.read_parquet(tmp_path / "many" / f"lists-{point['epochs']}" / "lists.parquet")
        assert lists.rows() == [("u1", ["v2", "v1"])]
