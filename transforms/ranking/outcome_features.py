"""Features of a video from what became of its impressions on earlier days, as of the start of the impression's day.

    outcomes = Outcomes.from_days(days, read_day, catalogue, zone="Europe/Berlin")
    numbers = outcome_features(features, context, outcomes)     # float32 [shown] by name, NaN if unknown

The day of an impression is that of the first moment of its page; only days before it count. So neither the impression
itself, nor another one of its page or of its day, nor a later one is read, even if the rows of a page have different
times. Candidates are described as of the end of the window, which is the start of a day.

The counts include the impressions of held-out users, because those of earlier days are known when an impression is
made. This is no leak. An impression is measured with counts of the days before its own, as it would be served that day,
and nothing was learned from it: neither its label nor its day's counts are in the features of an impression that the
ranker learned from, except in those of later days, where they are one of many counts of a video, without the user. The
lists of held-out users are ranked as of the start of the held-out days, so with counts of earlier days only.

Rates are shrunk by empirical Bayes (`shrinkage`): a channel's towards that of the whole, a video's towards that of its
channel, those of a video in a country or on a device, and of its last day or week, towards that of the video. The
weights are estimated as of each day from the days before it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core import days
from transforms.ranking.features import CHANNEL, Features, ImpressionContext
from transforms.ranking.generator_features import lookup_rows
from transforms.ranking.outcomes import CATEGORIES
from transforms.ranking.shrinkage import Components, Doubles, shrink
from transforms.ranking.timelines import Floats, Ints

VIDEO_OUTCOMES = (
    *("video_impressions", "video_click_rate", "video_impression_seconds", "video_click_seconds"),
    *("video_completed_rate", "video_day_trend", "video_week_trend"),
)
CHANNEL_OUTCOMES = ("channel_click_rate", "channel_impression_seconds")
CATEGORY_OUTCOMES = {name: f"{name}_impression_seconds" for name in CATEGORIES}
OUTCOME_NUMBERS = (*VIDEO_OUTCOMES, *CHANNEL_OUTCOMES, *CATEGORY_OUTCOMES.values())

_SECONDS = "milliseconds"
# rate -> (its sum, its number of observations, the sum of squares); sums of 0 and 1 are their own squares
_RATES = {
    "click_rate": ("clicks", "impressions", "clicks"),
    "impression_seconds": (_SECONDS, "impressions", "squared_seconds"),
    "click_seconds": (_SECONDS, "clicks", "squared_seconds"),
    "completed_rate": ("completed", "clicks", "completed"),
}
_TRENDS = {"video_day_trend": 1, "video_week_trend": 7}  # days
_COUNTED = ("impressions", "clicks", "completed", _SECONDS)
_UNITS = {_SECONDS: 1e-3}  # of a stored sum, in that of the rate; 1 otherwise
Sums = dict[str, Doubles]


@dataclass(frozen=True, kw_only=True)
class DayTotals:
    """Counts by key and day as running sums in the order of (key, day), of the days that have any."""

    places: Ints  # key * (days + 1) + day, ascending
    days: int
    running: dict[str, NDArray[np.integer]]  # [places + 1] by name

    @classmethod
    def from_rows(cls, key: pl.Expr, rows: pl.DataFrame, names: Sequence[str], *, days_counted: int) -> DayTotals:
        """rows: counts with `day`, from 0 to days_counted - 1. key: of each row."""
        places = rows.select(key.cast(pl.Int64) * (days_counted + 1) + pl.col("day")).to_series().to_numpy()
        order = np.argsort(places, kind="stable")
        running = {}
        for name in names:
            sums = np.concatenate([[0], np.cumsum(rows[name].to_numpy()[order], dtype=np.int64)])
            running[name] = sums.astype(np.min_scalar_type(int(sums[-1])))  # half of the memory where that is enough
        return cls(places=places[order], days=days_counted, running=running)

    def between(self, keys: Ints, first: int, end: int) -> Sums:
        """Return the sums of each key over the days first <= day < end, in the units of rates: [keys] by name."""
        bounds = (keys * (self.days + 1) + min(max(day, 0), self.days) for day in (first, end))
        start, stop = (np.searchsorted(self.places, bound) for bound in bounds)
        return {
            name: (sums[stop] - sums[start]).astype(np.float64) * _UNITS.get(name, 1)
            for name, sums in self.running.items()
        }


@dataclass(frozen=True, kw_only=True)
class CategoryTotals:
    """Counts by video and value of a category: keys are video * values + value."""

    values: pl.Series
    keys: Ints  # distinct, ascending
    totals: DayTotals
    by_value: DayTotals  # keys: values


@dataclass(frozen=True, kw_only=True)
class Priors:
    """What rates are shrunk towards, and how strongly, as of one day."""

    channels: dict[str, Doubles]  # rate -> that of each channel, and of the whole in the last place
    weights: dict[str, float]  # rate, trend or category -> observations of the prior
    levels: dict[str, Doubles]  # trend or category -> its rate of impression seconds by that of the whole


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """The counts of all days of the window. Videos and channels are indexes into `video_ids` and `channel_ids`."""

    zone: str
    first: dt.date
    day_count: int  # from the first to the last day that was counted
    video_ids: pl.Series  # sorted
    channel_ids: pl.Series  # sorted; the videos without a channel are like one more channel
    video_channels: Ints  # [videos]
    videos: DayTotals
    whole: DayTotals  # key 0
    categories: dict[str, CategoryTotals]
    _priors: dict[int, Priors] = field(default_factory=dict, repr=False)

    @classmethod
    def from_days(
        cls,
        counted: Iterable[dt.date],
        read: Callable[[dt.date], pl.DataFrame],
        catalogue: pl.DataFrame,
        *,
        zone: str,
    ) -> Outcomes:
        """Build the sums.

        counted: at least one day. read: returns `OUTCOMES` of a day; it is called twice for each, so that only the ids
        of one day are in memory. catalogue: video_id, channel. zone: of the days.
        """
        counted = sorted(counted)
        first, span = counted[0], (counted[-1] - counted[0]).days + 1
        video_ids, values = _distinct_keys(map(read, counted))
        codes = pl.Enum(video_ids), pl.Enum(values)  # the fastest lookup of strings; made once for all days
        parts: dict[str, list[pl.DataFrame]] = {name: [] for name in ("", *CATEGORIES)}
        for day in counted:
            coded = _coded(read(day), *codes).with_columns(day=pl.lit((day - first).days, pl.Int64))
            for name, of_category in parts.items():
                of_category.append(coded.filter(category=name).drop("category"))
        known = catalogue.select("video_id", "channel")
        channels = video_ids.to_frame().join(known, on="video_id", how="left", maintain_order="left")["channel"]
        channel_ids = channels.unique().drop_nulls().sort()
        of_videos = pl.concat(parts.pop(""))
        whole = of_videos.group_by("day").agg(pl.col(*_COUNTED, "squared_seconds").sum())
        return cls(
            zone=zone,
            first=first,
            day_count=span,
            video_ids=video_ids,
            channel_ids=channel_ids,
            video_channels=_channel_indices(channels, channel_ids),
            videos=DayTotals.from_rows(pl.col("video"), of_videos, _COUNTED, days_counted=span),
            whole=DayTotals.from_rows(pl.lit(0), whole, (*_COUNTED, "squared_seconds"), days_counted=span),
            categories={name: _category_totals(pl.concat(parts.pop(name)), values, span) for name in CATEGORIES},
        )

    @property
    def numbers(self) -> list[str]:
        """The features that impressions can have: none if all impressions are of one day."""
        if self.day_count < 2:
            return []
        channels = CHANNEL_OUTCOMES if self.channel_ids.len() else ()
        categories = [number for name, number in CATEGORY_OUTCOMES.items() if self.categories[name].values.len()]
        return [*VIDEO_OUTCOMES, *channels, *categories]

    def channel_indices(self, channels: pl.Series) -> Ints:
        """Return the index of each channel in the rates of `Priors.channels`; the last one, the whole, if it has no
        counts."""
        is_new = ~channels.is_in(self.channel_ids.implode()).fill_null(True).to_numpy()
        return np.where(is_new, self.channel_ids.len() + 1, _channel_indices(channels, self.channel_ids))

    def value_indices(self, name: str, requests: pl.DataFrame) -> Ints:
        """Return the index of the value that each request has of a category: that behind the last for a value without
        counts, -1 if it is unknown."""
        values = self.categories[name].values
        if name not in requests.columns:
            return np.full(requests.height, -1, np.int64)
        found = lookup_rows(requests[name].cast(pl.String), values)
        return np.where((found < 0) & requests[name].is_not_null().to_numpy(), values.len(), found)

    def day_of(self, times: pl.Series) -> Ints:
        """Return the day of each moment as a number of days since `first`."""
        ordinals = days.local_dates(times, self.zone).to_physical().cast(pl.Int64).to_numpy()
        return ordinals - (self.first - dt.date(1970, 1, 1)).days

    def priors(self, day: int) -> Priors:
        """Return the priors as of the start of a day, estimated once."""
        if day not in self._priors:
            self._priors[day] = self._estimate(day)
        return self._priors[day]

    def _estimate(self, day: int) -> Priors:
        whole, videos = self._whole(0, day), self.videos.between(self._every_video, 0, day)
        channels, weights = {}, {}
        for rate, (total, count, squares) in _RATES.items():
            found = Components.from_units(
                videos[count],
                videos[total],
                squares=whole[squares],
                group=self.video_channels,
                groups=self.channel_ids.len() + 1,
            )
            channels[rate], weights[rate] = np.append(found.group_rates(), found.mean), found.unit_weight
        levels = dict[str, Doubles]()
        for name, length in _TRENDS.items():
            levels[name], weights[name] = self._trend_prior(day, length, videos)
        for name in self.categories:
            levels[name], weights[name] = self._category_prior(name, day)
        return Priors(channels=channels, weights=weights, levels=levels)

    def _trend_prior(self, day: int, length: int, videos: Sums) -> tuple[Doubles, float]:
        """Return the level of the last days (one number), and the weight of a video's long-run rate against that of its
        last days: units are the video's last days and the days before them."""
        recent = self.videos.between(self._every_video, day - length, day)
        older = {name: videos[name] - recent[name] for name in ("impressions", _SECONDS)}
        parts = self._whole(day - length, day), self._whole(0, day - length)
        levels = [_level(part, self._whole(0, day)) for part in parts]
        totals = [of[_SECONDS] / level for of, level in zip((recent, older), levels, strict=True)]
        found = Components.from_units(
            np.concatenate([recent["impressions"], older["impressions"]]),
            np.concatenate(totals),
            squares=sum(part["squared_seconds"] / level**2 for part, level in zip(parts, levels, strict=True)),
            group=np.tile(self._every_video, 2),
            groups=self.video_ids.len(),
        )
        return np.array([levels[0]]), found.unit_weight

    def _category_prior(self, name: str, day: int) -> tuple[Doubles, float]:
        """Return the level of each value of a category, 1 in the last place for other values, and the weight of a
        video's rate against that of its impressions with one value."""
        category, whole = self.categories[name], self._whole(0, day)
        values = np.arange(category.values.len())
        by_value, of_pairs = category.by_value.between(values, 0, day), category.totals.between(category.keys, 0, day)
        levels = np.array([_level({key: sums[value] for key, sums in by_value.items()}, whole) for value in values])
        video, value = np.divmod(category.keys, len(values))
        found = Components.from_units(
            of_pairs["impressions"],
            of_pairs[_SECONDS] / levels[value],
            squares=float((by_value["squared_seconds"] / levels**2).sum()),
            group=video,
            groups=self.video_ids.len(),
        )
        return np.append(levels, 1), found.unit_weight

    @cached_property
    def _every_video(self) -> Ints:
        return np.arange(self.video_ids.len())

    def _whole(self, first: int, end: int) -> dict[str, float]:
        return {name: float(sums[0]) for name, sums in self.whole.between(np.zeros(1, np.int64), first, end).items()}

    def video_features(self, day: int, video: Ints, channel: Ints) -> dict[str, Doubles]:
        """Return the features of videos and of their channels as of the start of a day: [videos] by name.

        video, channel: indexes; a video of -1 was never shown, and the last channel stands for those never seen.
        """
        priors, sums = self.priors(day), self.videos.between(video, 0, day)
        found = {"video_impressions": sums["impressions"] / max(day, 1)}
        for rate, (total, count, _) in _RATES.items():
            towards = priors.channels[rate][channel]
            found[f"video_{rate}"] = shrink(sums[total], sums[count], towards=towards, weight=priors.weights[rate])
        for name, length in _TRENDS.items():
            recent = self.videos.between(video, day - length, day)
            found[name] = _relative(
                recent, found["video_impression_seconds"], priors.levels[name], priors.weights[name]
            )
        return found | {
            f"channel_{rate}": priors.channels[rate][channel] for rate in ("click_rate", "impression_seconds")
        }

    def category_features(self, name: str, day: int, video: Ints, value: Ints, seconds: Doubles) -> Doubles:
        """Return the seconds per impression of videos among the users with a value of a category, divided by those that
        the video and the value alone let expect.

        seconds: the video's `video_impression_seconds` as of the start of the day.
        """
        category, priors = self.categories[name], self.priors(day)
        size = category.values.len()
        keys = np.where((video >= 0) & (value < size), video * size + value, -1)
        sums = category.totals.between(keys, 0, day)
        return _relative(sums, seconds, priors.levels[name][value], priors.weights[name])


def _level(part: Mapping[str, float], whole: Mapping[str, float]) -> float:
    """Return the seconds per impression of a part, divided by those of the whole; 1 if the part has none."""
    if not part["impressions"] or not part[_SECONDS]:
        return 1.0
    return (part[_SECONDS] / part["impressions"]) / (whole[_SECONDS] / whole["impressions"])


def _relative(sums: Sums, seconds: Doubles, level: Doubles, weight: float) -> Doubles:
    """Return the seconds per impression in a part, as a share of `seconds` x level shrunk towards 1; 1 if that is 0."""
    expected = seconds * level
    rate = shrink(sums[_SECONDS], sums["impressions"], towards=expected, weight=weight)
    return np.divide(rate, expected, out=np.where(expected == 0, 1, np.nan), where=expected > 0)


def _channel_indices(channels: pl.Series, channel_ids: pl.Series) -> Ints:
    """Return the index of each channel; that behind the last for null."""
    found = lookup_rows(channels, channel_ids)
    return np.where(found < 0, channel_ids.len(), found)


def _distinct_keys(counted: Iterable[pl.DataFrame]) -> tuple[pl.Series, pl.Series]:
    """Return the ids of all videos, and the values of all categories, sorted. counted: `OUTCOMES` of each day."""
    parts = [[rows[name].unique() for name in ("video_id", "value")] for rows in counted]
    videos, values = (pl.concat(column).unique().sort() for column in zip(*parts, strict=True))
    return videos, values


def _coded(rows: pl.DataFrame, videos: pl.Enum, values: pl.Enum) -> pl.DataFrame:
    """Return the counts of a day with the codes of video ids and of values in place of the texts."""
    return rows.select(
        pl.col("category").cast(pl.Enum(["", *CATEGORIES])),
        video=pl.col("video_id").cast(videos).to_physical().cast(pl.UInt32),
        value=pl.col("value").cast(values).to_physical().cast(pl.UInt32),
        **{name: pl.col(name) for name in (*_COUNTED, "squared_seconds")},
    )


def _category_totals(rows: pl.DataFrame, values: pl.Series, days_counted: int) -> CategoryTotals:
    """Return the totals of one category. values: those of all categories, which the codes in `value` are indexes of."""
    codes = rows["value"].unique().sort()
    own = rows.with_columns(pl.col("value").replace_strict(codes, pl.int_range(codes.len(), eager=True)))
    sums = ("impressions", _SECONDS)
    pair = pl.col("video").cast(pl.Int64) * codes.len() + pl.col("value")
    by_value = own.group_by("value", "day").agg(pl.col(*sums, "squared_seconds").sum())
    return CategoryTotals(
        values=values.gather(codes),
        keys=own.select(pair.unique().sort()).to_series().to_numpy(),
        totals=DayTotals.from_rows(pair, own, sums, days_counted=days_counted),
        by_value=DayTotals.from_rows(pl.col("value"), by_value, (*sums, "squared_seconds"), days_counted=days_counted),
    )


def outcome_features(features: Features, context: ImpressionContext, outcomes: Outcomes) -> dict[str, Floats]:
    """Return `OUTCOME_NUMBERS`, each float32 [shown].

    All are NaN on the first day of the counts and before it. Those of a channel or a category are NaN if the video's
    channel or the request's category is unknown.
    """
    found = {name: np.full(features.shown.height, np.nan, np.float32) for name in OUTCOME_NUMBERS}
    video, channel = (
        lookup_rows(context.video_ids, outcomes.video_ids),
        outcomes.channel_indices(context.videos[CHANNEL]),
    )
    has_channel = context.videos[CHANNEL].is_not_null().to_numpy()
    values = {name: outcomes.value_indices(name, features.requests) for name in CATEGORIES}
    for day, rows in _rows_by_day(outcomes.day_of(features.requests["time"])[features.request]):
        if day <= 0:
            continue
        shown, place = np.unique(features.videos[rows], return_inverse=True)
        numbers = outcomes.video_features(day, video[shown], channel[shown])
        for name in CHANNEL_OUTCOMES:
            numbers[name] = np.where(has_channel[shown], numbers[name], np.nan)
        for name, of_video in numbers.items():
            found[name][rows] = of_video[place]
        for name, number in CATEGORY_OUTCOMES.items():
            value = values[name][features.request[rows]]
            known, size = value >= 0, outcomes.categories[name].values.len() + 1
            pairs, pair = np.unique(place[known] * size + value[known], return_inverse=True)
            at, value = np.divmod(pairs, size)
            seconds = numbers["video_impression_seconds"][at]
            found[number][rows[known]] = outcomes.category_features(name, day, video[shown][at], value, seconds)[pair]
    return found


def _rows_by_day(day: Ints) -> Iterator[tuple[int, Ints]]:
    """Yield each day and its rows."""
    order = np.argsort(day, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(day[order]) != 0)[: len(order)])
    for rows in np.split(order, starts[1:]) if len(order) else ():
        yield int(day[rows[0]]), rows
