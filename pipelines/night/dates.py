"""The moments of a night, in the time zone of its logs."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property

from pipelines.config.settings import Examples
from transforms.core import days
from transforms.logs.event_window import Window


@dataclass(frozen=True)
class NightDates:
    """The window of events that a night learns from, and its parts. All moments are aware, and each is a midnight."""

    date: dt.date
    time_zone: str
    examples: Examples

    @cached_property
    def end(self) -> dt.datetime:
        """The end of the window: 00:00 of DATE. All events that the night reads are earlier."""
        return self._midnight(0)

    @cached_property
    def start(self) -> dt.datetime:
        """The first moment of the window."""
        return self._midnight(-self.examples.window_days)

    @cached_property
    def holdout_start(self) -> dt.datetime:
        """The moment from which events of held-out users are used for measurement only; `end` without a holdout."""
        return self._midnight(-self.examples.holdout_days)

    @cached_property
    def future(self) -> dt.datetime:
        """The moment from which events are rejected: the end of DATE, as DATE may have begun when logs were read."""
        return self._midnight(1)

    def span(self, day: dt.date) -> tuple[dt.datetime, dt.datetime]:
        """Return the first moment of a day and that of the next day."""
        return days.day_bounds(day, self.time_zone)

    @property
    def window(self) -> Window:
        """The window, with the limit of events per user-day."""
        return Window(
            start=self.start,
            end=self.end,
            time_zone=self.time_zone,
            max_events_per_day=self.examples.max_events_per_day,
        )

    def _midnight(self, shift_days: int) -> dt.datetime:
        return days.midnight(self.date + dt.timedelta(days=shift_days), self.time_zone)
