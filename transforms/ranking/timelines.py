"""Events by key and time: which of a key's came strictly before a moment.

    watches = Timeline.of(user * VIDEOS + video, times)
    span = watches.before(keys, moments)       # span.count, and what sums and last ones are made of

Everything is a sorted array and a binary search, so that millions of moments are asked about in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
MICROSECONDS = 1e6
_BITS = 63


@dataclass(frozen=True, kw_only=True)
class Span:
    """For each moment asked about, the events [first, end) in the timeline's order: those of its key before it."""

    first: Ints
    end: Ints

    @property
    def count(self) -> Ints:
        return self.end - self.first

    def sums(self, totals: Ints) -> Ints:
        """Of what `Timeline.totals` adds up: its sum over each span."""
        found: Ints = totals[self.end] - totals[self.first]
        return found


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Events by key, time and whatever breaks ties."""

    order: Ints  # of the events as they were given
    times: Ints  # ordered, microseconds
    groups: Ints  # the distinct keys
    starts: Ints  # of each group's events, and the number of events at the end
    places: Ints  # group and time of each event as one number, rising
    base: int  # the first time
    bits: int  # that times after it take of a place; 0: they do not fit, and their ranks among `moments` do
    moments: Ints  # the distinct times, where they are needed

    @classmethod
    def of(cls, keys: Ints, times: Ints, ties: Ints | None = None) -> Timeline:
        """keys, times (microseconds), ties: of the events, in any order. Equal times come by `ties`."""
        order = np.lexsort((times, keys) if ties is None else (ties, times, keys))
        ordered, key = times[order], keys[order]
        starts = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
        base, newest = (int(times.min()), int(times.max())) if len(times) else (0, 0)
        bits = (newest - base + 1).bit_length()
        fits = bits + len(starts).bit_length() < _BITS
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
            past_all = int(self.times.max() - self.base + 1) if len(self.times) else 0
            return (group << self.bits) + np.clip(times - self.base, 0, past_all)
        found: Ints = group * (len(self.moments) + 1) + np.searchsorted(self.moments, times)
        return found

    def before(self, keys: Ints, moments: Ints) -> Span:
        """Of each key the events strictly before each moment; fastest where the keys rise."""
        if not len(self.groups):
            nothing = np.zeros(len(keys), np.int64)
            return Span(first=nothing, end=nothing)
        group = np.minimum(np.searchsorted(self.groups, keys), len(self.groups) - 1)
        known = self.groups[group] == keys
        first = np.where(known, self.starts[group], 0)
        end = np.searchsorted(self.places, self._places(group, moments))
        return Span(first=first, end=np.where(known, end, 0))

    def totals(self, values: NDArray[np.integer | np.bool_]) -> Ints:
        """Running sums of a whole number of each event as it was given: what `Span.sums` takes. Whole, so that a sum
        over a span is exact whatever lies around it."""
        return np.concatenate([[0], np.cumsum(values[self.order], dtype=np.int64)])

    def seconds_since(self, span: Span, moments: Ints) -> Floats:
        """From the last event of each span to its moment; NaN without one."""
        if not len(self.times):
            return np.full(len(moments), np.nan, np.float32)
        since = (moments - self.times[np.maximum(span.end - 1, 0)]) / MICROSECONDS
        return np.where(span.count > 0, since, np.nan).astype(np.float32)

    def last_known(self, span: Span, codes: Ints) -> Ints:
        """The last of each span whose code (of the events as they were given) is not negative; -1 without one."""
        if not len(self.order):
            return np.full(len(span.end), -1, np.int64)
        ordered = codes[self.order]
        place = np.maximum.accumulate(np.where(ordered >= 0, np.arange(len(ordered)), -1))
        last = place[np.maximum(span.end - 1, 0)]
        known = (span.count > 0) & (last >= span.first)
        return np.where(known, ordered[np.maximum(last, 0)], -1)


def last_of(span: Span, values: Ints, length: int) -> NDArray[np.int32]:
    """The last `length` values of each span, the newest at the end, 0 in front: int32 [spans, length].

    values: in the timeline's order.
    """
    place = span.end[:, None] - length + np.arange(length)
    inside = place >= span.first[:, None]
    if not len(values):
        return np.zeros(place.shape, np.int32)
    return np.where(inside, values[np.where(inside, place, 0)], 0).astype(np.int32)
