"""What logs say of each user at the end of the window, in plain Python: the inputs of the exported tower's signature
`raw`, as a server that keeps its users' events would put them together."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from transforms.examples.tokens import tokens

CATEGORIES = ("country", "device", "signed_in")  # of watches; the last known one counts


def raw_features(job: Path) -> dict[str, dict[str, Any]]:
    """user_id -> watches and tokens, oldest first; country, device, signed_in, gender as text, "" where nothing is
    known; birth_year, 0 where it is not. From the tables beside a job file, all of whose events lie in the window."""
    length = dict(pl.read_parquet(job.parent / "videos.parquet").select("video_id", "video_seconds").iter_rows())
    found: dict[str, dict[str, Any]] = {}

    def of(user: str) -> dict[str, Any]:
        unknown = {"gender": "", "birth_year": 0, **dict.fromkeys(CATEGORIES, "")}
        return found.setdefault(user, {"watches": [], "tokens": [], **unknown})

    for row in _events(job, "watches", "video_id"):
        seconds = row.get("video_seconds") or length.get(row["video_id"])
        user = of(row["user_id"])
        if row["watch_seconds"] >= (0.5 * seconds if seconds else 30):
            user["watches"].append(row["video_id"])
        user |= {name: _text(row[name]) for name in CATEGORIES if row.get(name) is not None}
    for row in _events(job, "searches", "query"):
        of(row["user_id"])["tokens"].extend(tokens(row["query"]))
    for row in pl.read_parquet(job.parent / "users.parquet").iter_rows(named=True):
        if row["user_id"] in found:
            user = found[row["user_id"]]
            user |= {"gender": row["gender"] or "", "birth_year": row["birth_year"] or 0}
            user["country"] = user["country"] or row["country"] or ""
    return found


def _events(job: Path, table: str, then_by: str) -> Sequence[dict[str, Any]]:
    """The rows of all files of a table, distinct, by user, time and one more column."""
    rows = pl.concat([pl.read_parquet(path) for path in sorted((job.parent / table).glob("*.parquet"))])
    return rows.unique().sort("user_id", "time", then_by).to_dicts()


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_inputs(users: Sequence[dict[str, Any]], date: dt.date, names: Sequence[str]) -> dict[str, np.ndarray]:
    """A row a user for each input the signature has: the shorter sequences filled up with "" in front."""

    def texts(name: str) -> np.ndarray:
        longest = max(1, *(len(user[name]) for user in users))
        return np.array([[""] * (longest - len(user[name])) + user[name] for user in users], object)

    inputs = {name: texts(name) for name in ("watches", "tokens")}
    inputs |= {name: np.array([user[name] for user in users], object) for name in (*CATEGORIES, "gender")}
    inputs["birth_year"] = np.array([user["birth_year"] for user in users], np.int64)
    inputs["year"] = np.full(len(users), date.year, np.int64)
    return {name: inputs[name] for name in names}
