"""The lists of one night beside those of another, bucket by bucket: what they show, and how much of them stayed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from transforms.core import files
from transforms.core.user_sampling import UserSample

_COLUMNS = ["user_id", "video_ids"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What some users' lists are like."""

    lists: int  # that are not empty
    shown: pl.Series  # of each video in any of them, how many hold it
    stayed: float | None  # mean share of a list that was in the user's list before; None if nobody had one
    places: int  # in the lists of users who had one before


def compare(parts: Iterable[tuple[Sequence[str], Sequence[str]]], sample: UserSample) -> Compared:
    """parts: paths of the lists of the same users, of one night and of the night before (none: no such night); those
    of a sample of users count."""
    shown: list[pl.DataFrame] = []
    lists, users, shares, places = 0, 0, 0.0, 0
    for ours, theirs in parts:
        tonight = _lists(ours, sample)
        lists += tonight.height
        shown.append(tonight["video_ids"].explode().value_counts(name="lists"))
        if theirs:
            before = _lists(theirs, sample)
            stayed = stayed_of(tonight, before)
            users, shares = users + stayed.len(), shares + float(stayed.sum())
            again = tonight.join(before, on="user_id", how="semi")
            places += int(again["video_ids"].list.len().sum())
    every = pl.concat(shown).group_by("video_ids").agg(pl.col("lists").sum())["lists"]
    return Compared(lists=lists, shown=every, stayed=shares / users if users else None, places=places)


def stayed_of(tonight: pl.DataFrame, before: pl.DataFrame) -> pl.Series:
    """The share of each user's list that was in their list before: of the users who have one in both, neither empty.

    tonight, before: user_id, video_ids without repeats.
    """
    both = tonight.join(before, on="user_id", suffix="_before")
    kept = pl.col("video_ids").list.set_intersection("video_ids_before").list.len()
    return both.select(share=kept / pl.col("video_ids").list.len())["share"]


def _lists(paths: Sequence[str], sample: UserSample) -> pl.DataFrame:
    rows = files.read_parquets(list(paths), _COLUMNS)
    return rows.filter(sample.contains(rows["user_id"])).filter(pl.col("video_ids").list.len() > 0)
