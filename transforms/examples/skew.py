"""Training-serving skew: compare the distribution of each feature in training and serving records.

The newest training record of each user is compared with the user's serving record, so that differences come from the
computation of features and not from different users. The label counts as watched, because it is when the user is
served. Users without a watch before the label are excluded, as almost nothing was known about them. Example age is
excluded because it differs by design (paper, 3.3). Counts merge exactly.

    users = merge_histograms([histograms(train, serving, spec) for train, serving in buckets])
    stability_index(*users["country"].values())
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from transforms.contracts.example_spec import MISSING, FeatureSpec

WATCHES, TOKENS = "watch history", "search history"
SIDES = ("train", "serving")
MAX_VALUES = 20  # values of a category with a class each; the others share one
_LENGTHS = (0, 1, 5, 20, 50)  # lower bounds of the classes of history lengths
_TENTHS = 10  # classes of a number
_Z = 1.959964  # the 97.5 % quantile of the normal distribution
_MAX_INDEX = 1e6  # far above the index of any two histograms
_PRIOR = 0.5  # users added to every class, so that an empty class does not give an infinite index

Histograms = dict[str, dict[str, dict[str, int]]]  # feature -> one of `SIDES` -> class -> users


def last_pointers(pointers: pl.DataFrame) -> pl.DataFrame:
    """Return the newest pointer of each user, which is the one with the longest history."""
    return pointers.sort("watches_end").unique("user_id", keep="last", maintain_order=True)


def histograms(train: pl.DataFrame, serving: pl.DataFrame, spec: FeatureSpec) -> Histograms:
    """Count users by class of each feature of the model, in their newest training record and in their serving record.

    train, serving: encoded pointers, one per user: user_id, watches_end, tokens_end, codes of categories, and numbers.
    Users who occur on one side only are not counted.
    """
    known = train.filter(pl.col("watches_end") > 0).join(serving, on="user_id", how="semi")
    sides = {"train": known, "serving": serving.join(known, on="user_id", how="semi")}
    result: Histograms = {}
    for side, pointers in sides.items():
        for feature, classes in _classes(pointers, spec, watched=int(side == "train")).items():
            users = classes.cast(pl.String).value_counts(name="users")
            result.setdefault(feature, {})[side] = dict(sorted(users.iter_rows()))
    return result


def _classes(pointers: pl.DataFrame, spec: FeatureSpec, *, watched: int) -> dict[str, pl.Series]:
    """Return each feature's class of each user. watched: the number of watches to add to the history, for the label."""
    classes = {WATCHES: _length_classes(pointers["watches_end"] + watched, spec.watch_history)}
    if spec.tokens:
        classes[TOKENS] = _length_classes(pointers["tokens_end"], spec.search_history)
    for name in spec.categories:
        classes[name] = pointers[name].clip(upper_bound=MAX_VALUES + 1)
    for name in spec.numbers:
        tenths = (pointers[name] * _TENTHS).floor().clip(0, _TENTHS - 1).cast(pl.Int64)
        known = pl.Series(pointers[name] != MISSING)
        classes[name] = pl.select(pl.when(known).then(tenths).otherwise(pl.lit(-1))).to_series()
    return classes


def _length_classes(lengths: pl.Series, max_length: int) -> pl.Series:
    """Return the lower bound of the class of each length, truncated to the model's `max_length`."""
    bounds = pl.Series(_LENGTHS)
    return bounds.gather(bounds.search_sorted(lengths.clip(upper_bound=max_length), side="right") - 1)


def merge_histograms(parts: Iterable[Histograms]) -> Histograms:
    """Add histograms of disjoint users."""
    sums: dict[str, dict[str, Counter[str]]] = {}
    for part in parts:
        for feature, sides in part.items():
            for side, users in sides.items():
                sums.setdefault(feature, {}).setdefault(side, Counter()).update(users)
    return {feature: {side: dict(users) for side, users in sides.items()} for feature, sides in sums.items()}


def stability_index(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Return the population stability index of two histograms: the sum of (p - q) log(p / q), 0 for equal shares.

    By convention, values below 0.1 mean no change and values above 0.25 a large one.
    """
    classes = sorted({*one, *other})
    p, q = (_shares([side.get(name, 0) for name in classes]) for side in (one, other))
    return math.fsum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))


def stability_bound(one: Mapping[str, int], other: Mapping[str, int], most: float) -> float:
    """Return the 97.5 % quantile of the stability index of two samples whose distributions have the index `most`.

    It is at least `most`, and close to it for many users. With n and m users and c classes, n m / (n + m) times the
    index is approximately noncentral chi-square distributed, with c - 1 degrees of freedom and n m / (n + m) times the
    true index as noncentrality. Its quantile is approximated by a scaled chi-square distribution of the same mean and
    variance (Patnaik, 1949) and the cube root of Wilson and Hilferty (1931).
    """
    n, m = sum(one.values()), sum(other.values())
    freedom = max(1, len({*one, *other}) - 1)
    size = n * m / (n + m)
    noncentrality = size * min(most, _MAX_INDEX)
    scale = (freedom + 2 * noncentrality) / (freedom + noncentrality)
    matched_freedom = (freedom + noncentrality) / scale
    variance = 2 / (9 * matched_freedom)
    quantile = scale * matched_freedom * (1 - variance + _Z * math.sqrt(variance)) ** 3
    return max(most, quantile / size)


def _shares(users: Sequence[int]) -> list[float]:
    total = sum(users) + _PRIOR * len(users)
    return [(n + _PRIOR) / total for n in users]
