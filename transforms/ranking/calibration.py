"""The expected seconds of a video: the ranker's log-odds through a calibration, below the limits of what is possible.

    bins = CalibrationBins.from_impressions(log_odds, clicked, watch_seconds, half).merge(others)
    calibration = fit_calibration(bins, longest_seconds=7_200)
    calibration.seconds(log_odds, video_seconds)      # float32 [candidates]

The calibration is a monotone map from log-odds to log seconds, fitted on held-out impressions: isotonic regression on
classes of impressions by prediction (pool adjacent violators), linear between the classes' means in logarithms. Beyond
the first and the last class it multiplies the odds by a constant. Its measurement is cross-fitted: each half of the
held-out users is measured with the map that was fitted on the other half. The map to serve is fitted on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core import files
from transforms.core.digests import in_share
from transforms.core.files import FileEntry
from transforms.core.json_model import JsonModel
from transforms.core.process_cache import process_cache
from transforms.ranking.impression_metrics import BINS, MAX_LOG_ODDS, MILLISECONDS

FILE = "calibration.json"  # in the folder of the ranker
LONGEST_SECONDS = 1e6  # upper limit of expected seconds
KNOT_CLICKS = 200  # clicks of a class, whose mean watch time then has a standard error of about a tenth
_CLASSES = 40  # most classes, of equal numbers of impressions before those with too few clicks are joined
_HALF_SEED = 0x68616C66  # "half"
BIN_CENTRES = (np.arange(BINS) + 0.5) * (2 * MAX_LOG_ODDS / BINS) - MAX_LOG_ODDS  # log-odds of the bins

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def user_halves(user_ids: pl.Series) -> Ints:
    """Return 0 or 1 for each user, by digest: [users]."""
    return in_share(user_ids, 0.5, _HALF_SEED).cast(pl.Int64).to_numpy()


def bins_of(log_odds: NDArray[Any]) -> Ints:
    """Return the bin of each of `BINS` equal intervals of log-odds between -`MAX_LOG_ODDS` and `MAX_LOG_ODDS`."""
    limited = np.clip(np.asarray(log_odds, np.float64), -MAX_LOG_ODDS, MAX_LOG_ODDS)
    return np.minimum((limited + MAX_LOG_ODDS) / (2 * MAX_LOG_ODDS) * BINS, BINS - 1).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class CalibrationBins:
    """Sums over held-out impressions by half of the users and bin of log-odds: lists [2][BINS]."""

    impressions: list[list[int]]
    clicks: list[list[int]]
    watched: list[list[int]]  # milliseconds

    @classmethod
    def empty(cls) -> CalibrationBins:
        """Return the sums of no impressions."""
        none = np.zeros(0)
        return cls.from_impressions(none, none, none, none.astype(np.int64))

    @classmethod
    def from_impressions(
        cls, log_odds: NDArray[Any], clicked: NDArray[Any], watch_seconds: NDArray[Any], half: Ints
    ) -> CalibrationBins:
        """Sum up impressions; all arguments are [impressions]. half: `user_halves` of their users."""
        cells = half * BINS + bins_of(log_odds)

        def by_cell(values: NDArray[Any]) -> list[list[int]]:
            sums = np.zeros(2 * BINS, np.int64)
            np.add.at(sums, cells, np.rint(values).astype(np.int64))
            return sums.reshape(2, BINS).tolist()

        watched = np.asarray(watch_seconds, np.float64) * MILLISECONDS
        return cls(impressions=by_cell(np.ones(len(cells))), clicks=by_cell(clicked), watched=by_cell(watched))

    def merge(self, other: CalibrationBins) -> CalibrationBins:
        """Return the sums over the impressions of both. Exact."""
        return CalibrationBins(
            **{name: np.add(mine, getattr(other, name)).tolist() for name, mine in vars(self).items()}
        )


class SecondsMap(JsonModel):
    """A strictly increasing map from log-odds to log seconds, given by its knots; without knots the identity."""

    log_odds: tuple[float, ...] = ()
    log_seconds: tuple[float, ...] = ()

    def __call__(self, log_odds: NDArray[Any]) -> Floats:
        """Return log seconds, [n]: linear between the knots, with slope 1 beyond them."""
        values = np.asarray(log_odds, np.float64)
        if not self.log_odds:
            return values
        inside = np.clip(values, self.log_odds[0], self.log_odds[-1])
        return np.interp(inside, self.log_odds, self.log_seconds) + values - inside


def pool_adjacent_violators(means: Floats, weights: Floats) -> list[slice]:
    """Return the blocks of classes of weighted isotonic regression, in order: the weighted means of the blocks rise
    strictly (Barlow and others: Statistical inference under order restrictions, 1972)."""
    blocks: list[tuple[int, float, float]] = []  # start, weighted sum, weight
    for start, (mean, weight) in enumerate(zip(means.tolist(), weights.tolist(), strict=True)):
        total = mean * weight
        while blocks and blocks[-1][1] * weight >= total * blocks[-1][2]:
            start, more, more_weight = blocks.pop()
            total, weight = total + more, weight + more_weight
        blocks.append((start, total, weight))
    starts = [start for start, _, _ in blocks]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(means)], strict=True)]


def fit_map(impressions: Ints, clicks: Ints, watched: Ints) -> SecondsMap:
    """Fit the map on sums by bin, [BINS]; watched: milliseconds. It keeps the sum of the seconds watched.

    A class has at least `KNOT_CLICKS` clicks and some watch time. With fewer clicks in all, the map is the identity.
    """
    if clicks.sum() < KNOT_CLICKS or not watched.sum():
        return SecondsMap()
    starts = _class_starts(impressions, clicks, watched)
    shown = np.add.reduceat(impressions, starts).astype(np.float64)
    predicted = np.add.reduceat(impressions * np.exp(BIN_CENTRES), starts)
    seconds = np.add.reduceat(watched, starts) / MILLISECONDS
    blocks = pool_adjacent_violators(seconds / shown, shown)

    def log_means(sums: Floats) -> list[float]:
        return [float(np.log(sums[block].sum() / shown[block].sum())) for block in blocks]

    found = SecondsMap(log_odds=tuple(log_means(predicted)), log_seconds=tuple(log_means(seconds)))
    correction = float(np.log(seconds.sum() / (impressions * np.exp(found(BIN_CENTRES))).sum()))
    return found.model_copy(update={"log_seconds": tuple(of + correction for of in found.log_seconds)})


def _class_starts(impressions: Ints, clicks: Ints, watched: Ints) -> Ints:
    """Return the first bin of each class."""
    shown, clicked, seconds = (np.concatenate([[0], np.cumsum(sums)]) for sums in (impressions, clicks, watched))
    borders = np.searchsorted(shown, shown[-1] * np.arange(1, _CLASSES) / _CLASSES)
    starts = [0]
    for border in (*borders.tolist(), BINS):
        start = starts[-1]
        if clicked[border] - clicked[start] >= KNOT_CLICKS and seconds[border] > seconds[start]:
            starts.append(border)
    # What is left at the end belongs to the last class; the border of the last whole class is not a start.
    return np.array(starts[:-1] if len(starts) > 1 else starts, np.int64)


class Calibration(JsonModel):
    """How log-odds become expected seconds. It is stored as `FILE` in the folder of its ranker."""

    longest_seconds: float = LONGEST_SECONDS  # the longest watch that the ranker learned from
    whole: SecondsMap = SecondsMap()  # to serve
    halves: tuple[SecondsMap, SecondsMap] = (SecondsMap(), SecondsMap())  # for each half, fitted on the other half

    @property
    def is_fitted(self) -> bool:
        return bool(self.whole.log_odds)

    def seconds(
        self, log_odds: NDArray[Any], video_seconds: NDArray[Any], half: Ints | None = None
    ) -> NDArray[np.float32]:
        """Return expected seconds, above 0, and at most `longest_seconds` and the length of the video: [n].

        video_seconds: [n], NaN or 0 if unknown. half: `user_halves` of held-out users, to measure them; None: to serve.
        """
        if half is None:
            found = self.whole(log_odds)
        else:
            found = np.where(half == 0, self.halves[0](log_odds), self.halves[1](log_odds))
        lengths = np.asarray(video_seconds, np.float64)
        most = np.fmin(np.where(lengths > 0, lengths, np.nan), min(self.longest_seconds, LONGEST_SECONDS))
        limit = np.log(LONGEST_SECONDS)
        return _float32_at_most(np.minimum(np.exp(np.clip(found, -limit, limit)), most), most)


def _float32_at_most(values: Floats, most: Floats) -> NDArray[np.float32]:
    """Return values as float32, rounded down if they would otherwise be above a limit."""
    rounded = values.astype(np.float32)
    return np.where(rounded > most, np.nextafter(rounded, np.float32(0)), rounded)


def fit_calibration(bins: CalibrationBins, *, longest_seconds: float) -> Calibration:
    """Fit the map on all held-out impressions, and on each half of the users for the other half.

    The maps are the identity if one of the halves has fewer than `KNOT_CLICKS` clicks.
    """
    columns = [np.array(sums, np.int64) for sums in (bins.impressions, bins.clicks, bins.watched)]
    other_halves = [fit_map(*(column[1 - half] for column in columns)) for half in (0, 1)]
    if not all(found.log_odds for found in other_halves):
        return Calibration(longest_seconds=longest_seconds)
    whole = fit_map(*(column.sum(axis=0) for column in columns))
    return Calibration(longest_seconds=longest_seconds, whole=whole, halves=(other_halves[0], other_halves[1]))


def write_calibration(calibration: Calibration, folder: str, ranker: str) -> FileEntry:
    """Write the calibration into the folder of its ranker, a name below `folder`."""
    return files.write_bytes(folder, f"{ranker}/{FILE}", 1, calibration.model_dump_json(indent=1).encode())


@process_cache
def load_calibration(ranker: str) -> Calibration:
    """Return the calibration of the ranker in a folder, read once per process; the identity if it has none, as in
    earlier versions."""
    path = f"{ranker}/{FILE}"
    return Calibration.model_validate_json(files.read_bytes(path)) if files.exists(path) else Calibration()
