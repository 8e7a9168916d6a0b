"""Watch time at the top of either order, compared with plain Python; parts merge exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.core.bootstrap import weights
from transforms.core.digests import id_digests
from transforms.ranking.watch_time_recall import MeasuredRanking, WatchTime, completed_seconds, seconds_in_lists

USERS, VIDEOS = st.sampled_from("abc"), st.sampled_from("vwxyz")
WATCHES = st.lists(st.tuples(USERS, VIDEOS, st.booleans(), st.one_of(st.none(), st.integers(0, 900))), max_size=15)
LISTS = st.dictionaries(USERS, st.permutations("vwxyz").map(list), min_size=1)


def watches_of(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    kinds = {"user_id": pl.String, "video_id": pl.String, "completed": pl.Boolean, "watch_seconds": pl.Float32}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def oracle(rows: list[tuple[Any, ...]]) -> dict[tuple[str, str], int]:
    done = {(user, video) for user, video, completed, _ in rows if completed}
    return {key: max(1, sum(s or 0 for u, v, c, s in rows if (u, v) == key and c is not None)) for key in done}


@given(WATCHES, LISTS, st.integers(1, 6))
def test_seconds_equal_plain_python(rows: list[tuple[Any, ...]], lists: dict[str, list[str]], cut: int) -> None:
    wanted = oracle(rows)
    found = completed_seconds(watches_of(rows))
    assert {(user, video): seconds for user, video, seconds in found.iter_rows()} == wanted
    frame = pl.DataFrame({"user_id": list(lists), "video_ids": list(lists.values())})
    expected = [sum(wanted.get((user, video), 0) for video in shown[:cut]) for user, shown in lists.items()]
    assert seconds_in_lists(frame, found, cut).tolist() == expected


def watch_time(users: list[str], columns: dict[str, list[int]]) -> WatchTime:
    drawn = weights(id_digests(pl.Series(users)).to_numpy())
    return WatchTime.from_columns({name: np.array(values, np.int64) for name, values in columns.items()}, drawn)


def test_parts_merge_exactly_and_give_the_difference() -> None:
    users = [f"u{n}" for n in range(40)]
    columns = {"wanted": [10] * 40, "neighbours": [2] * 40, "ranking": [2 + n % 3 for n in range(40)]}
    whole = watch_time(users, columns)
    parts = [
        watch_time(users[part], {name: values[part] for name, values in columns.items()})
        for part in (slice(0, 7), slice(7, 40))
    ]
    assert parts[0].merge(parts[1]).compute() == whole.compute() == parts[1].merge(parts[0]).compute()
    found = whole.compute()
    assert found.neighbours and found.ranking and found.difference
    more = sum(n % 3 for n in range(40)) / 400
    assert (found.users, found.wanted_seconds) == (40, 400)
    assert found.neighbours.recall == 0.2 and found.neighbours.interval == pytest.approx((0.2, 0.2))
    assert found.ranking.recall == pytest.approx(0.2 + more)
    assert found.difference.value == pytest.approx(more)
    assert 0 < found.difference.low < more < found.difference.high


def test_no_watch_time_gives_no_recall() -> None:
    found = watch_time(["a"], {"wanted": [0], "neighbours": [0], "ranking": [0]}).compute()
    assert found == MeasuredRanking(users=1, wanted_seconds=0)
