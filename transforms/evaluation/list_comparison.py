"""The comparison of the lists of two nights, bucket by bucket: videos shown, and the share of a list that stayed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from transforms.core import files
from transforms.core.user_sampling import UserSample

_COLUMNS = ["user_id", "video_ids"]


@dataclass(frozen=True, kw_only=True)
class ListComparison:
    """Statistics of some users' lists."""

    lists: int  # non-empty lists
    shown: pl.Series  # number of lists that have each video
    retention: float | None  # mean share of a list that was in the user's list before; None if no user had one
    places: int  # total length of the lists of users who had one before


def compare_lists(parts: Iterable[tuple[Sequence[str], Sequence[str]]], sample: UserSample) -> ListComparison:
    """Compare the lists of a sample of users with those of the night before.

    parts: paths of the lists of the same users, of the night and of the night before (empty: there is none).
    """
    shown: list[pl.DataFrame] = []
    lists, users, shares, places = 0, 0, 0.0, 0
    for paths, paths_before in parts:
        tonight = _read_lists(paths, sample)
        lists += tonight.height
        shown.append(tonight["video_ids"].explode().value_counts(name="lists"))
        if paths_before:
            before = _read_lists(paths_before, sample)
            retained = retained_shares(tonight, before)
            users, shares = users + retained.len(), shares + float(retained.sum())
            in_both = tonight.join(before, on="user_id", how="semi")
            places += int(in_both["video_ids"].list.len().sum())
    counts = pl.concat(shown).group_by("video_ids").agg(pl.col("lists").sum())["lists"]
    return ListComparison(lists=lists, shown=counts, retention=shares / users if users else None, places=places)


def retained_shares(tonight: pl.DataFrame, before: pl.DataFrame) -> pl.Series:
    """Return the share of each user's list that was in their list before, for users with a list in both nights.

    tonight, before: user_id, video_ids (not empty, without repeats).
    """
    both = tonight.join(before, on="user_id", suffix="_before")
    kept = pl.col("video_ids").list.set_intersection("video_ids_before").list.len()
    return both.select(share=kept / pl.col("video_ids").list.len())["share"]


def _read_lists(paths: Sequence[str], sample: UserSample | None = None) -> pl.DataFrame:
    """Return the lists that are not empty, of all users or of a sample."""
    rows = files.read_parquets(list(paths), _COLUMNS)
    kept = rows if sample is None else rows.filter(sample.contains(rows["user_id"]))
    return kept.filter(pl.col("video_ids").list.len() > 0)


@dataclass(frozen=True, kw_only=True)
class ListOverlap:
    """How alike the lists of two nights are, of users with a list in both. Sums over users; they merge by addition."""

    users: int = 0  # with a list in the first night
    other_users: int = 0  # with a list in the second night
    in_both: int = 0
    retained: float = 0.0  # sum of the share of a user's second list that is in the first
    retained_first: float = 0.0  # the same of the first `FIRST` videos of both
    same_first: int = 0  # users whose lists begin with the same video
    equal: int = 0  # users whose lists have the same videos in the same order

    def merge(self, more: ListOverlap) -> ListOverlap:
        """Return the sums over the users of both, which must be disjoint."""
        return ListOverlap(**{name: value + getattr(more, name) for name, value in vars(self).items()})


FIRST = 10  # videos at the start of a list that people look at


def user_overlap(paths: Sequence[str], other_paths: Sequence[str]) -> ListOverlap:
    """Compare the lists of the same users in two nights, empty lists left out.

    paths, other_paths: files with user_id, video_ids, of the first and the second night.
    """
    first, second = (_read_lists(listed) for listed in (paths, other_paths))
    heads = [lists.with_columns(pl.col("video_ids").list.head(FIRST)) for lists in (first, second)]
    both = second.join(first, on="user_id", suffix="_before")
    same_first = both["video_ids"].list.first() == both["video_ids_before"].list.first()
    return ListOverlap(
        users=first.height,
        other_users=second.height,
        in_both=both.height,
        retained=float(retained_shares(second, first).sum()),
        retained_first=float(retained_shares(heads[1], heads[0]).sum()),
        same_first=int(same_first.sum()),
        equal=int((both["video_ids"] == both["video_ids_before"]).sum()),
    )
