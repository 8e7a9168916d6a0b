"""How well impressions are ranked and their watch time predicted: a value made from some users, merged, computed once.

As in `transforms.contracts.retrieval_metrics`, all sums are integers, so merging is exact. Imports numpy only.

    metrics = ImpressionMetrics.empty()
    for user, page, clicked, watch_seconds, log_odds in parts:
        metrics = metrics.merge(ImpressionMetrics.of(user, page, clicked, watch_seconds, log_odds))
    metrics.compute()["per_user_loss"]

The paper's measure (4.3) is over pairs: of a clicked and an unclicked impression of one user on one page. Where the
unclicked one has the higher score, the watch time of the clicked one is mispredicted; half of it where both have the
same. The per-user loss is the mispredicted share of the watch time of all pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transforms.contracts.retrieval_metrics import UNIT

BINS = 4_096  # of log-odds: what AUC and calibration are made of
LIMIT = 20.48  # predictions beyond e^20 seconds, fifteen years, are one bin; bins are 0.01 wide
DECILES = 10
MILLISECONDS = 1_000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PairLosses:
    """What each impression adds to the per-user loss, [impressions]; 0 for those without a click."""

    pairs: Ints  # unclicked impressions on the same page
    mispredicted: Ints  # half milliseconds: of those with a higher score, and half for those with the same
    total: Ints  # half milliseconds: of all pairs

    @classmethod
    def of(
        cls,
        user: NDArray[Any],
        page: NDArray[Any],
        clicked: NDArray[Any],
        watch_seconds: NDArray[Any],
        scores: NDArray[Any],
    ) -> PairLosses:
        """All [impressions], in any order. user, page: integers, a page being one of its user alone. scores: any that
        rise with what is expected. Raises ValueError where scores are NaN: they have no order."""
        if np.isnan(scores).any():
            raise ValueError(f"scores must be numbers, but {int(np.isnan(scores).sum())} of {len(scores)} are NaN")
        clicked = np.asarray(clicked, bool)
        pages = _page_codes(user, page)
        place, first = _places(pages, scores)
        unclicked = np.sort(place[~clicked])
        before, through = np.searchsorted(unclicked, first), np.searchsorted(unclicked, place, "right")
        below = np.searchsorted(unclicked, place, "left")
        pairs = np.bincount(pages[~clicked], minlength=len(pages) + 1)[pages] * clicked
        higher, ties = pairs - (through - before), through - below
        duration = np.rint(np.asarray(watch_seconds, np.float64) * MILLISECONDS).astype(np.int64) * clicked
        return cls(pairs=pairs, mispredicted=duration * (2 * higher + ties), total=2 * duration * pairs)

    def by_user(self, user: NDArray[Any]) -> tuple[Ints, Ints]:
        """(mispredicted, total) of each user, [users]: what intervals over users are drawn from."""
        users, place = np.unique(user, return_inverse=True)
        sums = [np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)]
        for total, values in zip(sums, (self.mispredicted, self.total), strict=True):
            np.add.at(total, place, values)
        return sums[0], sums[1]


@dataclass(frozen=True, kw_only=True)
class ImpressionMetrics:
    """Per-user loss, NDCG by watch time, AUC and calibration of impressions; of everything the sums."""

    users: int
    pages: int  # with something watched: what NDCG is a mean over
    pairs: int
    mispredicted: int  # half milliseconds
    total: int
    ndcg_sum: int  # in units of 2**-40
    # By bin of log-odds, [BINS]: impressions, clicked ones, and milliseconds predicted and watched.
    impressions: Ints
    clicks: Ints
    predicted: Ints
    watched: Ints

    @classmethod
    def empty(cls) -> ImpressionMetrics:
        """No impressions yet: what every merge may start from."""
        none = np.zeros(BINS, np.int64)
        return cls(
            users=0,
            pages=0,
            pairs=0,
            mispredicted=0,
            total=0,
            ndcg_sum=0,
            impressions=none,
            clicks=none,
            predicted=none,
            watched=none,
        )

    @classmethod
    def of(
        cls,
        user: NDArray[Any],
        page: NDArray[Any],
        clicked: NDArray[Any],
        watch_seconds: NDArray[Any],
        log_odds: NDArray[Any],
    ) -> ImpressionMetrics:
        """Of impressions, [n] each, as `PairLosses.of` takes them; exp(log_odds) are predicted seconds.

        All impressions of a user must be in the same part.
        """
        losses = PairLosses.of(user, page, clicked, watch_seconds, log_odds)
        clicked, seconds = np.asarray(clicked, np.int64), np.asarray(watch_seconds, np.float64)
        ndcg = page_ndcg(user, page, seconds, log_odds)
        limited = np.clip(np.asarray(log_odds, np.float64), -LIMIT, LIMIT)
        bins = np.minimum((limited + LIMIT) / (2 * LIMIT) * BINS, BINS - 1).astype(np.int64)

        def by_bin(values: NDArray[Any]) -> Ints:
            sums = np.zeros(BINS, np.int64)
            np.add.at(sums, bins, np.rint(values).astype(np.int64))
            return sums

        return cls(
            users=len(np.unique(user)),
            pages=len(ndcg),
            pairs=int(losses.pairs.sum()),
            mispredicted=int(losses.mispredicted.sum()),
            total=int(losses.total.sum()),
            ndcg_sum=int(np.rint(ndcg / UNIT).astype(np.int64).sum()),
            impressions=by_bin(np.ones(len(bins))),
            clicks=by_bin(clicked),
            predicted=by_bin(np.exp(limited) * MILLISECONDS),
            watched=by_bin(seconds * MILLISECONDS),
        )

    def merge(self, other: ImpressionMetrics) -> ImpressionMetrics:
        """Those of the users of both, exactly: associative and commutative. The users must be disjoint."""
        added = {name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        return ImpressionMetrics(**added)

    def compute(self) -> dict[str, float]:
        """users, impressions, clicks, pages, pairs; and where there is something to divide by: per_user_loss, ndcg,
        auc (clicked against not, to a hundredth of the log-odds), predicted_seconds and watched_seconds (means)."""
        shown, clicks = int(self.impressions.sum()), int(self.clicks.sum())
        figures: dict[str, float] = {"users": self.users, "impressions": shown, "clicks": clicks}
        figures |= {"pages": self.pages, "pairs": self.pairs}
        if self.total:
            figures["per_user_loss"] = self.mispredicted / self.total
        if self.pages:
            figures["ndcg"] = self.ndcg_sum * UNIT / self.pages
        if 0 < clicks < shown:
            unclicked = self.impressions - self.clicks
            below = np.cumsum(unclicked) - unclicked
            figures["auc"] = float((self.clicks * (below + unclicked / 2)).sum() / clicks / (shown - clicks))
        if shown:
            figures["predicted_seconds"] = int(self.predicted.sum()) / MILLISECONDS / shown
            figures["watched_seconds"] = int(self.watched.sum()) / MILLISECONDS / shown
        return figures

    def calibration(self) -> list[dict[str, int | float]]:
        """Up to ten classes of impressions by what was predicted, lowest first, about as many in each: impressions,
        predicted_seconds and watched_seconds (means)."""
        middle = np.cumsum(self.impressions) - self.impressions / 2
        decile = np.minimum(DECILES * middle / max(self.impressions.sum(), 1), DECILES - 1).astype(np.int64)
        classes: list[dict[str, int | float]] = []
        for number in range(DECILES):
            of = decile == number
            if count := int(self.impressions[of].sum()):
                predicted, watched = int(self.predicted[of].sum()), int(self.watched[of].sum())
                classes.append(
                    {
                        "impressions": count,
                        "predicted_seconds": predicted / MILLISECONDS / count,
                        "watched_seconds": watched / MILLISECONDS / count,
                    }
                )
        return classes


def merge_impressions(parts: Iterable[ImpressionMetrics]) -> ImpressionMetrics:
    """All parts as one; `empty()` where there are none."""
    return reduce(ImpressionMetrics.merge, parts, ImpressionMetrics.empty())


def page_ndcg(
    user: NDArray[Any], page: NDArray[Any], watch_seconds: NDArray[Any], scores: NDArray[Any]
) -> NDArray[np.float64]:
    """NDCG of each page on which something was watched, in order of (user, page): gains are seconds, discounts
    1 / log2(rank + 1). Impressions with the same score share the mean of their discounts."""
    pages = _page_codes(user, page)
    seconds = np.asarray(watch_seconds, np.float64)
    count = int(pages.max(initial=-1)) + 1
    place, _ = _places(pages, -np.asarray(scores, np.float64))
    _, tied, ties = np.unique(place, return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    discounts = np.empty(len(pages))
    discounts[order] = _discounts(pages[order])
    shared = np.bincount(tied, weights=discounts, minlength=len(ties)) / ties
    found = np.bincount(pages, weights=seconds * shared[tied], minlength=count)
    best = np.lexsort((-seconds, pages))
    ideal = np.bincount(pages[best], weights=seconds[best] * _discounts(pages[best]), minlength=count)
    return np.asarray(found[ideal > 0] / ideal[ideal > 0])


def _discounts(pages: Ints) -> Floats:
    """Of impressions side by side by page, best first."""
    first = np.searchsorted(pages, pages)
    return np.asarray(1 / np.log2(np.arange(len(pages)) - first + 2.0))


def _page_codes(user: NDArray[Any], page: NDArray[Any]) -> Ints:
    """Whole numbers from 0 on, one a (user, page), rising with both."""
    places = np.unique(user, return_inverse=True)[1]
    numbers, of_page = np.unique(page, return_inverse=True)
    keys = places.astype(np.int64) * max(len(numbers), 1) + of_page
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _places(pages: Ints, scores: NDArray[Any]) -> tuple[Ints, Ints]:
    """(place, first): numbers that rise with page and then with score, the same for the same score on a page; and the
    lowest of each one's page."""
    order = np.lexsort((scores, pages))
    by_page, by_score = pages[order], np.asarray(scores)[order]
    new = np.ones(len(order), bool)
    new[1:] = (by_page[1:] != by_page[:-1]) | (by_score[1:] != by_score[:-1])
    numbers = np.cumsum(new) - 1
    place, first = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    place[order] = numbers
    first[order] = numbers[np.searchsorted(by_page, by_page)]
    return place, first
