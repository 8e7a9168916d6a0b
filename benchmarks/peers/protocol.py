"""What a peer's own process does: read neutral logs, train within the seconds, write lists, report seconds and memory.

    # in benchmarks/peers/NAME.py
    class Name:
        def __init__(self, logs: Logs, settings: Settings) -> None: ...
        def train_epoch(self) -> None: ...
        def recommend(self, users: Ints, k: int) -> Ints: ...

    if __name__ == "__main__":
        run(Name)

This module is imported in the environments of all peers, so it imports numpy and polars only. `run` has two modes. With
`--seconds` it trains on validation logs and writes lists of the asked users at several points of the training, which
take no training time; the driver scores them and so chooses settings and epochs. With `--epochs` alone it trains that
long and writes lists for all users.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

FIRST_CHECKPOINT = 0.1  # of a training
USERS_AT_ONCE = 4_096
BULK_K = 200

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Logs:
    """Completed watches in time order; users and items are numbers from 0."""

    user: Ints  # of each watch
    item: Ints
    time: NDArray[np.datetime64]
    user_ids: pl.Series
    item_ids: pl.Series
    asked: Ints  # users that lists are scored for

    @property
    def users(self) -> int:
        return self.user_ids.len()

    @property
    def items(self) -> int:
        return self.item_ids.len()

    def histories(self) -> list[Ints]:
        """Return the items of each user in time order."""
        order = np.argsort(self.user, kind="stable")
        return np.split(self.item[order], np.cumsum(np.bincount(self.user, minlength=self.users))[:-1])

    def recent(self, users: Ints, length: int) -> tuple[Ints, Ints]:
        """Return (items, lengths): the last items of each user, oldest first, in rows [users, length] with zeros at the
        end. Items are numbered from 1 here."""
        histories = self.histories()
        rows, lengths = np.zeros((len(users), length), np.int64), np.zeros(len(users), np.int64)
        for row, user in enumerate(users):
            last = histories[user][-length:] + 1
            rows[row, : len(last)], lengths[row] = last, len(last)
        return rows, lengths

    def prefixes(self, length: int) -> tuple[Ints, Ints, Ints, Ints]:
        """Return (user, items, lengths, label) of each watch but a user's first: the items before it as in `recent`."""
        histories = self.histories()
        n = sum(max(0, len(history) - 1) for history in histories)
        rows, lengths = np.zeros((n, length), np.int64), np.zeros(n, np.int64)
        user, label, row = np.zeros(n, np.int64), np.zeros(n, np.int64), 0
        for number, history in enumerate(histories):
            for end in range(1, len(history)):
                last = history[max(0, end - length) : end] + 1
                rows[row, : len(last)], lengths[row], label[row], user[row] = last, len(last), history[end] + 1, number
                row += 1
        return user, rows, lengths, label

    def best(self, scores: Floats, users: Ints, k: int) -> Ints:
        """Return the k best items by scores [users, items], without those that the user has watched; -1 at the end of
        rows with fewer. Changes `scores`."""
        row_of = np.full(self.users, -1)
        row_of[users] = np.arange(len(users))
        watched = np.flatnonzero(row_of[self.user] >= 0)
        scores[row_of[self.user[watched]], self.item[watched]] = -np.inf
        k = min(k, self.items)
        found = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
        found = np.take_along_axis(found, order, axis=1)
        return np.where(np.isfinite(np.take_along_axis(scores, found, axis=1)), found, -1)


class Recommender(Protocol):
    """A peer: constructed with logs and settings, which takes no training time."""

    def train_epoch(self) -> None:
        """Train for one more epoch, or iteration."""

    def recommend(self, users: Ints, k: int) -> Ints:
        """Return the k best items that a user has not watched, best first [users, k]; -1 in rows with fewer."""


def read_logs(folder: Path) -> Logs:
    """Read a folder that `neutral_logs` wrote."""
    watches = pl.read_parquet(folder / "interactions.parquet")
    user_ids = pl.read_parquet(folder / "users.parquet")["user_id"]
    truth = pl.read_parquet(folder / "truth.parquet")["user_id"].unique()
    return Logs(
        user=watches["user"].to_numpy().astype(np.int64),
        item=watches["item"].to_numpy().astype(np.int64),
        time=watches["time"].dt.replace_time_zone(None).to_numpy(),
        user_ids=user_ids,
        item_ids=pl.read_parquet(folder / "items.parquet")["video_id"],
        asked=np.flatnonzero(user_ids.is_in(truth.implode()).to_numpy()),
    )


def another_epoch(epochs: int, spent: float, seconds: float) -> bool:
    """Whether one more epoch of the mean length brings the time that training takes closer to the seconds."""
    return spent + spent / epochs / 2 <= seconds


def is_checkpoint(epochs: int, progress: float) -> bool:
    """Whether to write lists after 1, 2, 3, 4, 6, 8, 12, 16, 24, ... epochs; progress: done share of the training."""
    power = 2 ** (epochs.bit_length() - 1)
    return epochs in (power, power * 3 / 2) and progress >= FIRST_CHECKPOINT


def run(make: Callable[[Logs, Settings], Recommender]) -> None:
    """The main function of a peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("logs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--k", type=int, default=BULK_K, help="length of the lists")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--epochs", type=int, required=True, help="with --seconds, at most so many")
    args = parser.parse_args()
    began = time.perf_counter()
    logs = read_logs(args.logs)
    peer = make(logs, args.settings)
    ready = time.perf_counter() - began
    tries = _train_in_time(peer, logs, args) if args.seconds else [_train_and_list(peer, logs, args)]
    whole = time.perf_counter() - began
    result = {"ready_seconds": ready, "points": tries, "whole_seconds": whole, "peak_bytes": peak_bytes()}
    (args.out / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


def _train_in_time(peer: Recommender, logs: Logs, args: argparse.Namespace) -> list[dict[str, float]]:
    """Train for the seconds and write lists at the checkpoints; return epochs and seconds of each."""
    points: list[dict[str, float]] = []
    spent, epochs, more = 0.0, 0, True
    while more:
        began = time.perf_counter()
        peer.train_epoch()
        spent, epochs = spent + time.perf_counter() - began, epochs + 1
        more = epochs < args.epochs and another_epoch(epochs, spent, args.seconds)
        if not more or is_checkpoint(epochs, max(spent / args.seconds, epochs / args.epochs)):
            write_lists(peer, logs, logs.asked, args.k, args.out / f"lists-{epochs}")
            points.append({"epochs": epochs, "train_seconds": spent})
    return points


def _train_and_list(peer: Recommender, logs: Logs, args: argparse.Namespace) -> dict[str, float]:
    began = time.perf_counter()
    for _ in range(args.epochs):
        peer.train_epoch()
    trained = time.perf_counter()
    write_lists(peer, logs, np.arange(logs.users), args.k, args.out / f"lists-{args.epochs}")
    listed = time.perf_counter() - trained
    point = {"epochs": args.epochs, "train_seconds": trained - began, "list_seconds": listed}
    return point | {"listed_users": logs.users}


def write_lists(peer: Recommender, logs: Logs, users: Ints, k: int, folder: Path) -> None:
    """Write lists.parquet to a new folder: user_id, video_ids. Users without a list are left out."""
    frames = []
    for start in range(0, len(users), USERS_AT_ONCE):
        some = users[start : start + USERS_AT_ONCE]
        found = np.asarray(peer.recommend(some, k), np.int64)
        ids = pl.Series(found.ravel()).replace(-1, None).cast(pl.UInt32)
        pairs = pl.DataFrame(
            {"user_id": logs.user_ids.gather(np.repeat(some, found.shape[1])), "video_ids": logs.item_ids.gather(ids)}
        )
        frames.append(pairs.drop_nulls().group_by("user_id", maintain_order=True).agg("video_ids"))
    folder.mkdir()
    pl.concat(frames).write_parquet(folder / "lists.parquet")


def peak_bytes() -> int:
    """Return the peak memory of this process; unlike getrusage it does not include that of the parent."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1]) * 1_024
