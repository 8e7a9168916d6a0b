"""Gates: what a night is compared with before it is published. A small function each, from figures to a `Gate`.

found = [
    users(before=100_000, tonight=64_000, most_lost=0.2),
    sameness(alike(lists, candidates=20_000), most=0.8),
]
[gate.message for gate in found if gate.state == "failed"]

Every gate ends in one of three states: passed, failed, or not computed with its reason. A figure that is missing or is
not a finite number never passes. Gates on figures of a sample of users fail only if chance does not explain the
difference (95 % interval), so that small logs do not fail by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from transforms.core.bootstrap import MIN_USERS, Floats, interval, share_bounds, small_sample_factor
from transforms.examples.skew import stability_bound, stability_index

State = Literal["passed", "failed", "not computed"]
_STATE_OF_OK: dict[Any, State] = {True: "passed", False: "failed", None: "not computed"}
_FEW_USERS = f"fewer than {MIN_USERS} users were held out: chance decides"


class Gate(BaseModel):
    """What one gate found, as `gates.json` holds it. Files of older versions have `ok` in place of `state`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float | None = Field(
        allow_inf_nan=False
    )  # None if there is nothing to compare, and of gates without figures
    bound: str  # for people, with its setting
    state: State
    reason: str = ""  # why it was not computed
    expected: bool = True  # if it was not computed: whether that is normal for such a night, as for a first one
    message: str  # which gate, the value, the bound, what to look at; or why it was not computed

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
    """A gate that has nothing to compare. expected: whether that is normal for such a night."""
    message = f"gate {name}: not computed: {reason}"
    return Gate(
        name=name, value=None, bound="", state="not computed", reason=reason, expected=expected, message=message
    )


def _gate(name: str, value: float, *, ok: bool, bound: str, said: str, look: str) -> Gate:
    if reason := _unusable(its_value=value):
        return not_computed(name, reason, expected=False)
    after = "" if ok else f": {look}"
    state: State = "passed" if ok else "failed"
    return Gate(name=name, value=value, bound=bound, state=state, message=f"gate {name}: {said}, bound: {bound}{after}")


def _unusable(**numbers: object) -> str:
    """Which of the numbers is missing or is not finite, as a reason; empty if all are finite numbers."""
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            return f"{name.replace('_', ' ')} is {value!r}, which is not a finite number"
    return ""


def most_popular(beside: Mapping[str, float] | None, figure: str, *, held_out: int | None = None) -> Gate:
    """beside: value, low, high of the lists' figure less that of the most popular videos; None if nobody was held out.
    held_out: how many users were; None: enough of them."""
    name = "most popular"
    if beside is None:
        return not_computed(name, "no users were held out")
    if reason := _unusable_interval(beside):
        return not_computed(name, reason, expected=False)
    if held_out is not None and held_out < MIN_USERS:
        return not_computed(name, _FEW_USERS)
    return _gate(
        name,
        beside["value"],
        ok=_upper(beside["value"], beside["high"], held_out) >= 0,
        bound="not below 0 beyond doubt (gates.most_popular)",
        said=f"{figure} less that of the most popular videos is {_signed(beside)}",
        look="the training did not work, or its labels are wrong: look at the training curve in the report, and "
        "whether model, index and examples are of the same logs",
    )


def ranking(found: Mapping[str, Any] | None, cut: int) -> Gate:
    """found: what `ranking_recall.WatchTime.to_json` says; None if nothing was ranked or nobody was held out."""
    name = "ranking"
    if not found or found.get("wanted_seconds") == 0:
        return not_computed(name, "no lists were ranked, or no users were held out")
    more, users = found.get("difference") or {}, found.get("users")
    recall, wanted = (found.get("neighbours") or {}).get("recall"), found.get("wanted_seconds")
    if reason := _unusable_interval(more) or _unusable(recall_of_the_neighbours=recall, seconds_wanted=wanted):
        return not_computed(name, reason, expected=False)
    if users is not None and users < MIN_USERS:
        return not_computed(name, _FEW_USERS)
    return _gate(
        name,
        more["value"],
        ok=_upper(more["value"], more["high"], users) >= 0,
        bound="not below 0 beyond doubt (gates.ranking)",
        said=f"the first {cut} of ranked lists hold {_signed(more)} more of held-out users' watch time than those "
        f"of the neighbours, {recall:.4f}",
        look="look at the ranker's figures in the report; candidates = 0 ([ranking]) serves the neighbours' order",
    )


@dataclass(frozen=True)
class MeasuredNight:
    """What `measured.Measured.to_json` says of a night's lists and, for the same users, of the most popular videos."""

    lists: Mapping[str, Any]
    popular: Mapping[str, Any]

    @property
    def held_out(self) -> int | None:
        users: int | None = self.lists.get("figures", {}).get("users")
        return users

    def compared(self) -> set[str]:
        """The figures that both sides have, with replicates."""
        sides = [set(side.get("figures", ())) & _replicated(side) for side in (self.lists, self.popular)]
        return sides[0] & sides[1]


def recall_before(tonight: MeasuredNight, before: MeasuredNight, figure: str, *, most_lost: float) -> Gate:
    """Compare `figure`, or the recall@k of the largest k that both nights measured if that of one is missing.

    Two nights are measured on two days, of which one is harder: if the most popular videos lost as well, the lists may
    lose as large a share. Replicate by replicate, which are of the same users.
    """
    name = "recall"
    common = tonight.compared() & before.compared()
    if figure not in common:
        usual = figure
        figure = max((shared for shared in common if _cut_of(shared)), key=_cut_of, default="")
        if not figure:
            reason = f"there is no {usual} with replicates of both nights, nor recall at another k (was k changed?)"
            return not_computed(name, reason, expected=False)
    sides = [side for night in (tonight, before) for side in (night.lists, night.popular)]
    ours, popular, theirs, popular_before = (np.array(side["replicates"][figure], np.float64) for side in sides)
    has, popular_has, had, popular_had = (side["figures"][figure] for side in sides)
    if reason := _unusable(recall=has, recall_before=had, popular=popular_has, popular_before=popular_had):
        return not_computed(name, reason, expected=False)
    if len({len(drawn) for drawn in (ours, popular, theirs, popular_before)}) > 1:
        return not_computed(name, "the nights have unequal numbers of bootstrap replicates", expected=False)
    harder = float(_harder(np.array([popular_has], np.float64), np.array([popular_had], np.float64))[0])
    low, high = interval(ours - (1 - most_lost) * theirs * _harder(popular, popular_before))
    if reason := _unusable(the_lower_end_of_the_interval=low, its_upper_end=high, gates_max_recall_lost=most_lost):
        return not_computed(name, reason, expected=False)
    held_out = [night.held_out for night in (tonight, before) if night.held_out is not None]
    if held_out and min(held_out) < MIN_USERS:
        return not_computed(name, _FEW_USERS)
    bound = (1 - most_lost) * had * harder
    return _gate(
        name,
        has - had,
        ok=_upper(has - bound, high, min(held_out, default=None)) >= 0,
        bound=f"not below {bound:.4f} beyond doubt (gates.max_recall_lost = {most_lost:g})",
        said=f"{figure} is {has:.4f}, and was {had:.4f} the night before, that of the most popular videos "
        f"{popular_has:.4f} and {popular_had:.4f}; the lists are above the bound by {low:+.4f} to {high:+.4f}",
        look="look at the training curves of both nights, at what changed in the job file, and at the volumes and "
        "slices in the report",
    )


def _replicated(side: Mapping[str, Any]) -> set[str]:
    return {figure for figure, values in side.get("replicates", {}).items() if values}


def _cut_of(figure: str) -> int:
    """The k of a recall@k; 0 of any other figure."""
    name, _, cut = figure.partition("@")
    return int(cut) if name == "recall" and cut.isdecimal() else 0


def _harder(popular: Floats, before: Floats) -> Floats:
    """What the most popular videos kept of their figure of the night before, 1 at most: [n]."""
    kept = np.divide(popular, before, out=np.ones_like(popular), where=before > 0)
    return np.minimum(kept, 1)


def ann_recall(recall: float, *, wanted: float, most_short: float) -> Gate:
    """recall: of the index against exact search, as measured when it was built."""
    name = "index recall"
    if reason := _unusable(recall=recall, index_recall=wanted, gates_max_ann_shortfall=most_short):
        return not_computed(name, reason, expected=False)
    return _gate(
        name,
        recall,
        ok=recall >= wanted - most_short,
        bound=f"at least {wanted - most_short:.3f} (index.recall = {wanted:g}, gates.max_ann_shortfall = "
        f"{most_short:g})",
        said=f"the index finds {recall:.3f} of the true nearest",
        look="look at index/info.json: vectors that are all alike or of very unequal length are hard to search",
    )


def ann_loss(exact: Mapping[str, Any], ours: Mapping[str, Any], figure: str, *, most_lost: float) -> Gate:
    """exact, ours: what `to_json` says of the same users' lists by exact and by approximate search."""
    name = "approximate search"
    if not all(figure in _replicated(side) for side in (ours, exact)):
        return not_computed(name, "search is exact, or no users were held out")
    approximate, truly = (np.array(side["replicates"][figure], np.float64) for side in (ours, exact))
    had, has, users = (exact["figures"].get(figure), ours["figures"].get(figure), ours["figures"].get("users"))
    if reason := _unusable(recall_by_exact_search=had, recall_by_the_index=has, gates_max_ann_loss=most_lost):
        return not_computed(name, reason, expected=False)
    if len(approximate) != len(truly):
        return not_computed(name, "the searches have unequal numbers of bootstrap replicates", expected=False)
    low, high = interval(approximate - (1 - most_lost) * truly)
    if reason := _unusable(the_lower_end_of_the_interval=low, its_upper_end=high):
        return not_computed(name, reason, expected=False)
    if users is not None and users < MIN_USERS:
        return not_computed(name, _FEW_USERS)
    return _gate(
        name,
        (had - has) / had if had else 0.0,
        ok=_upper(has - (1 - most_lost) * had, high, users) >= 0,
        bound=f"at most {most_lost:g} of it beyond doubt (gates.max_ann_loss)",
        said=f"{figure} by exact search is {had:.4f} and by the index {has:.4f}",
        look="raise index.recall, and see whether the index is of tonight's vectors",
    )


def users(*, before: int, tonight: int, most_lost: float) -> Gate:
    """How many users were served the night before and would be tonight."""
    name = "users"
    if reason := _unusable(users_before=before, users_tonight=tonight, gates_max_users_lost=most_lost):
        return not_computed(name, reason, expected=False)
    if before <= 0:
        return not_computed(name, "the night before served nobody", expected=False)
    lost = 1 - tonight / before
    return _gate(
        name,
        lost,
        ok=lost <= most_lost,
        bound=f"at most {most_lost:g} fewer (gates.max_users_lost)",
        said=f"{tonight:,} users would be served, {before:,} were the night before ({-lost:+.1%})",
        look="look at the volumes of the last days in the report: files may be missing, or users.parquet renamed ids",
    )


def coverage(*, distinct: int, lists: int, length: int, candidates: int, least: float) -> Gate:
    """distinct: videos in `lists` lists of `length` videos, of `candidates` that may be shown."""
    name = "coverage"
    numbers = {"distinct_videos": distinct, "lists": lists, "length": length, "candidates": candidates}
    if reason := _unusable(**numbers, gates_min_coverage=least):
        return not_computed(name, reason, expected=False)
    could = min(candidates, lists * length)
    value = distinct / could if could > 0 else 0.0
    return _gate(
        name,
        value,
        ok=value >= least,
        bound=f"at least {least:g} (gates.min_coverage)",
        said=f"{distinct:,} distinct videos in {lists:,} lists, of {could:,} that could be ({value:.3f})",
        look="the model shows few videos to everyone: look at the training curve and at the biases of the videos, and "
        "at index.only",
    )


def list_overlap_gate(value: float | None, *, most: float) -> Gate:
    """value: `alike` of the lists."""
    name = "sameness"
    if value is None:
        reason = f"lists are nearly as long as there are videos to show, or there are fewer than {MIN_USERS}"
        return not_computed(name, reason)
    if reason := _unusable(sameness=value, gates_max_sameness=most):
        return not_computed(name, reason, expected=False)
    return _gate(
        name,
        value,
        ok=value <= most,
        bound=f"at most {most:g} (gates.max_sameness)",
        said=f"two users' lists are alike by {value:.3f} (0: as by chance, 1: the same list for everyone)",
        look="the users' vectors hardly differ: look at whether the serving records have histories, and at the "
        "training curve",
    )


def list_overlap(shown: pl.Series, *, lists: int, candidates: int) -> float | None:
    """The mean share that two users' lists have in common, above chance: 0 as by chance, 1 the same for all.

    shown: how many of the `lists` lists hold each video. None if chance alone gives more than half.
    """
    counts = shown.cast(pl.Float64)
    length = float(counts.sum()) / max(1, lists)
    chance = length / max(1, candidates)
    if lists < 2 or not length or chance > 0.5:
        return None
    pairs = float((counts * (counts - 1)).sum()) / (lists * (lists - 1))
    return (pairs / length - chance) / (1 - chance)


def retention(value: float | None, *, least: float, most: float, places: int | None = None) -> Gate:
    """value: the mean share of a user's list that was in it the night before; None without lists of such a night, or
    if lists are nearly as long as there are videos to show. places: in all these lists together, for the 95 % interval
    of the share; None: the share is taken as exact."""
    name = "stayed"
    if value is None:
        reason = "there are no lists of a night before to compare with, or too few videos to choose from"
        return not_computed(name, reason)
    counted = {} if places is None else {"places_in_lists": places}
    if reason := _unusable(share_that_stayed=value, gates_min_stayed=least, gates_max_stayed=most, **counted):
        return not_computed(name, reason, expected=False)
    low, high = (value, value) if places is None else share_bounds(value, places)
    return _gate(
        name,
        value,
        ok=high >= least and low <= most,
        bound=f"{least:g} to {most:g} (gates.min_stayed, max_stayed)",
        said=f"{value:.1%} of a user's list stayed from the night before, on average",
        look="too little: the model did not go on from the one before (see training in the report), or ids changed; "
        "too much: no new day was learned from",
    )


def rejects(*, read: int, reasons: Mapping[str, int], most: float) -> Gate:
    """read: rows of all tables; reasons: rows refused by why."""
    name = "rejects"
    refused = sum(reasons.values())
    if reason := _unusable(rows_read=read, rows_refused=refused, gates_max_rejects=most):
        return not_computed(name, reason, expected=False)
    if read <= 0 < refused:
        return not_computed(name, f"{refused:,} rows were refused of {read:,} read", expected=False)
    share = refused / read if read > 0 else 0.0
    listed = "; ".join(f"{rows:,} x {why}" for why, rows in reasons.items())
    return _gate(
        name,
        share,
        ok=share <= most,
        bound=f"at most {most:g} (gates.max_rejects)",
        said=f"{refused:,} of {read:,} rows were refused ({share:.2%})",
        look=f"{listed}; they are listed in the night's rejects/",
    )


def same_night(troubles: Sequence[str]) -> Gate:
    """troubles: what was not made from what, in words."""
    return Gate(
        name="same night",
        value=None,
        bound="all of one training (gates.same_night)",
        state="failed" if troubles else "passed",
        message="gate same night: model, index and lists are of one training"
        if not troubles
        else f"gate same night: {'; '.join(troubles)}, bound: all of one training (gates.same_night): run the night "
        "again from train, and copy no folder of one night to another",
    )


def volume(table: str, days: Sequence[int], *, least: float, most: float) -> Gate:
    """days: events of the last whole days, the newest last; 0 for `least` or `most`: no such bound."""
    name = f"volume of {table}"
    if len(days) < 4:
        return not_computed(name, "fewer than 3 days lie before the newest one")
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
        said=f"{newest:,} {table} on the newest day, {few:,} to {many:,} on those before",
        look="see whether all files of that day are there and none was sent twice; then run it again with --reingest "
        "DAY",
    )


def skew(feature: str, train: Mapping[str, int], serving: Mapping[str, int], *, most: float) -> Gate:
    """Users by class of a feature, in their newest training record and as they are served (`skew.histograms`).

    It fails if the index is above the bound beyond doubt: above what chance gives between as few users if the true
    index is at the bound.
    """
    name = f"skew of {feature}"
    counts = [n for side in (train, serving) for n in side.values()]
    numbers = {f"count_{place}": n for place, n in enumerate(counts, 1)}
    if reason := _unusable(**numbers, gates_max_skew=most) or _no_counts(counts):
        return not_computed(name, reason, expected=False)
    if not sum(train.values()) or not sum(serving.values()):
        return not_computed(name, "nobody is both trained on and served")
    value, doubt = stability_index(train, serving), stability_bound(train, serving, max(0.0, most))
    return _gate(
        name,
        value,
        ok=value <= doubt,
        bound=f"at most {most:g} beyond doubt, which is {doubt:.3f} with so many users (gates.max_skew)",
        said=f"the population stability index between training and serving is {value:.3f}",
        look=f"see what changed in {feature} in the newest day's logs or in the users table; classes and users: "
        f"trained on {_classes(train)}, served {_classes(serving)}",
    )


def _no_counts(numbers: Sequence[float]) -> str:
    wrong = (number for number in numbers if not 0 <= number < 2**53 or number != int(number))
    return next((f"{number!r} is not a count of users" for number in wrong), "")


def _classes(users: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {n:,}" for name, n in sorted(users.items(), key=lambda one: -one[1])[:5])


def _unusable_interval(difference: Mapping[str, Any]) -> str:
    return _unusable(**{f"{part}_of_the_difference": difference.get(part) for part in ("value", "low", "high")})


def _upper(value: float, high: float, users: int | None) -> float:
    """The upper end of an interval about a value, widened as so few users need."""
    return high if users is None else value + (high - value) * small_sample_factor(users)


def _signed(difference: Mapping[str, float]) -> str:
    return "{value:+.4f} ({low:+.4f} to {high:+.4f})".format_map(difference)
