"""The impressions whose records an earlier night of a chain wrote, so that a night writes only those that are new.

written = WrittenImpressions(days=frozenset([day]), holdout=earlier_holdout, zone="UTC")
new = written.drop(learnable)
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import polars as pl

from transforms.core.days import UTC, local_dates
from transforms.logs.event_window import Holdout


@dataclass(frozen=True, kw_only=True)
class WrittenImpressions:
    """All impressions of some days, except those that were held out when they were written."""

    days: frozenset[dt.date]  # in the time zone `zone`
    holdout: Holdout | None = None  # None: nothing was written
    zone: str = UTC

    def drop(self, impressions: pl.DataFrame) -> pl.DataFrame:
        """Return the impressions (with user_id and time) that were not written, in their order."""
        if self.holdout is None or impressions.is_empty():
            return impressions
        of_days = local_dates(impressions["time"], self.zone).is_in(sorted(self.days))
        held_out = (impressions["time"] >= self.holdout.start) & self.holdout.contains(impressions["user_id"])
        return impressions.filter(~of_days | held_out)


NOTHING = WrittenImpressions(days=frozenset())
