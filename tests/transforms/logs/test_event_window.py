"""The window of events, and the users held out."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import START, hours, search, searches_frame, watch, watches_frame, write

from transforms.core.digests import bucket_of, id_digests, mix
from transforms.logs.event_window import BucketFiles, Holdout, Window, read_users
from transforms.logs.schemas import SEARCH_SCHEMA, WATCH_SCHEMA

WINDOW = Window(start=hours(0), end=hours(48))


def test_window_includes_its_start_and_excludes_its_end(tmp_path: Path) -> None:
    micro = 1 / 3_600_000_000
    at = [0, -micro, 48, 48 - micro, 20]
    paths = [
        write(watches_frame([watch("b", hour, f"v{hour}") for hour in part]), tmp_path / f"{n}.parquet")
        for n, part in enumerate((at[:2], at[2:]))
    ]
    one, other = (WINDOW.events(BucketFiles(bucket=0, watches=tuple(order))).watches for order in (paths, paths[::-1]))
    assert one["time"].to_list() == [hours(0), hours(20), hours(48) - dt.timedelta(microseconds=1)]
    assert one.equals(other)


def test_events_are_sorted_by_user_time_and_the_rest(tmp_path: Path) -> None:
    rows = [watch(u, h, v, device=d) for u in "ba" for h in (3, 1) for v in "yx" for d in ("tv", None, "pc")]
    path = write(pl.DataFrame(rows, schema=WATCH_SCHEMA), tmp_path / "w.parquet")
    found = WINDOW.events(BucketFiles(bucket=0, watches=(path,))).watches
    oracle = sorted(rows, key=lambda r: (r["user_id"], r["time"], r["video_id"], r["device"] or "zz"))
    names = ("user_id", "time", "video_id", "device")
    assert found.select(names).rows() == [tuple(row[name] for name in names) for row in oracle]
    path = write(searches_frame([search("a", 1, q) for q in "cab"]), tmp_path / "s.parquet")
    found = WINDOW.events(BucketFiles(bucket=0, searches=(path,))).searches
    assert found["query"].to_list() == ["a", "b", "c"]


def test_bucket_without_files() -> None:
    empty = BucketFiles(bucket=0)
    events = WINDOW.unordered_events(empty)
    assert events.watches.equals(pl.DataFrame(schema=WATCH_SCHEMA))
    assert events.searches.equals(pl.DataFrame(schema=SEARCH_SCHEMA))
    assert read_users(empty).equals(pl.DataFrame(schema={"user_id": pl.String}))


def test_users_of_several_files(tmp_path: Path) -> None:
    paths = [write(pl.DataFrame({"user_id": [u], "plan": ["x"]}), tmp_path / u) for u in "ab"]
    assert read_users(BucketFiles(bucket=0, users=tuple(paths))).rows() == [("a", "x"), ("b", "x")]


USERS = pl.Series([f"user {i}" for i in range(2_000)])


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_share_of_users_is_held_out(share: float) -> None:
    held = Holdout(start=START, share=share, seed=1).contains(USERS)
    assert held.len() == USERS.len()
    assert abs(held.mean() - share) <= 4 * np.sqrt(share * (1 - share) / USERS.len())  # type: ignore[operator]


def test_draw_is_nested_seeded_and_stable() -> None:
    small, large = (Holdout(start=START, share=share, seed=1).contains(USERS) for share in (0.1, 0.3))
    assert (large | ~small).all()
    other = Holdout(start=START, share=0.3, seed=2).contains(USERS)
    assert 0.2 < other.filter(large).mean() < 0.4  # type: ignore[operator]
    assert Holdout(start=START, share=0.5, seed=1).contains(USERS[:12]).to_list() == FIRST_USERS
    digests = mix(1, 0x686F6C646F7574, id_digests(USERS).to_numpy())
    assert large.to_list() == (digests / 2**64 < 0.3).tolist()


FIRST_USERS = [True, True, False, False, False, False, False, False, False, True, True, True]


def test_draw_is_independent_of_the_bucket() -> None:
    held = Holdout(start=START, share=0.5, seed=1).contains(USERS)
    of_bucket = [[h for u, h in zip(USERS, held, strict=True) if bucket_of(u, 8) == b] for b in range(8)]
    assert all(0.35 < np.mean(part) < 0.65 for part in of_bucket)


TIMES = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 9)), max_size=30)


@given(TIMES, st.sampled_from([0.0, 0.5, 1.0]))
def test_learnable_excludes_late_events_of_held_out_users(rows: list[tuple[str, int]], share: float) -> None:
    holdout = Holdout(start=hours(5), share=share, seed=3)
    events = searches_frame([search(user, hour, "q") for user, hour in rows])
    held = {user for user in "abcdefgh" if holdout.contains(pl.Series([user])).item()}
    assert (share == 0.5) == (0 < len(held) < 8)
    expected = [(user, hours(hour), "q") for user, hour in sorted(rows) if hour < 5 or user not in held]
    assert holdout.learnable(events).rows() == expected
