"""Gates: what a night is held against before it is published. A small function each, from figures to a `Gate`.

found = [
    users(before=100_000, tonight=64_000, most_lost=0.2),
    sameness(alike(lists, candidates=20_000), most=0.8),
]
[gate.message for gate in found if gate.ok is False]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from transforms.bootstrap import Floats, interval
from transforms.skew import stability_index


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What one gate found."""

    name: str
    value: float | None  # None where there is nothing to compare, and of gates that compare no figures
    bound: str  # as people read it, with its setting
    ok: bool | None  # None: it could not be computed, or is off
    message: str  # which gate, the value, the bound, what to look at; of one that was not computed, why not


def skipped(name: str, why: str) -> Gate:
    """A gate that says nothing about the night."""
    return Gate(name=name, value=None, bound="", ok=None, message=f"gate {name}: not computed: {why}")


def _gate(name: str, value: float, *, ok: bool, bound: str, said: str, look: str) -> Gate:
    after = "" if ok else f": {look}"
    return Gate(name=name, value=value, bound=bound, ok=ok, message=f"gate {name}: {said}, bound: {bound}{after}")


def most_popular(beside: Mapping[str, float] | None, figure: str) -> Gate:
    """beside: value, low, high of the lists' figure less that of the most popular videos; None where nobody was held
    out."""
    name = "most popular"
    if beside is None:
        return skipped(name, "no users were held out")
    return _gate(
        name,
        beside["value"],
        ok=not beside["high"] < 0,
        bound="not below 0 beyond doubt (gates.most_popular)",
        said=f"{figure} less that of the most popular videos is {_signed(beside)}",
        look="the training did not work, or its labels are wrong: look at the training curve in the report, and "
        "whether model, index and examples are of the same logs",
    )


def ranking(found: Mapping[str, Any] | None, cut: int) -> Gate:
    """found: what `ranking_recall.WatchTime.to_json` says; None where nothing was ranked or nobody was held out."""
    if not found or not found["wanted_seconds"]:
        return skipped("ranking", "no lists were ranked, or no users were held out")
    more = found["difference"]
    return _gate(
        "ranking",
        more["value"],
        ok=not more["high"] < 0,
        bound="not below 0 beyond doubt (gates.ranking)",
        said=f"the first {cut} of ranked lists hold {_signed(more)} more of held-out users' watch time than those "
        f"of the neighbours, {found['neighbours']['recall']:.4f}",
        look="look at the ranker's figures in the report; candidates = 0 ([ranking]) serves the neighbours' order",
    )


@dataclass(frozen=True)
class MeasuredNight:
    """What `measured.Measured.to_json` says of a night's lists and, for the same users, of the most popular videos."""

    lists: Mapping[str, Any]
    popular: Mapping[str, Any]


def recall_before(tonight: MeasuredNight, before: MeasuredNight, figure: str, *, most_lost: float) -> Gate:
    """Two nights are measured on two days, of which one is harder: where the most popular videos lost as well, the
    lists may lose as large a share. Replicate by replicate, which are of the same users."""
    name = "recall"
    sides = [side for night in (tonight, before) for side in (night.lists, night.popular)]
    kept = [side.get("replicates", {}).get(figure) for side in sides]
    if not all(kept):
        return skipped(name, f"there is no {figure} with replicates of both nights")
    ours, popular, theirs, popular_before = (np.array(values, np.float64) for values in kept)
    low, high = interval(ours - (1 - most_lost) * theirs * _harder(popular, popular_before))
    has, popular_has, had, popular_had = (side["figures"][figure] for side in sides)
    harder = float(_harder(np.array([popular_has]), np.array([popular_had]))[0])
    return _gate(
        name,
        has - had,
        ok=not high < 0,
        bound=f"not below {(1 - most_lost) * had * harder:.4f} beyond doubt (gates.max_recall_lost = {most_lost:g})",
        said=f"{figure} is {has:.4f}, and was {had:.4f} the night before, that of the most popular videos "
        f"{popular_has:.4f} and {popular_had:.4f}; the lists are above the bound by {low:+.4f} to {high:+.4f}",
        look="look at the training curves of both nights, at what changed in the job file, and at the volumes and "
        "slices in the report",
    )


def _harder(popular: Floats, before: Floats) -> Floats:
    """What the most popular videos kept of their figure of the night before, 1 at most: [n]."""
    kept = np.divide(popular, before, out=np.ones_like(popular), where=before > 0)
    return np.minimum(kept, 1)


def ann_recall(recall: float, *, wanted: float, most_short: float) -> Gate:
    """recall: of the index against exact search, as measured when it was built."""
    return _gate(
        "index recall",
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
    kept = [side.get("replicates", {}).get(figure) for side in (ours, exact)]
    if not all(kept):
        return skipped(name, "search is exact, or no users were held out")
    approximate, truly = (np.array(values, np.float64) for values in kept)
    _low, high = interval(approximate - (1 - most_lost) * truly)
    had, has = exact["figures"][figure], ours["figures"][figure]
    return _gate(
        name,
        (had - has) / had if had else 0.0,
        ok=not high < 0,
        bound=f"at most {most_lost:g} of it beyond doubt (gates.max_ann_loss)",
        said=f"{figure} by exact search is {had:.4f} and by the index {has:.4f}",
        look="raise index.recall, and see whether the index is of tonight's vectors",
    )


def users(*, before: int, tonight: int, most_lost: float) -> Gate:
    """How many users were served the night before and would be tonight."""
    lost = 1 - tonight / before if before else 0.0
    return _gate(
        "users",
        lost,
        ok=lost <= most_lost,
        bound=f"at most {most_lost:g} fewer (gates.max_users_lost)",
        said=f"{tonight:,} users would be served, {before:,} were the night before ({-lost:+.1%})",
        look="look at the volumes of the last days in the report: files may be missing, or users.parquet renamed ids",
    )


def coverage(*, distinct: int, lists: int, length: int, candidates: int, least: float) -> Gate:
    """distinct: videos in `lists` lists of `length` videos, of `candidates` that may be shown."""
    could = min(candidates, lists * length)
    value = distinct / could if could else 0.0
    return _gate(
        "coverage",
        value,
        ok=value >= least,
        bound=f"at least {least:g} (gates.min_coverage)",
        said=f"{distinct:,} distinct videos in {lists:,} lists, of {could:,} that could be ({value:.3f})",
        look="the model shows few videos to everyone: look at the training curve and at the biases of the videos, and "
        "at index.only",
    )


def sameness(value: float | None, *, most: float) -> Gate:
    """value: `alike` of the lists."""
    name = "sameness"
    if value is None:
        return skipped(name, "lists are nearly as long as there are videos to show, or there are fewer than two")
    return _gate(
        name,
        value,
        ok=value <= most,
        bound=f"at most {most:g} (gates.max_sameness)",
        said=f"two users' lists are alike by {value:.3f} (0: as by chance, 1: the same list for everyone)",
        look="the users' vectors hardly differ: look at whether the serving records have histories, and at the "
        "training curve",
    )


def alike(shown: pl.Series, *, lists: int, candidates: int) -> float | None:
    """The mean share that two users' lists have in common, above chance: 0 as by chance, 1 the same for all.

    shown: how many of the `lists` lists hold each video. None where chance alone gives more than half.
    """
    counts = shown.cast(pl.Float64)
    length = float(counts.sum()) / max(1, lists)
    chance = length / max(1, candidates)
    if lists < 2 or not length or chance > 0.5:
        return None
    pairs = float((counts * (counts - 1)).sum()) / (lists * (lists - 1))
    return (pairs / length - chance) / (1 - chance)


def stayed(value: float | None, *, least: float, most: float) -> Gate:
    """value: the mean share of a user's list that was in it the night before; None without lists of such a night, or
    where lists are nearly as long as there are videos to show."""
    name = "stayed"
    if value is None:
        return skipped(name, "there are no lists of a night before to compare with, or too few videos to choose from")
    return _gate(
        name,
        value,
        ok=least <= value <= most,
        bound=f"{least:g} to {most:g} (gates.min_stayed, max_stayed)",
        said=f"{value:.1%} of a user's list stayed from the night before, on average",
        look="too little: the model did not go on from the one before (see training in the report), or ids changed; "
        "too much: no new day was learned from",
    )


def rejects(*, read: int, reasons: Mapping[str, int], most: float) -> Gate:
    """read: rows of all tables; reasons: rows refused by why."""
    refused = sum(reasons.values())
    share = refused / read if read else 0.0
    listed = "; ".join(f"{rows:,} x {why}" for why, rows in reasons.items())
    return _gate(
        "rejects",
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
        ok=not troubles,
        message="gate same night: model, index and lists are of one training"
        if not troubles
        else f"gate same night: {'; '.join(troubles)}, bound: all of one training (gates.same_night): run the night "
        "again from train, and copy no folder of one night to another",
    )


def volume(table: str, days: Sequence[int], *, least: float, most: float) -> Gate:
    """days: events of the last whole days, the newest last; 0 for `least` or `most`: no such bound."""
    name = f"volume of {table}"
    if len(days) < 4:
        return skipped(name, "fewer than 3 days lie before the newest one")
    *before, newest = days
    few, many = min(before), max(before)
    value = newest / (few if newest < few else many if newest > many else newest) if newest or few else 1.0
    ok = newest >= least * few and (not most or newest <= most * many)
    return _gate(
        name,
        value,
        ok=ok,
        bound=f"{least:g} x the fewest to {most:g} x the most of the {len(before)} days before (gates.min_volume, "
        "max_volume)",
        said=f"{newest:,} {table} on the newest day, {few:,} to {many:,} on those before",
        look="see whether all files of that day are there and none was sent twice; then run it again with --reingest "
        "DAY",
    )


def skew(feature: str, train: Mapping[str, int], serving: Mapping[str, int], *, most: float) -> Gate:
    """Users by class of a feature, in their newest training record and as they are served (`skew.histograms`)."""
    name = f"skew of {feature}"
    if not train or not serving:
        return skipped(name, "nobody is both trained on and served")
    value = stability_index(train, serving)
    return _gate(
        name,
        value,
        ok=value <= most,
        bound=f"at most {most:g} (gates.max_skew)",
        said=f"the population stability index between training and serving is {value:.3f}",
        look=f"see what changed in {feature} in the newest day's logs or in the users table; classes and users: "
        f"trained on {_classes(train)}, served {_classes(serving)}",
    )


def _classes(users: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {n:,}" for name, n in sorted(users.items(), key=lambda one: -one[1])[:5])


def _signed(difference: Mapping[str, float]) -> str:
    value, low, high = (difference[part] for part in ("value", "low", "high"))
    if math.isnan(low):
        return f"{value:+.4f}"
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})"
