"""Sort events by user, time and the remaining columns, and remove duplicates.

Sorting strings is expensive. User ids are therefore replaced by their ranks, and a rank and a time are packed into one
integer sort key. The other columns are compared only between events of one user at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

_KEY_BITS = 63


def sort_events(events: pl.DataFrame, *, distinct: bool = False, ignoring: Sequence[str] = ()) -> pl.DataFrame:
    """Sort events by user_id, time and the other columns from left to right, nulls last.

    events: `user_id` (String, or an Enum with sorted categories, which is faster) and `time` without nulls, and any
    other columns.
    distinct: keep only the last of rows that are equal in all columns except those in `ignoring`.
    The result does not depend on the order of the input.
    """
    if events.height < 2:
        return events
    names = ["user_id", "time", *(name for name in events.columns if name not in ("user_id", "time"))]
    compared = [name for name in names if name not in ignoring]
    key = _sort_keys(events)
    if key is None:
        ordered = events.sort(names, nulls_last=True)
        return ordered.unique(compared, keep="last", maintain_order=True) if distinct else ordered
    order = key.arg_sort()
    key = key.gather(order)
    same = key == key.shift(1)
    tied = (same | same.shift(-1)).fill_null(False).arg_true()
    if tied.is_empty():
        return events[order]
    rows = events[order.gather(tied)]
    tied_order = rows.select(pl.arg_sort_by(names, nulls_last=True)).to_series()
    order = order.scatter(tied, order.gather(tied).gather(tied_order))
    if distinct:
        duplicate = ~rows[tied_order].select(pl.struct(compared).is_last_distinct()).to_series()
        keep = pl.repeat(True, events.height, eager=True).scatter(tied.filter(duplicate), False)
        order = order.filter(keep)
    return events[order]


def _sort_keys(events: pl.DataFrame) -> pl.Series | None:
    """Return an Int64 per row that orders by user_id, then time; None if the two do not fit into 63 bits."""
    users = events["user_id"]
    ranks = users.dtype if isinstance(users.dtype, pl.Enum) else pl.Enum(users.unique().sort())
    times = events["time"].to_physical()
    times = times - times.min()
    bits = int(times.max()).bit_length()  # type: ignore[arg-type]
    if ranks.categories.len().bit_length() + bits > _KEY_BITS:
        return None
    return users.cast(ranks).to_physical().cast(pl.Int64) * (1 << bits) + times
