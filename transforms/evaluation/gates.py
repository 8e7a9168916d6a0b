"""Gates: comparisons that a night must pass before it is published. Each is a function from figures to a `Gate`.

gates = [
    users(before=100_000, tonight=64_000, most_lost=0.2),
    list_overlap_gate(list_overlap(shown, lists=5_000, candidates=20_000), most=0.8),
]
[gate.message for gate in gates if gate.state == "failed"]

A gate is passed, failed, or not computed, with a reason. It never passes if a figure is missing or not finite. Gates
on figures of a sample of users fail only if the difference is statistically significant (95 % interval), so that small
logs do not fail by chance. If the interval contains 0 and is too wide to show a loss that matters, the gate passes with
a note that says so (`compare`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from transforms.core.bootstrap import MIN_USERS, Floats, PairedDifference, interval, share_bounds, small_sample_factor
from transforms.evaluation.user_metrics import MeasuredFigures
from transforms.examples.skew import stability_bound, stability_index
from transforms.ranking.measured_calibration import CalibrationClass, MeasuredCalibration
from transforms.ranking.watch_time_recall import MeasuredRanking

State = Literal["passed", "failed", "not computed"]
Comparison = Literal["above", "below", "no significant difference", "too few users"]
LEAST_CLICKS = 50  # of impressions whose calibration is compared
NOTABLE_LOSS = 0.1  # share of a baseline's figure; a smaller loss need not be shown by a comparison with 0
_STATE_OF_OK: dict[Any, State] = {True: "passed", False: "failed", None: "not computed"}


class Gate(BaseModel):
    """The result of a gate, as stored in `gates.json`. Files of older versions have `ok` instead of `state`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float | None = Field(allow_inf_nan=False)  # None if the gate was not computed or has no figure
    bound: str  # in words, with its setting
    state: State
    reason: str = ""  # why it was not computed
    expected: bool = True  # if it was not computed: whether that is normal for such a night, such as the first
    message: str  # the gate, the value, the bound and what to check; or why it was not computed
    note: str = ""  # of a passed gate whose comparison shows nothing: why, such as too few held-out users

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool | None:
        """True: passed; False: failed; None: not computed."""
        return None if self.state == "not computed" else self.state == "passed"

    @model_validator(mode="before")
    @classmethod
    def _state_of_older_files(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "ok" not in data:
            return data
        fields = {name: value for name, value in data.items() if name != "ok"}
        return {"state": _STATE_OF_OK.get(data["ok"], data["ok"])} | fields


def not_computed(name: str, reason: str, *, expected: bool = True) -> Gate:
    """Return a gate that could not be computed. expected: whether that is normal for such a night."""
    message = f"gate {name}: not computed: {reason}"
    return Gate(
        name=name, value=None, bound="", state="not computed", reason=reason, expected=expected, message=message
    )


def _gate(name: str, value: float, *, ok: bool, bound: str, result: str, advice: str) -> Gate:
    """Return a gate that passed or failed. result: the figures in words. advice: what to check if it failed."""
    if reason := _unusable(its_value=value):
        return not_computed(name, reason, expected=False)
    message = f"gate {name}: {result}, bound: {bound}" + ("" if ok else f": {advice}")
    return Gate(name=name, value=value, bound=bound, state="passed" if ok else "failed", message=message)


def _unusable(**numbers: object) -> str:
    """Return which of the numbers is missing or not finite, as a reason; empty if all are finite."""
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            return f"{name.replace('_', ' ')} is {value!r}, which is not a finite number"
    return ""


def compare(margin: PairedDifference, users: int | None, notable: float) -> Comparison:
    """Return whether a difference is significantly above or below 0 (95 % interval), or why this is not known.

    users: number of users compared; for few of them the interval is widened (`small_sample_factor`). None: enough.
    notable: the smallest loss that the comparison must be able to show. If the interval contains 0 and its lower half
    is wider than that, or if there are fewer than `MIN_USERS`, the result is "too few users".
    """
    if users is not None and users < MIN_USERS:
        return "too few users"
    low, high = _widened(margin, users)
    if high < 0:
        return "below"
    if low > 0:
        return "above"
    return "too few users" if margin.value - low > notable else "no significant difference"


def too_few_users(users: int | None) -> str:
    """Return the text of the comparison "too few users". users: number of held-out users; None: not known."""
    return "too few held-out users" + ("" if users is None else f" ({users:,})") + " to tell"


def _widened(margin: PairedDifference, users: int | None) -> tuple[float, float]:
    """Return the margin's interval, widened for a small number of users."""
    factor = 1.0 if users is None else small_sample_factor(users)
    return margin.value - (margin.value - margin.low) * factor, margin.value + (margin.high - margin.value) * factor


def _significance_gate(
    name: str,
    value: float,
    margin: PairedDifference,
    users: int | None,
    *,
    notable: float,
    bound: str,
    result: str,
    advice: str,
) -> Gate:
    """Return a gate that fails if a margin is significantly below 0.

    users: number of held-out users; for few of them the interval is widened. None: enough. notable: as in `compare`.
    """
    numbers = {f"{part}_of_the_difference": number for part, number in margin} | {"the_smallest_notable_loss": notable}
    if reason := _unusable(**numbers):
        return not_computed(name, reason, expected=False)
    if users is not None and users < MIN_USERS:
        return not_computed(name, f"fewer than {MIN_USERS} users were held out, too few for a reliable comparison")
    found = compare(margin, users, notable)
    gate = _gate(name, value, ok=found != "below", bound=bound, result=result, advice=advice)
    if found != "too few users" or gate.state != "passed":
        return gate
    half_width = margin.value - _widened(margin, users)[0]
    note = too_few_users(users)
    detail = (
        f"the 95 % interval reaches {half_width:.4f} below the difference, more than the loss that matters, "
        f"{notable:.4f}; hold out more users (examples.holdout_users) or more days (examples.holdout_days)"
    )
    return gate.model_copy(update={"note": note, "message": f"{gate.message}: {note}: {detail}"})


def _signed(difference: PairedDifference) -> str:
    return f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"


def most_popular(difference: PairedDifference, baseline: float, figure: str, *, held_out: int | None = None) -> Gate:
    """Compare the lists with the most popular videos. Arguments: as those of `item_to_item`."""
    return _better_than_baseline(
        "most popular",
        "the most popular videos",
        difference,
        baseline,
        figure,
        held_out,
        advice="the training failed, or its labels are wrong: check the training curve in the report, and that model, "
        "index and examples are from the same logs",
    )


def item_to_item(difference: PairedDifference, baseline: float, figure: str, *, held_out: int | None = None) -> Gate:
    """Compare the lists with item-to-item lists: videos that were watched together with a user's last ones.

    difference: the lists' figure minus the baseline's. baseline: the figure of the item-to-item lists. held_out: number
    of users; None: enough.
    """
    return _better_than_baseline(
        "item to item",
        "lists of videos that were watched together with the user's last ones (item to item)",
        difference,
        baseline,
        figure,
        held_out,
        advice="the model has not learned which videos are watched together: try co_watches = true and another history "
        '([model]), more training (epochs, minutes in [training]), or "auto" for all settings of both tables that take '
        "it; check the training curve in the report",
    )


def _better_than_baseline(
    name: str,
    baseline_text: str,
    difference: PairedDifference,
    baseline: float,
    figure: str,
    held_out: int | None,
    *,
    advice: str,
) -> Gate:
    """Return the gate of a comparison with a baseline. Its setting has the name of the gate."""
    if reason := _unusable(figure_of_the_baseline=baseline):
        return not_computed(name, reason, expected=False)
    return _significance_gate(
        name,
        difference.value,
        difference,
        held_out,
        notable=notable_loss(baseline),
        bound=f"not significantly below 0 (95 % interval; gates.{name.replace(' ', '_')})",
        result=f"{figure} minus that of {baseline_text} is {_signed(difference)}",
        advice=advice,
    )


def notable_loss(baseline: float) -> float:
    """Return the smallest loss against a baseline that a comparison must be able to show."""
    return NOTABLE_LOSS * baseline


def ranking(measured: MeasuredRanking | None, cut: int) -> Gate:
    """Compare ranked lists with the neighbours.

    measured: None if no lists were ranked or no users were held out. cut: number of first videos that are counted.
    """
    name = "ranking"
    if measured is None or measured.wanted_seconds == 0:
        return not_computed(name, "no lists were ranked, or no users were held out")
    gain, neighbours = measured.difference, measured.neighbours
    if gain is None or neighbours is None:
        return not_computed(name, "the recall of the two orders is missing", expected=False)
    if reason := _unusable(recall_of_the_neighbours=neighbours.recall):
        return not_computed(name, reason, expected=False)
    return _significance_gate(
        name,
        gain.value,
        gain,
        measured.users,
        notable=notable_loss(neighbours.recall),
        bound="not significantly below 0 (95 % interval; gates.ranking)",
        result=f"the share of held-out users' watch time in the first {cut} videos changes by {_signed(gain)} with "
        f"ranking, from {neighbours.recall:.4f}",
        advice="check the ranker's figures in the report; candidates = 0 ([ranking]) serves the neighbours' order",
    )


def ranking_recall(ranked: MeasuredFigures, neighbours: MeasuredFigures, figure: str, *, most_lost: float) -> Gate:
    """Compare ranked lists with the same lists in the neighbours' order. figure: recall in the first videos."""
    return _loss_gate(
        "ranking recall",
        neighbours,
        ranked,
        figure,
        most_lost,
        setting="max_ranking_loss",
        result="in the neighbours' order is {best:.4f} and with ranking {found:.4f}",
        advice="ranking by expected watch time puts videos first that users do not complete: check the ranker's "
        "figures in the report, and watch_seconds and clicked of the impressions; candidates = 0 ([ranking]) serves "
        "the neighbours' order",
    )


def calibration(measured: MeasuredCalibration | None, *, most: float) -> Gate:
    """Compare the expected seconds of held-out impressions with the seconds watched, in all.

    measured: None if no impressions were held out. most: the largest relative error.
    """
    return _calibration_gate(
        "calibration", measured, [measured.total] if measured else [], "max_calibration_error", most
    )


def calibration_by_decile(measured: MeasuredCalibration | None, *, most: float) -> Gate:
    """Compare the same in each class of impressions by prediction; those with few clicks do not count."""
    classes = [of for of in measured.classes if of.clicks >= LEAST_CLICKS] if measured else []
    return _calibration_gate("calibration by decile", measured, classes, "max_decile_error", most)


def _calibration_gate(
    name: str, measured: MeasuredCalibration | None, classes: Sequence[CalibrationClass], setting: str, most: float
) -> Gate:
    """Return a gate that fails if the ratio of expected to watched seconds of a class is significantly further from 1
    than a bound. Its value is the relative error of the class that is furthest from 1."""
    if measured is None:
        return not_computed(name, "no lists were ranked, or no impressions were held out")
    if measured.users < MIN_USERS or not classes or measured.total.clicks < LEAST_CLICKS:
        return not_computed(name, f"too few held-out users ({measured.users:,}) or clicks ({measured.total.clicks:,})")
    rows = [(of, of.ratio, of.interval) for of in classes]
    if any(ratio is None or bounds is None for _, ratio, bounds in rows):
        return not_computed(name, "nothing was watched after the clicks of some impressions", expected=False)
    errors = [
        PairedDifference(value=ratio - 1, low=bounds[0] - 1, high=bounds[1] - 1)
        for _, ratio, bounds in rows
        if ratio and bounds
    ]
    beyond = [max(low - most, -most - high) for low, high in (_widened(error, measured.users) for error in errors)]
    worst = int(np.argmax(beyond)) if max(beyond) > 0 else int(np.argmax([abs(error.value) for error in errors]))
    of, error = classes[worst], errors[worst]
    gate = _gate(
        name,
        error.value,
        ok=max(beyond) <= 0,
        bound=f"an error not significantly above {most:g} (95 % interval; gates.{setting})",
        result=f"{of.predicted_seconds:.2f} seconds are expected of {of.impressions:,} held-out impressions, "
        f"{of.watched_seconds:.2f} were watched, {error.value:+.1%} ({error.low:+.1%} to {error.high:+.1%})",
        advice="check watch_seconds and clicked of the newest impressions, and the ranker's figures in the report; "
        "more held-out users or days give the calibration more clicks (examples.holdout_users, holdout_days)",
    )
    low, high = _widened(error, measured.users)
    if gate.state != "passed" or (high - low) / 2 <= most:
        return gate
    return gate.model_copy(update={"note": too_few_users(measured.users)})


@dataclass(frozen=True)
class MeasuredNight:
    """The figures (`MeasuredFigures`) of a night's lists and, for the same users, of the most popular videos."""

    lists: MeasuredFigures
    popular: MeasuredFigures

    @property
    def held_out(self) -> int | None:
        """The number of held-out users; None in files of older versions."""
        return _users_of(self.lists)

    def compared(self) -> set[str]:
        """Return the figures that both sides have with replicates."""
        sides = [set(side.figures) & _replicated(side) for side in (self.lists, self.popular)]
        return sides[0] & sides[1]


def recall_before(tonight: MeasuredNight, before: MeasuredNight, figure: str, *, most_lost: float) -> Gate:
    """Compare `figure` of two nights; if one lacks it, the recall@k of the largest k that both nights measured.

    The nights are measured on different days, of which one may be harder: if the figure of the most popular videos fell
    too, that of the lists may fall by the same share. This is computed per replicate, which has the same users on both
    sides.
    """
    name = "recall"
    common = tonight.compared() & before.compared()
    if figure not in common:
        usual = figure
        figure = max((shared for shared in common if _cut_of(shared)), key=_cut_of, default="")
        if not figure:
            reason = f"the nights have no {usual} with replicates in common, nor recall at another k (was k changed?)"
            return not_computed(name, reason, expected=False)
    sides = [side for night in (tonight, before) for side in (night.lists, night.popular)]
    lists, popular, lists_before, popular_before = (np.array(side.replicates[figure], np.float64) for side in sides)
    recall, popular_recall, recall_then, popular_then = (side.figures[figure] for side in sides)
    numbers = {"recall": recall, "recall_before": recall_then, "popular": popular_recall}
    if reason := _unusable(**numbers, popular_before=popular_then, gates_max_recall_lost=most_lost):
        return not_computed(name, reason, expected=False)
    if len({len(drawn) for drawn in (lists, popular, lists_before, popular_before)}) > 1:
        return not_computed(name, "the nights have unequal numbers of bootstrap replicates", expected=False)
    kept = float(_kept_share(np.array([popular_recall], np.float64), np.array([popular_then], np.float64))[0])
    low, high = interval(lists - (1 - most_lost) * lists_before * _kept_share(popular, popular_before))
    bound = (1 - most_lost) * recall_then * kept
    return _significance_gate(
        name,
        recall - recall_then,
        PairedDifference(value=recall - bound, low=low, high=high),
        min((night.held_out for night in (tonight, before) if night.held_out is not None), default=None),
        notable=(most_lost or NOTABLE_LOSS) * recall_then * kept,
        bound=f"not significantly below {bound:.4f} (95 % interval; gates.max_recall_lost = {most_lost:g})",
        result=f"{figure} is {recall:.4f}, and was {recall_then:.4f} the night before; that of the most popular videos "
        f"is {popular_recall:.4f}, and was {popular_then:.4f}; the lists minus the bound are {low:+.4f} to {high:+.4f}",
        advice="check the training curves of both nights, changes of the job file, and the volumes and slices in the "
        "report",
    )


def _replicated(side: MeasuredFigures) -> set[str]:
    return {figure for figure, values in side.replicates.items() if values}


def _users_of(side: MeasuredFigures) -> int | None:
    return int(side.figures["users"]) if "users" in side.figures else None


def _cut_of(figure: str) -> int:
    """Return the k of a recall@k; 0 for other figures."""
    name, _, cut = figure.partition("@")
    return int(cut) if name == "recall" and cut.isdecimal() else 0


def _kept_share(popular: Floats, before: Floats) -> Floats:
    """Return the figure of the most popular videos divided by that of the night before, at most 1: [n]."""
    share = np.divide(popular, before, out=np.ones_like(popular), where=before > 0)
    return np.minimum(share, 1)


def ann_recall(recall: float | None, *, wanted: float, most_short: float) -> Gate:
    """Check the index's recall. recall: compared with exact search, as measured when the index was built."""
    name = "index recall"
    reason = _unusable(recall=recall, index_recall=wanted, gates_max_ann_shortfall=most_short)
    if recall is None or reason:
        return not_computed(name, reason, expected=False)
    return _gate(
        name,
        recall,
        ok=recall >= wanted - most_short,
        bound=f"at least {wanted - most_short:.3f} (index.recall = {wanted:g}, gates.max_ann_shortfall = "
        f"{most_short:g})",
        result=f"the index finds {recall:.3f} of the true nearest videos",
        advice="check index/info.json: vectors that are nearly equal or of very different lengths are hard to search",
    )


def ann_loss(exact: MeasuredFigures, approximate: MeasuredFigures, figure: str, *, most_lost: float) -> Gate:
    """Compare exact and approximate search for the same users."""
    if not all(figure in _replicated(side) for side in (approximate, exact)):
        return not_computed("approximate search", "search is exact, or no users were held out")
    return _loss_gate(
        "approximate search",
        exact,
        approximate,
        figure,
        most_lost,
        setting="max_ann_loss",
        result="by exact search is {best:.4f} and by the index {found:.4f}",
        advice="raise index.recall, and check that the index was built from tonight's vectors",
    )


def _loss_gate(
    name: str,
    left: MeasuredFigures,
    right: MeasuredFigures,
    figure: str,
    most_lost: float,
    *,
    setting: str,
    result: str,
    advice: str,
) -> Gate:
    """Return a gate that fails if `right` has lost significantly more than a share of the figure of `left`, which is
    measured on the same users. result: a template with the fields best and found."""
    if not all(figure in _replicated(side) and figure in side.figures for side in (left, right)):
        return not_computed(name, f"{figure} of one of the lists is missing", expected=False)
    true_values, values = (np.array(side.replicates[figure], np.float64) for side in (left, right))
    best, found = left.figures[figure], right.figures[figure]
    if reason := _unusable(**{"best_figure": best, "figure_found": found, f"gates_{setting}": most_lost}):
        return not_computed(name, reason, expected=False)
    if len(values) != len(true_values):
        return not_computed(name, "the lists have unequal numbers of bootstrap replicates", expected=False)
    low, high = interval(values - (1 - most_lost) * true_values)
    return _significance_gate(
        name,
        (best - found) / best if best else 0.0,
        PairedDifference(value=found - (1 - most_lost) * best, low=low, high=high),
        _users_of(right),
        notable=(most_lost or NOTABLE_LOSS) * best,
        bound=f"a loss not significantly above {most_lost:g} of it (95 % interval; gates.{setting})",
        result=f"{figure} {result.format(best=best, found=found)}",
        advice=advice,
    )


def users(*, before: int, tonight: int, most_lost: float) -> Gate:
    """Compare the number of users that would be served tonight with the night before."""
    name = "users"
    if reason := _unusable(users_before=before, users_tonight=tonight, gates_max_users_lost=most_lost):
        return not_computed(name, reason, expected=False)
    if before <= 0:
        return not_computed(name, "the night before served no users", expected=False)
    lost = 1 - tonight / before
    return _gate(
        name,
        lost,
        ok=lost <= most_lost,
        bound=f"at most {most_lost:g} fewer (gates.max_users_lost)",
        result=f"{tonight:,} users would be served, {before:,} were the night before ({-lost:+.1%})",
        advice="check the volumes of the last days in the report: files may be missing, or users.parquet renamed ids",
    )


def coverage(*, distinct: int, lists: int, length: int, candidates: int, least: float) -> Gate:
    """Check how many videos are shown. distinct: videos in `lists` lists of `length`, of `candidates` videos."""
    name = "coverage"
    numbers = {"distinct_videos": distinct, "lists": lists, "length": length, "candidates": candidates}
    if reason := _unusable(**numbers, gates_min_coverage=least):
        return not_computed(name, reason, expected=False)
    possible = min(candidates, lists * length)
    value = distinct / possible if possible > 0 else 0.0
    return _gate(
        name,
        value,
        ok=value >= least,
        bound=f"at least {least:g} (gates.min_coverage)",
        result=f"{lists:,} lists have {distinct:,} distinct videos of {possible:,} possible ({value:.3f})",
        advice="the model shows the same few videos to everyone: check the training curve, the biases of the videos, "
        "and index.only",
    )


def list_overlap_gate(value: float | None, *, most: float) -> Gate:
    """Check that lists differ between users. value: their `list_overlap`."""
    name = "sameness"
    if value is None:
        return not_computed(name, f"lists hold nearly all videos that may be shown, or are fewer than {MIN_USERS}")
    if reason := _unusable(sameness=value, gates_max_sameness=most):
        return not_computed(name, reason, expected=False)
    return _gate(
        name,
        value,
        ok=value <= most,
        bound=f"at most {most:g} (gates.max_sameness)",
        result=f"the overlap of two users' lists is {value:.3f} (0: as by chance, 1: the same list for everyone)",
        advice="the users' vectors hardly differ: check that the serving records have histories, and the training "
        "curve",
    )


def list_overlap(shown: pl.Series, *, lists: int, candidates: int) -> float | None:
    """Return the mean overlap of two users' lists above chance: 0 as by chance, 1 the same list for everyone.

    shown: number of lists that have each video. None if the overlap by chance is more than half.
    """
    counts = shown.cast(pl.Float64)
    length = float(counts.sum()) / max(1, lists)
    chance = length / max(1, candidates)
    if lists < 2 or not length or chance > 0.5:
        return None
    pairs = float((counts * (counts - 1)).sum()) / (lists * (lists - 1))
    return (pairs / length - chance) / (1 - chance)


def retention(value: float, *, least: float, most: float, places: int) -> Gate:
    """Check how much of a user's list is the same as the night before.

    value: mean share of a user's list that was in it the night before. places: total length of these lists, for the
    95 % interval of the share.
    """
    name = "stayed"
    bounds = {"gates_min_stayed": least, "gates_max_stayed": most}
    if reason := _unusable(share_that_stayed=value, places_in_lists=places, **bounds):
        return not_computed(name, reason, expected=False)
    low, high = share_bounds(value, places)
    return _gate(
        name,
        value,
        ok=high >= least and low <= most,
        bound=f"{least:g} to {most:g} (gates.min_stayed, max_stayed)",
        result=f"{value:.1%} of a user's list stayed from the night before, on average",
        advice="if it is too low: the model did not start from the previous one (see training in the report), or ids "
        "changed; if it is too high: the model was not trained on a new day",
    )


def rejects(*, read: int, reasons: Mapping[str, int], most: float) -> Gate:
    """Check the share of invalid rows. read: rows of all tables. reasons: invalid rows by reason."""
    name = "rejects"
    rejected = sum(reasons.values())
    if reason := _unusable(rows_read=read, rows_rejected=rejected, gates_max_rejects=most):
        return not_computed(name, reason, expected=False)
    if read <= 0 < rejected:
        return not_computed(name, f"{rejected:,} rows were rejected, but {read:,} were read", expected=False)
    share = rejected / read if read > 0 else 0.0
    listed = "; ".join(f"{rows:,} x {reason}" for reason, rows in reasons.items())
    return _gate(
        name,
        share,
        ok=share <= most,
        bound=f"at most {most:g} (gates.max_rejects)",
        result=f"{rejected:,} of {read:,} rows were rejected ({share:.2%})",
        advice=f"{listed}; they are listed in the night's rejects/",
    )


def same_night(problems: Sequence[str]) -> Gate:
    """Check that model, index and lists come from one training. problems: those that do not, in words."""
    bound, message = "all from one training (gates.same_night)", "model, index and lists come from one training"
    if problems:
        advice = "run the night again from train, and do not copy folders between nights"
        message = f"{'; '.join(problems)}, bound: {bound}: {advice}"
    state: State = "failed" if problems else "passed"
    return Gate(name="same night", value=None, bound=bound, state=state, message=f"gate same night: {message}")


def volume(table: str, days: Sequence[int], *, least: float, most: float) -> Gate:
    """Compare the events of the newest day with the days before.

    days: events of the last whole days, the newest last. least, most: factors of the smallest and the largest of the
    days before; 0: no bound.
    """
    name = f"volume of {table}"
    if len(days) < 4:
        return not_computed(name, "there are fewer than 3 days before the newest one")
    counts = {f"events_of_day_{n}": count for n, count in enumerate(days, 1)}
    if reason := _unusable(**counts, gates_min_volume=least, gates_max_volume=most):
        return not_computed(name, reason, expected=False)
    *before, newest = days
    few, many = min(before), max(before)
    if many <= 0 < newest:
        reason = f"there are {newest:,} {table} on the newest day, but none on the {len(before)} days before"
        return not_computed(name, reason, expected=False)
    nearest = min(max(newest, few), many)
    return _gate(
        name,
        newest / nearest if nearest > 0 else 1.0,
        ok=newest >= least * few and (not most or newest <= most * many),
        bound=f"{least:g} x the fewest to {most:g} x the most of the {len(before)} days before (gates.min_volume, "
        "max_volume)",
        result=f"{newest:,} {table} on the newest day, {few:,} to {many:,} on those before",
        advice="check that all files of that day exist and none was sent twice; then run the night again with "
        "--reingest DAY",
    )


def skew(feature: str, train: Mapping[str, int], serving: Mapping[str, int], *, most: float) -> Gate:
    """Compare a feature between training and serving. train, serving: users by class (`skew.histograms`).

    The gate fails if the stability index is significantly above the bound: higher than chance explains for that number
    of users if the true index equals the bound.
    """
    name = f"skew of {feature}"
    counts = [n for side in (train, serving) for n in side.values()]
    numbers = {f"count_{place}": n for place, n in enumerate(counts, 1)}
    if reason := _unusable(**numbers, gates_max_skew=most) or _no_counts(counts):
        return not_computed(name, reason, expected=False)
    if not sum(train.values()) or not sum(serving.values()):
        return not_computed(name, "no user is both in the training data and served")
    value, limit = stability_index(train, serving), stability_bound(train, serving, max(0.0, most))
    return _gate(
        name,
        value,
        ok=value <= limit,
        bound=f"not significantly above {most:g}: at most {limit:.3f} for this number of users (gates.max_skew)",
        result=f"the inputs shifted by {value:.3f} between training and serving (population stability index)",
        advice=f"check what changed in {feature} in the newest day's logs or in the users table; users by class: "
        f"training {_classes(train)}; serving {_classes(serving)}",
    )


def _no_counts(numbers: Sequence[float]) -> str:
    invalid = (number for number in numbers if not 0 <= number < 2**53 or number != int(number))
    return next((f"{number!r} is not a count of users" for number in invalid), "")


def _classes(users: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {n:,}" for name, n in sorted(users.items(), key=lambda one: -one[1])[:5])
