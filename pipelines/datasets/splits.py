"""Keep the truth apart from the logs: `--split last`, `last-but-one`, `time=DATE[,DATE]` and `published`.

A split sees the frames one after another. It takes rows of the truth out of each (`divide`). `LastSplit` knows the last
watches only after all frames: `cutoffs` then says from which watch on a user's rows are not in the logs.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Protocol
from zoneinfo import ZoneInfo

import polars as pl

from pipelines.datasets.tables import DataSetError

FEWEST = 3  # watches of a user of whom one is held out
TRUTH, VALIDATION = "truth", "truth_validation"
Divided = tuple[pl.DataFrame, dict[str, pl.DataFrame]]  # rows of the logs; rows of the truth by table
KEY = ["time", "video_id"]  # the order of a user's watches


class Split(Protocol):
    """How the truth is kept apart."""

    @property
    def held_out(self) -> int:
        """The number of last watches of each user that are left out."""

    def divide(self, watches: pl.DataFrame) -> Divided:
        """Return the rows of the logs, and the rows of each truth table that is known at once."""

    def cutoffs(self) -> pl.DataFrame | None:
        """Return `user_id`, `cut_time` and `cut_video`, once all frames were divided: see `LastSplit`."""

    def truth(self) -> pl.DataFrame | None:
        """Return `user_id` and `video_id` of the truth that is known once all frames were divided."""


@dataclass(frozen=True)
class NoSplit:
    """All watches are in the logs."""

    @property
    def held_out(self) -> int:
        return 0

    def divide(self, watches: pl.DataFrame) -> Divided:
        return watches, {}

    def cutoffs(self) -> pl.DataFrame | None:
        return None

    def truth(self) -> pl.DataFrame | None:
        return None


@dataclass(frozen=True, kw_only=True)
class TimeSplit(NoSplit):
    """The logs end at 00:00 of `first`. The completed watches from then on are the truth.

    With `second`, those from `first` up to 00:00 of `second` are the validation truth, and the later ones the truth.
    """

    first: dt.date
    second: dt.date | None = None
    time_zone: str = "UTC"

    def divide(self, watches: pl.DataFrame) -> Divided:
        later = watches.filter((pl.col("time") >= self._start(self.first)) & pl.col("completed"))
        logs = watches.filter(pl.col("time") < self._start(self.first))
        if self.second is None:
            return logs, {TRUTH: later}
        is_test = pl.col("time") >= self._start(self.second)
        return logs, {TRUTH: later.filter(is_test), VALIDATION: later.filter(~is_test)}

    def _start(self, day: dt.date) -> dt.datetime:
        return dt.datetime.combine(day, dt.time(), ZoneInfo(self.time_zone)).astimezone(dt.UTC)


@dataclass(frozen=True)
class PublishedSplit(NoSplit):
    """The publisher's split: the logs are its training part (columns `part` and `wanted`)."""

    def divide(self, watches: pl.DataFrame) -> Divided:
        positive = watches.filter(pl.col("wanted" if "wanted" in watches.columns else "completed"))
        truth = {
            table: positive.filter(pl.col("part") == part)
            for table, part in ((TRUTH, "test"), (VALIDATION, "validation"))
        }
        return watches.filter(pl.col("part") == "train"), truth


@dataclass
class LastSplit:
    """Leave last out: the truth is the last watch of each user with at least `FEWEST` watches.

    but_one: the last watch is left out altogether, and the one before it is the truth: to choose settings on.
    completed_only: only completed watches can be the truth; what a user watched after it is left out too.

    Watches are ordered by time, and by video at the same time. Rows that are equal in both are one watch.
    """

    but_one: bool = False
    completed_only: bool = False
    _counts: pl.DataFrame | None = field(default=None, repr=False)  # user_id, len
    _last: pl.DataFrame | None = field(default=None, repr=False)  # user_id, time, video_id: in order

    @property
    def held_out(self) -> int:
        return 2 if self.but_one else 1

    def divide(self, watches: pl.DataFrame) -> Divided:
        counts = watches.group_by("user_id").len().cast({"len": pl.Int64})
        both = counts if self._counts is None else pl.concat([self._counts, counts])
        self._counts = both.group_by("user_id").sum()
        candidates = (watches.filter("completed") if self.completed_only else watches).select("user_id", *KEY)
        earliest = pl.col("time").unique().top_k(self.held_out).min()
        recent = candidates.join(candidates.group_by("user_id").agg(earliest=earliest), on="user_id")
        recent = recent.filter(pl.col("time") >= pl.col("earliest")).drop("earliest")
        both = recent if self._last is None else pl.concat([self._last, recent])
        ordered = both.unique().sort("user_id", *KEY)
        self._last = ordered.group_by("user_id", maintain_order=True).tail(self.held_out)
        return watches, {}

    def cutoffs(self) -> pl.DataFrame | None:
        """Return `user_id`, `cut_time` and `cut_video`: rows of the user from this watch on are not in the logs."""
        removed = self._ranked().filter(
            (pl.col("back") == 0) & (pl.col("len") >= FEWEST) | (pl.col("back") == 1) & (pl.col("len") > FEWEST)
        )
        return (
            removed.group_by("user_id", maintain_order=True)
            .first()
            .select("user_id", cut_time="time", cut_video="video_id")
        )

    def truth(self) -> pl.DataFrame | None:
        """Return `user_id` and `video_id`, sorted."""
        back = self.held_out - 1
        enough = pl.col("len") - back >= FEWEST
        return self._ranked().filter((pl.col("back") == back) & enough).select("user_id", "video_id")

    def _ranked(self) -> pl.DataFrame:
        """Return the last watches with `back`, 0 for the last, and `len`, the number of the user's watches."""
        if self._last is None or self._counts is None:
            raise DataSetError("there are no watches to split")
        back = pl.len().over("user_id") - 1 - pl.int_range(pl.len()).over("user_id")
        return self._last.with_columns(back=back.cast(pl.Int64)).join(self._counts, on="user_id", maintain_order="left")


def parse_split(text: str | None, *, completed_only: bool, time_zone: str, is_split: bool) -> Split:
    """Return the split that an option names. Raises DataSetError."""
    if completed_only and text not in ("last", "last-but-one"):
        raise DataSetError(
            "--completed-only belongs to --split last and last-but-one; other splits are of completed watches"
        )
    if text is None:
        return NoSplit()
    if text in ("last", "last-but-one"):
        return LastSplit(but_one=text != "last", completed_only=completed_only)
    if text == "published":
        if not is_split:
            raise DataSetError(
                "--split published: the publisher of this data set does not split it; use last or time=DATE"
            )
        return PublishedSplit()
    name, _, dates = text.partition("=")
    try:
        days = [dt.date.fromisoformat(day) for day in dates.split(",")]
    except ValueError:
        days = []
    if name != "time" or not 1 <= len(days) <= 2 or days != sorted(set(days)):
        raise DataSetError(
            f"--split {text!r} is none of last, last-but-one, published, time=DATE and time=DATE,DATE, "
            "such as time=2022-04-25,2022-05-01"
        )
    return TimeSplit(first=days[0], second=days[1] if len(days) > 1 else None, time_zone=time_zone)
