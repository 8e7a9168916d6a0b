"""Events sorted by key and time, to find those of a key strictly before a moment.

    watches = Timeline.from_events(user * VIDEOS + video, times)
    span = watches.before(keys, moments)       # span.count, span.sums(totals), watches.last_known(span, codes)

All lookups are binary searches in sorted arrays, so that millions of moments are looked up in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from transforms.core.integer_sort import lexsort

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
MICROSECONDS = 1e6
_PLACE_BITS = 63


@dataclass(frozen=True, kw_only=True)
class Span:
    """For each of some keys and moments, the range [first, end) of events in the order of a timeline."""

    first: Ints
    end: Ints

    @property
    def count(self) -> Ints:
        """The number of events of each range."""
        return self.end - self.first

    def sums(self, totals: Ints) -> Ints:
        """Return the sum over each range of values whose `Timeline.totals` are given."""
        found: Ints = totals[self.end] - totals[self.first]
        return found


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Events sorted by key, time and tie-breaker."""

    order: Ints  # indexes of the original events
    times: Ints  # microseconds, sorted within each key
    groups: Ints  # the distinct keys
    starts: Ints  # first event of each group, followed by the number of events
    places: Ints  # group and time of each event as one integer, ascending
    base: int  # the earliest time
    bits: int  # bits of a place that hold time - base; 0: they do not fit, and the rank among `moments` is used
    moments: Ints  # the distinct times if `bits` is 0, else empty

    @classmethod
    def from_events(cls, keys: Ints, times: Ints, ties: Ints | None = None) -> Timeline:
        """Sort events. keys, times (microseconds), ties: of each event, in any order; `ties` orders equal times."""
        order = lexsort((times, keys) if ties is None else (ties, times, keys))
        ordered, key = times[order], keys[order]
        starts = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
        base, newest = (int(times.min()), int(times.max())) if len(times) else (0, 0)
        bits = (newest - base + 1).bit_length()
        fits = bits + len(starts).bit_length() < _PLACE_BITS
        line = cls(
            order=order,
            times=ordered,
            groups=key[starts],
            starts=np.append(starts, len(order)).astype(np.int64),
            places=np.zeros(0, np.int64),
            base=base,
            bits=bits if fits else 0,
            moments=np.zeros(0, np.int64) if fits else np.unique(times),
        )
        group = np.repeat(np.arange(len(starts)), np.diff(line.starts))
        return replace(line, places=line._places(group, ordered))

    def _places(self, group: Ints, times: Ints) -> Ints:
        if self.bits:
            latest = int(self.times.max() - self.base + 1) if len(self.times) else 0
            return (group << self.bits) + np.clip(times - self.base, 0, latest)
        found: Ints = group * (len(self.moments) + 1) + np.searchsorted(self.moments, times)
        return found

    def before(self, keys: Ints, moments: Ints) -> Span:
        """Return the events of each key strictly before each moment. It is fastest if the keys ascend."""
        if not len(self.groups):
            nothing = np.zeros(len(keys), np.int64)
            return Span(first=nothing, end=nothing)
        group = np.minimum(np.searchsorted(self.groups, keys), len(self.groups) - 1)
        known = self.groups[group] == keys
        first = np.where(known, self.starts[group], 0)
        end = np.searchsorted(self.places, self._places(group, moments))
        return Span(first=first, end=np.where(known, end, 0))

    def totals(self, values: NDArray[np.integer | np.bool_]) -> Ints:
        """Return running sums for `Span.sums`: [events + 1]. values: of each original event.

        Values are integers, so that the sum over a range is exact whatever precedes it.
        """
        return np.concatenate([[0], np.cumsum(values[self.order], dtype=np.int64)])

    def seconds_since(self, span: Span, moments: Ints) -> Floats:
        """Return the seconds from the last event of each range to its moment; NaN if the range is empty."""
        if not len(self.times):
            return np.full(len(moments), np.nan, np.float32)
        since = (moments - self.times[np.maximum(span.end - 1, 0)]) / MICROSECONDS
        return np.where(span.count > 0, since, np.nan).astype(np.float32)

    def last_known(self, span: Span, codes: Ints) -> Ints:
        """Return the last non-negative code in each range; -1 if there is none. codes: of each original event."""
        if not len(self.order):
            return np.full(len(span.end), -1, np.int64)
        ordered = codes[self.order]
        place = np.maximum.accumulate(np.where(ordered >= 0, np.arange(len(ordered)), -1))
        last = place[np.maximum(span.end - 1, 0)]
        known = (span.count > 0) & (last >= span.first)
        return np.where(known, ordered[np.maximum(last, 0)], -1)


def last_values(span: Span, values: Ints, length: int) -> NDArray[np.int32]:
    """Return the last `length` values of each range, the newest last, padded with 0 in front: int32 [ranges, length].

    values: in the order of the timeline.
    """
    place = span.end[:, None] - length + np.arange(length)
    inside = place >= span.first[:, None]
    if not len(values):
        return np.zeros(place.shape, np.int32)
    return np.where(inside, values[np.where(inside, place, 0)], 0).astype(np.int32)
