"""Pseudonyms: no raw id is kept anywhere, and another key is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nights import night, published_night, write_job
from stores import DAYS, USERS, all_bytes, daily, day_of_watches, events, ingested, newest, same

from pipelines import lookup
from pipelines.config.jobs import JobError, load_job
from pipelines.night import privacy
from transforms.core.digests import bucket_of
from transforms.logs.privacy import pseudonym, pseudonyms

KEY, OTHER = "a key of sixteen characters", "another key of sixteen characters"
NAMED = '[privacy]\npseudonym_key_env = "THE_KEY"\n'


def digest(user: str, key: str = KEY) -> str:
    return hmac.new(key.encode(), user.encode(), hashlib.sha256).hexdigest()


@given(st.lists(st.one_of(st.none(), st.text(max_size=5))))
def test_pseudonyms_are_the_keyed_digests_of_the_ids(users: list[str | None]) -> None:
    found = pseudonyms(pl.Series("user_id", users, pl.String), KEY.encode())
    assert found.name == "user_id" and found.to_list() == [None if u is None else digest(u) for u in users]


def test_a_pseudonym_of_every_language() -> None:
    """For programs that look lists up: RFC 4231, test case 2."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert pseudonym("what do ya want for nothing?", b"Jefe") == expected


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job with pseudonyms, users with ids that are easy to find, one to forget, and rows that cannot be read."""
    monkeypatch.setenv("THE_KEY", KEY)
    job = daily(tmp_path, f'{NAMED}forget = "forget.jsonl"\n')
    job.write_text(job.read_text().replace("w/{date}.parquet", "w"))
    (tmp_path / "forget.jsonl").write_text(json.dumps({"user_id": secret(USERS[1])}) + "\n")
    for folder in ("w", "s"):
        for path in (tmp_path / folder).glob("*.parquet"):
            pl.read_parquet(path).with_columns(pl.format("secret-{}", "user_id").alias("user_id")).write_parquet(path)
    users = "".join(f"{secret(user)},f\n" for user in USERS)
    (tmp_path / "users.csv").write_text(f"user_id,gender\n{users}secret-broken\n")
    rows = 'user_id,video_id,time,watch_seconds\nsecret-1,v,never,1\n"",v,secret-2,1\nsecret-3\n'
    (tmp_path / "w" / "bad.csv").write_text(rows)
    return job


def secret(user: str) -> str:
    return f"secret-{user}"


def test_no_raw_id_is_written_anywhere(named: Path) -> None:
    of = ingested(named)
    assert b"secret" not in all_bytes(of.root.path)
    expected = pl.concat([day_of_watches(day) for day in DAYS]).filter(pl.col("user_id") != USERS[1])
    expected = expected.with_columns(pl.Series("user_id", [digest(secret(u)) for u in expected["user_id"]]))
    assert same(events(of), expected)
    for file in newest(of).files:
        users = pl.read_parquet(f"{of.root.store}/{file.file.name}")["user_id"]
        assert {bucket_of(user, 8) for user in users} == {file.bucket}
    assert counts_of_rejected(of.root.rejects(of.date)) == 4


def counts_of_rejected(folder: str) -> int:
    rejected = pl.concat([pl.read_parquet(path) for path in Path(folder).iterdir()])
    assert rejected["text"].null_count() == rejected.height and rejected["row"].null_count() == 0
    return rejected.height


def test_users_forgotten_later_leave_under_their_pseudonyms(named: Path) -> None:
    ingested(named)
    (named.parent / "forget.jsonl").write_text("".join(json.dumps({"user_id": secret(u)}) + "\n" for u in USERS[:3]))
    of = ingested(named)
    assert set(events(of)["user_id"]) == {digest(secret(user)) for user in USERS[3:]}


def test_another_key_is_refused_before_anything_is_done(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = ingested(named)
    before = all_bytes(of.root.path)
    monkeypatch.setenv("THE_KEY", OTHER)
    with pytest.raises(JobError, match=r"pseudonym_key_env = 'THE_KEY': this is not the key of the store in .*runs"):
        ingested(named)
    monkeypatch.setenv("THE_KEY", "short")
    with pytest.raises(JobError, match="'THE_KEY': the environment variable has 5 characters; it must contain"):
        ingested(named)
    monkeypatch.delenv("THE_KEY")
    with pytest.raises(JobError, match="'THE_KEY': the environment variable is not set"):
        ingested(named)
    named.write_text(named.read_text().replace('pseudonym_key_env = "THE_KEY"', ""))
    with pytest.raises(JobError, match=r"pseudonym_key_env is missing: the store in .*runs holds pseudonyms"):
        ingested(named)
    assert all_bytes(of.root.path) == before


def test_a_store_of_raw_ids_takes_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = daily(tmp_path)
    ingested(job)
    monkeypatch.setenv("THE_KEY", KEY)
    job.write_text(job.read_text() + NAMED)
    with pytest.raises(JobError, match=r"'THE_KEY': the store in .*runs holds unmodified user ids; use a new root"):
        ingested(job)


def test_the_key_is_neither_kept_nor_shown(named: Path) -> None:
    of = ingested(named)
    assert KEY.encode() not in all_bytes(of.root.path)
    assert KEY not in repr(privacy.load_filter(night(named).job, newest(of).key_check))


def test_lookup_takes_the_raw_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = write_job(tmp_path, 'watches = "w"', NAMED)
    monkeypatch.setenv("THE_KEY", KEY)
    rows = pl.DataFrame({"user_id": [digest("ann")], "video_ids": [["v"]], "scores": [[1.0]]})
    of = published_night(job, rows.cast({"scores": pl.List(pl.Float32)}))
    path = Path(of.root.snapshots) / "00000001.json"
    path.write_text(path.read_text().replace('"key_check": ""', f'"key_check": "{privacy.check_of(KEY.encode())}"'))
    found = lookup.lookup(load_job(str(job)), "ann", 3)
    assert found.known and found.user_id == "ann" and [item.video_id for item in found.items] == ["v"]
    assert not lookup.lookup(load_job(str(job)), digest("ann"), 3).known
    monkeypatch.setenv("THE_KEY", OTHER)
    with pytest.raises(JobError, match="this is not the key of the store"):
        lookup.lookup(load_job(str(job)), "ann", 3)
