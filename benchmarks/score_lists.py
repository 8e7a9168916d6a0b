"""Score lists of videos against the watches that were kept apart, next to lists of the most popular videos.

    python -m benchmarks.score_lists LISTS TRUTH [--k 10 50 100 200] [--popular WATCHES]

LISTS is a folder with Parquet files (`user_id`, `video_ids`, best first), TRUTH a Parquet file (`user_id`, `video_id`),
as `watchnext import --split` writes it. Prints, for each k: recall (found pairs of all pairs; users without a list find
none), the share of users with a hit, NDCG, and the number of distinct videos in the lists. WATCHES is a folder of the
watches that the lists were learned from: the most completed videos, without those that the user completed, are scored
too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 50, 100, 200])
    parser.add_argument("--popular", type=Path, metavar="WATCHES")
    args = parser.parse_args()
    print_figures(args.lists, args.truth, args.k, watches=args.popular)


def print_figures(lists: Path, truth: Path, cuts: Sequence[int], *, watches: Path | None = None) -> None:
    """Print the figures of the lists, and those of the most popular videos of `watches`, a JSON object per line."""
    pairs = read_pairs(truth)
    print(json.dumps({"system": "neighbours"} | score(read_lists(lists), pairs, cuts)))
    if watches is not None:
        listed = popular_lists(watches, pairs["user_id"].unique().sort(), max(cuts))
        print(json.dumps({"system": "popular"} | score(listed, pairs, cuts)))


def read_lists(folder: Path) -> pl.DataFrame:
    """Return `user_id` and `video_ids` of all Parquet files below a folder."""
    return pl.concat(
        pl.read_parquet(path, columns=["user_id", "video_ids"]) for path in sorted(folder.rglob("*.parquet"))
    )


def read_pairs(truth: Path) -> pl.DataFrame:
    """Return the distinct pairs of a truth table."""
    return pl.read_parquet(truth, columns=["user_id", "video_id"]).unique()


def score(lists: pl.DataFrame, truth: pl.DataFrame, cuts: Sequence[int]) -> dict[str, float]:
    """Return the figures of lists, rounded to 5 decimals.

    lists: `user_id`, unique, and `video_ids`, best first. truth: `user_id` and `video_id`, distinct.
    """
    places = lists.with_columns(place=pl.int_ranges(1, pl.col("video_ids").list.len() + 1)).explode(
        "video_ids", "place"
    )
    places = places.drop_nulls("video_ids").rename({"video_ids": "video_id"})
    found = truth.join(places, on=["user_id", "video_id"], how="left")
    wanted = truth.group_by("user_id").len("wanted")
    figures = {
        "pairs": truth.height,
        "users": wanted.height,
        "served": wanted.join(lists, on="user_id", how="semi").height / wanted.height,
        "repeated_in_a_list": places.height - places.unique(["user_id", "video_id"]).height,
    }
    for k in cuts:
        is_hit = (pl.col("place") <= k).fill_null(False)
        gain = pl.when(is_hit).then(1 / (pl.col("place") + 1).log(2)).otherwise(0.0)
        by_user = found.group_by("user_id").agg(hits=is_hit.sum(), gain=gain.sum()).join(wanted, on="user_id")
        best = np.cumsum(1 / np.log2(np.arange(2, k + 2)))[by_user["wanted"].clip(upper_bound=k).to_numpy() - 1]
        figures |= {
            f"recall@{k}": int(by_user["hits"].sum()) / truth.height,
            f"hit@{k}": int((by_user["hits"] > 0).sum()) / wanted.height,
            f"ndcg@{k}": float((by_user["gain"].to_numpy() / best).mean()),
            f"distinct@{k}": places.filter(pl.col("place") <= k)["video_id"].n_unique(),
        }
    return {name: round(float(value), 5) for name, value in figures.items()}


def popular_lists(watches: Path, users: pl.Series, k: int) -> pl.DataFrame:
    """Return for each user the k most often completed videos that the user did not complete; ties by id."""
    log = pl.concat(
        pl.read_parquet(path, columns=["user_id", "video_id", "completed"]) for path in watches.glob("*.parquet")
    )
    log = log.filter("completed")
    top = log.group_by("video_id").len().sort(["len", "video_id"], descending=[True, False])["video_id"].to_list()
    own = {user: set(videos) for user, videos in log.group_by("user_id").agg("video_id").iter_rows()}
    lists = []
    for user in users:
        completed = own.get(user, set())
        lists.append([video for video in top[: k + len(completed)] if video not in completed][:k])
    return pl.DataFrame({"user_id": users, "video_ids": lists}, schema_overrides={"video_ids": pl.List(pl.String)})


if __name__ == "__main__":
    main()
