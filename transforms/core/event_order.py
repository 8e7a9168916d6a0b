"""The order of events: by user, time and the rest of the columns; and equal events brought down to one.

Sorting by strings is what costs. Users become numbers in their order, a user and a time one integer, and that is
sorted; the other columns are looked at only where a user has several events of one time.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

_KEY_BITS = 63


def sort_events(events: pl.DataFrame, *, distinct: bool = False, besides: Sequence[str] = ()) -> pl.DataFrame:
    """Events (`user_id` and `time`, never null, and more) by user_id, time and the other columns in turn, nulls last.

    user_id: String, or an Enum of ids in their order, which is faster.
    The result does not depend on the order they came in. With `distinct`, of rows that are equal in every column, or in
    every column besides some, the last one in that order stays.
    """
    if events.height < 2:
        return events
    names = ["user_id", "time", *(name for name in events.columns if name not in ("user_id", "time"))]
    compared = [name for name in names if name not in besides]
    key = _keys(events)
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
    within = rows.select(pl.arg_sort_by(names, nulls_last=True)).to_series()
    order = order.scatter(tied, order.gather(tied).gather(within))
    if distinct:
        extra = ~rows[within].select(pl.struct(compared).is_last_distinct()).to_series()
        kept = pl.repeat(True, events.height, eager=True).scatter(tied.filter(extra), False)
        order = order.filter(kept)
    return events[order]


def _keys(events: pl.DataFrame) -> pl.Series | None:
    """One integer a row that orders by user_id, then time; None where the two do not fit one."""
    users = events["user_id"]
    kind = users.dtype if isinstance(users.dtype, pl.Enum) else pl.Enum(users.unique().sort())
    times = events["time"].to_physical()
    times = times - times.min()
    bits = int(times.max()).bit_length()  # type: ignore[arg-type]
    if kind.categories.len().bit_length() + bits > _KEY_BITS:
        return None
    return users.cast(kind).to_physical().cast(pl.Int64) * (1 << bits) + times
