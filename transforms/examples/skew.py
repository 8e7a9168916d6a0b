"""Whether a model is served what it was trained on: each feature's values in training and in serving records.

Compared are the same users on both sides: the newest training record of each, and the one they are served with. What
differs then is how the two were made, and not who watches much. The label counts as watched, as it is when the user is
served; users who had watched nothing before it are left out, as next to nothing was known of them. Example age is left
out too: it differs by design (paper, 3.3). Counts merge exactly.

    found = total([histograms(train, serving, spec) for train, serving in buckets])
    stability_index(*found["country"].values())
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from transforms.contracts.example_spec import MISSING, FeatureSpec

WATCHES, TOKENS = "watch history", "search history"
SIDES = ("train", "serving")
MOST_VALUES = 20  # of a category that are told apart
_LENGTHS = (0, 1, 5, 20, 50)  # where classes of a history's length begin
_TENTHS = 10  # classes of a number
_Z = 1.959964  # 97.5 % of a normal distribution lie below
_LARGEST = 1e6  # index that a bound is computed for: far above that of any two histograms
_PRIOR = 0.5  # users added to every class: an empty one is no infinite difference

Histograms = dict[str, dict[str, dict[str, int]]]  # feature -> one of `SIDES` -> class -> users


def last_of_users(pointers: pl.DataFrame) -> pl.DataFrame:
    """The newest pointer of each user: the one with the longest past."""
    return pointers.sort("watches_end").unique("user_id", keep="last", maintain_order=True)


def histograms(train: pl.DataFrame, serving: pl.DataFrame, spec: FeatureSpec) -> Histograms:
    """How many users are of which class of each feature of the model, in their newest training record and as served.

    train, serving: encoded pointers, one a user: user_id, watches_end, tokens_end, the categories' codes, the numbers.
    Users of one side alone do not count.
    """
    known = train.filter(pl.col("watches_end") > 0).join(serving, on="user_id", how="semi")
    sides = {"train": known, "serving": serving.join(known, on="user_id", how="semi")}
    found: Histograms = {}
    for side, pointers in sides.items():
        for feature, classes in _classes(pointers, spec, watched=int(side == "train")).items():
            counted = classes.cast(pl.String).value_counts(name="users")
            found.setdefault(feature, {})[side] = dict(sorted(counted.iter_rows()))
    return found


def _classes(pointers: pl.DataFrame, spec: FeatureSpec, *, watched: int) -> dict[str, pl.Series]:
    """Each feature's class, user by user. watched: by how much a past is longer once its label is watched."""
    found = {WATCHES: _lengths(pointers["watches_end"] + watched, spec.watch_history)}
    if spec.tokens:
        found[TOKENS] = _lengths(pointers["tokens_end"], spec.search_history)
    for name in spec.categories:
        found[name] = pointers[name].clip(upper_bound=MOST_VALUES + 1)
    for name in spec.numbers:
        tenths = (pointers[name] * _TENTHS).floor().clip(0, _TENTHS - 1).cast(pl.Int64)
        known = pl.Series(pointers[name] != MISSING)
        found[name] = pl.select(pl.when(known).then(tenths).otherwise(pl.lit(-1))).to_series()
    return found


def _lengths(lengths: pl.Series, most: int) -> pl.Series:
    """Where the class of each length begins, of what an input of `most` holds of it."""
    begins = pl.Series(_LENGTHS)
    return begins.gather(begins.search_sorted(lengths.clip(upper_bound=most), side="right") - 1)


def total(parts: Iterable[Histograms]) -> Histograms:
    """All parts as one. The users must be disjoint."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for part in parts:
        for feature, sides in part.items():
            for side, users in sides.items():
                found.setdefault(feature, {}).setdefault(side, Counter()).update(users)
    return {feature: {side: dict(users) for side, users in sides.items()} for feature, sides in found.items()}


def stability_index(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """The population stability index of two histograms: sum of (p - q) log(p / q), 0 for the same shares. Custom has it
    that below 0.1 nothing and above 0.25 much has changed."""
    classes = sorted({*one, *other})
    p, q = (_shares([side.get(name, 0) for name in classes]) for side in (one, other))
    return math.fsum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))


def stability_bound(one: Mapping[str, int], other: Mapping[str, int], most: float) -> float:
    """The largest stability index that chance gives two histograms of so many users in 97.5 % of cases, if that of the
    distributions they were drawn from is `most`. Never below `most`, and near it for many users.

    With n and m users and c classes, n m / (n + m) times the index is about noncentral chi-square distributed, with
    c - 1 degrees of freedom and n m / (n + m) times the true index as noncentrality. Its quantile is that of a scaled
    chi-square distribution of the same mean and variance (Patnaik, 1949), by Wilson's and Hilferty's cube root (1931).
    """
    n, m = sum(one.values()), sum(other.values())
    free = max(1, len({*one, *other}) - 1)
    pairs = n * m / (n + m)
    shift = pairs * min(most, _LARGEST)
    scale = (free + 2 * shift) / (free + shift)
    matched = (free + shift) / scale
    spread = 2 / (9 * matched)
    quantile = scale * matched * (1 - spread + _Z * math.sqrt(spread)) ** 3
    return max(most, quantile / pairs)


def _shares(users: Sequence[int]) -> list[float]:
    whole = sum(users) + _PRIOR * len(users)
    return [(n + _PRIOR) / whole for n in users]
