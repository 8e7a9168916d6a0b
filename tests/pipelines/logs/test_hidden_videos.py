"""Videos that are never to be shown to some users: ingested by bucket, and treated as every table of users is."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from nights import commit, night
from stores import USERS, all_bytes, counts, daily, ingested

from pipelines import ingest, neighbours
from pipelines.night.night import Night
from transforms.core import files
from transforms.core.digests import bucket_of
from transforms.logs.event_window import read_hidden
from transforms.logs.privacy import pseudonym

PAIRS = [(USERS[0], "0v"), (USERS[0], "1v"), (USERS[3], "0v"), (USERS[3], "0v"), ("stranger", "4v")]
KEY = "a key of sixteen characters"


def with_hidden(folder: Path, more: str = "") -> Path:
    job = daily(folder, more)
    job.write_text(job.read_text().replace('users = "users.csv"', 'users = "users.csv"\nhidden = "hidden.csv"'))
    write_pairs(folder, PAIRS)
    return job


def write_pairs(folder: Path, pairs: list[tuple[str, str]]) -> None:
    rows = "".join(f"{user},{video}\n" for user, video in pairs)
    (folder / "hidden.csv").write_text(f"user_id,video_id\n{rows}")


def hidden(of: Night) -> dict[int, set[tuple[str, str]]]:
    """The pairs in the files of each bucket."""
    return {bucket.bucket: set(read_hidden(bucket).rows()) for bucket in of.ingested.buckets()}


def test_pairs_lie_in_the_bucket_of_their_user_once(tmp_path: Path) -> None:
    of = ingested(with_hidden(tmp_path))
    found = hidden(of)
    assert {pair for pairs in found.values() for pair in pairs} == set(PAIRS)
    assert all(bucket_of(user, 8) == bucket for bucket, pairs in found.items() for user, _ in pairs)
    tables = counts(of)["tables"]
    assert isinstance(tables, dict)
    assert {name: rows for name, rows in tables["hidden"].items() if rows} == {"read": 5, "duplicates": 1, "kept": 4}


def test_other_pairs_are_another_night_for_neighbours_and_not_for_examples(tmp_path: Path) -> None:
    job = with_hidden(tmp_path)
    before = ingested(job)
    limits, window = neighbours.limit_digests(before), before.ingested.window_digest()
    write_pairs(tmp_path, PAIRS[:2])
    assert not ingest.plan(night(job)).is_done(night(job))
    after = ingested(job)
    changed = {name for name, digest in neighbours.limit_digests(after).items() if digest != limits[name]}
    assert changed == {"hidden"} and after.ingested.window_digest() == window


def test_users_are_forgotten_and_have_pseudonyms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    (tmp_path / "forget.csv").write_text("user_id\n")
    job = with_hidden(tmp_path, '[privacy]\nforget = "forget.csv"\npseudonym_key_env = "THE_KEY"\n')
    of = ingested(job)
    named = {(pseudonym(user, KEY.encode()), video) for user, video in PAIRS}
    assert {pair for pairs in hidden(of).values() for pair in pairs} == named
    assert b"stranger" not in all_bytes(of.root.path)
    (tmp_path / "forget.csv").write_text(f"user_id\n{USERS[0]}\nstranger\n")
    of = ingested(job)
    assert {pair for pairs in hidden(of).values() for pair in pairs} == {(pseudonym(USERS[3], KEY.encode()), "0v")}


def test_forgetting_rewrites_earlier_nights_and_leaves_default_lists_alone(tmp_path: Path) -> None:
    (tmp_path / "forget.csv").write_text("user_id\n")
    of = ingested(with_hidden(tmp_path, '[privacy]\nforget = "forget.csv"\n'))
    lists = pl.DataFrame({"country": [None, USERS[0]], "video_ids": [["v"], ["v"]], "scores": [[1.0], [1.0]]})
    entry = files.write_parquet(lists, of.folder("neighbours"), "../defaults/defaults-aa.parquet")
    commit(of, "neighbours", [entry], attempt="aa")
    (tmp_path / "forget.csv").write_text(f"user_id\n{USERS[0]}\n")
    of = ingested(tmp_path / "job.toml")
    assert USERS[0] not in {user for pairs in hidden(of).values() for user, _ in pairs}
    path = files.join(of.folder("neighbours"), "../defaults/defaults-aa.parquet")
    assert files.read_parquet(path).equals(lists), "a country may be called like a user"
    assert of.require("neighbours").files == [entry]


def test_a_night_without_the_table_has_no_pairs(tmp_path: Path) -> None:
    of = ingested(daily(tmp_path))
    assert hidden(of) == {bucket: set() for bucket in range(8)}
