"""Whose figures: users by country, device, how much they have watched and how new they are; labels by age.

kinds = {"device": by_category(devices, values), "history": by_history(completed)}
for (kind, value), users in groups(kinds):
    metrics.of(users)
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

MOST_VALUES = 10  # of a category that are told apart
REST, UNKNOWN = "the rest", "not known"
NEW = dt.timedelta(days=7)
_HISTORY = {0: "0", 1: "1-4", 5: "5-19", 20: "20-49", 50: "50+"}  # from so many completed watches on

Group = tuple[str, str]  # kind, value: ("country", "DE")


def by_category(codes: NDArray[np.int64], values: Sequence[str]) -> NDArray[np.str_]:
    """Codes of a category as records have them (1 + place in `values`, most frequent first; 0: missing) -> the value,
    `REST` for all but the `MOST_VALUES` most frequent, `UNKNOWN` for missing: [users]."""
    names = np.array([UNKNOWN, *values[:MOST_VALUES], REST])
    return names[np.minimum(codes, min(len(values), MOST_VALUES) + 1)]


def by_history(completed: NDArray[np.int64]) -> NDArray[np.str_]:
    """How many completed watches a user has -> 0, 1-4, 5-19, 20-49 or 50+: [users]."""
    return np.array(list(_HISTORY.values()))[np.searchsorted(list(_HISTORY), completed, side="right") - 1]


def by_first_event(first: pl.Series, as_of: dt.datetime) -> NDArray[np.str_]:
    """When a user was first seen, null: never -> "new" in the last seven days or never, else "known": [users]."""
    known = (first < as_of - NEW).fill_null(False).to_numpy()
    return np.where(known, "known", "new")


def by_upload(uploads: pl.Series, as_of: dt.datetime) -> NDArray[np.str_]:
    """When a label's video was uploaded -> "fresh" from seven days before on, "older", `UNKNOWN`: [labels]."""
    fresh = uploads >= as_of - NEW
    return np.where(fresh.is_null().to_numpy(), UNKNOWN, np.where(fresh.fill_null(False).to_numpy(), "fresh", "older"))


def groups(kinds: Mapping[str, NDArray[np.str_]]) -> Iterator[tuple[Group, NDArray[np.bool_]]]:
    """Values by kind, [users] each -> each (kind, value) there is, in order, with a mask of its users."""
    for kind, values in kinds.items():
        for value in np.unique(values):
            yield (kind, str(value)), values == value
