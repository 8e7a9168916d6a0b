"""Slices of metrics: users by country, device, length of history and first event; labels by age of the video.

kinds = {"device": by_category(devices, values), "history": by_history(completed)}
for (kind, value), users in iterate_slices(kinds):
    metrics.select(users)
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

MOST_VALUES = 10  # slices of a category, besides REST and UNKNOWN
REST, UNKNOWN = "the rest", "not known"
NEW = dt.timedelta(days=7)
_HISTORY = {0: "0", 1: "1-4", 5: "5-19", 20: "20-49", 50: "50+"}  # minimum of completed watches -> name

Group = tuple[str, str]  # kind, value: ("country", "DE")


def by_category(codes: NDArray[np.int64], values: Sequence[str]) -> NDArray[np.str_]:
    """Return the value of each code, `REST` beyond the `MOST_VALUES` most frequent, `UNKNOWN` if missing: [users].

    codes: 1 + index into `values`, which are ordered by frequency; 0: missing.
    """
    names = np.array([UNKNOWN, *values[:MOST_VALUES], REST])
    return names[np.minimum(codes, min(len(values), MOST_VALUES) + 1)]


def by_history(completed: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return the slice of each number of completed watches: 0, 1-4, 5-19, 20-49 or 50+: [users]."""
    return np.array(list(_HISTORY.values()))[np.searchsorted(list(_HISTORY), completed, side="right") - 1]


def by_first_event(first: pl.Series, as_of: dt.datetime) -> NDArray[np.str_]:
    """Return "new" for a first event in the last seven days or none (null), else "known": [users]."""
    known = (first < as_of - NEW).fill_null(False).to_numpy()
    return np.where(known, "known", "new")


def by_upload(uploads: pl.Series, as_of: dt.datetime) -> NDArray[np.str_]:
    """Return "fresh" for uploads from seven days before `as_of` on, else "older" or `UNKNOWN` (null): [labels]."""
    fresh = uploads >= as_of - NEW
    return np.where(fresh.is_null().to_numpy(), UNKNOWN, np.where(fresh.fill_null(False).to_numpy(), "fresh", "older"))


def iterate_slices(kinds: Mapping[str, NDArray[np.str_]]) -> Iterator[tuple[Group, NDArray[np.bool_]]]:
    """Yield each (kind, value) in order, with a mask of its users, [users]. kinds: the value of each user, by kind."""
    for kind, values in kinds.items():
        for value in np.unique(values):
            yield (kind, str(value)), values == value
