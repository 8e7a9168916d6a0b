"""Figures of lists against plain Python, and the most popular videos."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest

from benchmarks.score_lists import popular_lists, print_figures, score

LISTS = {"a": ["x", "y", "z"], "b": ["y"], "c": [], "e": ["x"]}
TRUTH = {"a": {"z", "w"}, "b": {"x"}, "c": {"x"}, "d": {"y", "z"}}
SCHEMA = pl.Schema({"user_id": pl.String(), "video_ids": pl.List(pl.String)})


def lists_frame() -> pl.DataFrame:
    return pl.DataFrame({"user_id": [*LISTS], "video_ids": [*LISTS.values()]}, schema=SCHEMA)


def truth_frame() -> pl.DataFrame:
    pairs = [(user, video) for user, videos in TRUTH.items() for video in sorted(videos)]
    return pl.DataFrame(pairs, schema=["user_id", "video_id"], orient="row")


@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_figures_of_one_user_at_a_time(k: int) -> None:
    found = score(lists_frame(), truth_frame(), [k])
    hits = {user: [video in videos for video in LISTS.get(user, [])[:k]] for user, videos in TRUTH.items()}
    gain = {user: sum(1 / math.log2(n + 2) for n, hit in enumerate(row) if hit) for user, row in hits.items()}
    best = {user: sum(1 / math.log2(n + 2) for n in range(min(k, len(videos)))) for user, videos in TRUTH.items()}
    assert found == {
        "pairs": 6,
        "users": 4,
        "served": 0.75,
        "repeated_in_a_list": 0,
        f"recall@{k}": round(sum(map(sum, hits.values())) / 6, 5),
        f"hit@{k}": sum(map(any, hits.values())) / 4,
        f"ndcg@{k}": round(sum(gain[user] / best[user] for user in TRUTH) / 4, 5),
        f"distinct@{k}": len({video for row in LISTS.values() for video in row[:k]}),
    }


def test_repetitions_are_counted() -> None:
    lists = pl.DataFrame({"user_id": ["a"], "video_ids": [["x", "x", "x"]]})
    assert score(lists, truth_frame(), [1])["repeated_in_a_list"] == 2


def test_the_most_popular_videos_leave_out_what_the_user_completed(tmp_path: Path) -> None:
    rows = [("a", "x"), ("b", "x"), ("c", "x"), ("a", "z"), ("b", "z"), ("c", "y"), ("d", "y"), ("d", "w")]
    watches = pl.DataFrame(rows, schema=["user_id", "video_id"], orient="row").with_columns(completed=True)
    watches[:4].write_parquet(tmp_path / "1.parquet")
    watches[4:].write_parquet(tmp_path / "2.parquet")
    skipped = pl.DataFrame({"user_id": ["e"] * 9, "video_id": ["q"] * 9, "completed": [False] * 9})
    skipped.write_parquet(tmp_path / "3.parquet")
    found = popular_lists(tmp_path, pl.Series(["a", "d", "new"]), 2)
    assert found.rows() == [("a", ["y", "w"]), ("d", ["x", "z"]), ("new", ["x", "y"])]


def test_the_command_prints_both_systems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("lists", "watches"):
        (tmp_path / name).mkdir()
    lists_frame().write_parquet(tmp_path / "lists" / "1.parquet")
    pl.concat([truth_frame()] * 2).write_parquet(tmp_path / "truth.parquet")
    truth_frame().with_columns(completed=True).write_parquet(tmp_path / "watches" / "1.parquet")
    print_figures(tmp_path / "lists", tmp_path / "truth.parquet", [1, 2], watches=tmp_path / "watches")
    systems = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [system.pop("system") for system in systems] == ["neighbours", "popular"]
    assert systems[0] == score(lists_frame(), truth_frame(), [1, 2])
    assert systems[1]["recall@2"] == 0  # each user completed the truth
