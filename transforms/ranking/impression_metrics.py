"""Metrics of ranked impressions and predicted watch times: computed from some users, merged, and evaluated once.

As in `transforms.contracts.retrieval_metrics`, all sums are integers, so merging is exact. Imports numpy only.

    metrics = ImpressionMetrics.empty()
    for user, page, clicked, watch_seconds, log_odds in parts:
        metrics = metrics.merge(ImpressionMetrics.from_impressions(user, page, clicked, watch_seconds, log_odds))
    metrics.compute()["per_user_loss"]

The paper's per-user loss (4.3) is over pairs of a clicked and an unclicked impression of one user on one page. If the
unclicked one has the higher score, the watch time of the clicked one is mispredicted; if both scores are equal, half of
it is. The loss is the mispredicted share of the watch time of all pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transforms.contracts.retrieval_metrics import UNIT

BINS = 4_096  # bins of log-odds, for AUC
MAX_LOG_ODDS = 20.48  # predictions beyond e^20 seconds, fifteen years, share a bin; bins are 0.01 wide
MILLISECONDS = 1_000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Column = NDArray[Any]  # [impressions]


@dataclass(frozen=True, kw_only=True)
class PairLosses:
    """The contribution of each impression to the per-user loss, [impressions]; 0 for those without a click."""

    pairs: Ints  # number of unclicked impressions on the same page
    mispredicted: Ints  # half milliseconds; one half per pair with equal scores, two per pair in the wrong order
    total: Ints  # half milliseconds; two per pair

    @classmethod
    def from_impressions(
        cls, user: Column, page: Column, clicked: Column, watch_seconds: Column, scores: Column
    ) -> PairLosses:
        """Compute the losses of impressions, in any order.

        user, page: integers; pages are numbered per user. scores: any that rise with the expected watch time. Raises
        ValueError if a score is NaN.
        """
        if np.isnan(scores).any():
            raise ValueError(f"scores must be numbers, but {int(np.isnan(scores).sum())} of {len(scores)} are NaN")
        clicked = np.asarray(clicked, bool)
        pages = _page_codes(user, page)
        rank, first = _score_ranks(pages, scores)
        unclicked = np.sort(rank[~clicked])
        before, through = np.searchsorted(unclicked, first), np.searchsorted(unclicked, rank, "right")
        below = np.searchsorted(unclicked, rank, "left")
        pairs = np.bincount(pages[~clicked], minlength=len(pages) + 1)[pages] * clicked
        higher, ties = pairs - (through - before), through - below
        duration = np.rint(np.asarray(watch_seconds, np.float64) * MILLISECONDS).astype(np.int64) * clicked
        return cls(pairs=pairs, mispredicted=duration * (2 * higher + ties), total=2 * duration * pairs)


@dataclass(frozen=True, kw_only=True)
class ImpressionMetrics:
    """Sums for per-user loss, NDCG by watch time, AUC and mean seconds of impressions."""

    users: int
    pages: int  # pages with watch time, over which NDCG is a mean
    pairs: int
    mispredicted: int  # half milliseconds
    total: int
    ndcg_sum: int  # in units of 2**-40
    predicted: int  # milliseconds
    watched: int
    # By bin of log-odds, [BINS].
    impressions: Ints
    clicks: Ints

    @classmethod
    def empty(cls) -> ImpressionMetrics:
        """Return the metrics of no impressions."""
        none = np.zeros(0)
        return cls.from_impressions(none, none, none, none, none)

    @classmethod
    def from_impressions(
        cls, user: Column, page: Column, clicked: Column, watch_seconds: Column, log_odds: Column
    ) -> ImpressionMetrics:
        """Compute the metrics of impressions; arguments as for `PairLosses`, and exp(log_odds) are predicted seconds.

        All impressions of a user must be in the same part.
        """
        losses = PairLosses.from_impressions(user, page, clicked, watch_seconds, log_odds)
        clicked, seconds = np.asarray(clicked, np.int64), np.asarray(watch_seconds, np.float64)
        ndcg = page_ndcg(user, page, seconds, log_odds)
        limited = np.clip(np.asarray(log_odds, np.float64), -MAX_LOG_ODDS, MAX_LOG_ODDS)
        bins = np.minimum((limited + MAX_LOG_ODDS) / (2 * MAX_LOG_ODDS) * BINS, BINS - 1).astype(np.int64)
        return cls(
            users=len(np.unique(user)),
            pages=len(ndcg),
            pairs=int(losses.pairs.sum()),
            mispredicted=int(losses.mispredicted.sum()),
            total=int(losses.total.sum()),
            ndcg_sum=int(np.rint(ndcg / UNIT).astype(np.int64).sum()),
            predicted=_milliseconds(np.exp(limited)),
            watched=_milliseconds(seconds),
            impressions=np.bincount(bins, minlength=BINS),
            clicks=np.bincount(bins[clicked == 1], minlength=BINS),
        )

    def merge(self, other: ImpressionMetrics) -> ImpressionMetrics:
        """Return the metrics of the users of both, which must be disjoint. Exact, associative and commutative."""
        added = {name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        return ImpressionMetrics(**added)

    def compute(self) -> dict[str, float]:
        """Return users, impressions, clicks, pages, pairs and, if their denominators are not 0, per_user_loss, ndcg,
        auc (of clicks, with log-odds rounded to hundredths), predicted_seconds and watched_seconds (means)."""
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
            figures["predicted_seconds"] = self.predicted / MILLISECONDS / shown
            figures["watched_seconds"] = self.watched / MILLISECONDS / shown
        return figures


def _milliseconds(seconds: Floats) -> int:
    """Return the sum of seconds, each rounded to milliseconds."""
    return int(np.rint(seconds * MILLISECONDS).astype(np.int64).sum())


def merge_impressions(parts: Iterable[ImpressionMetrics]) -> ImpressionMetrics:
    """Return all parts merged; `empty()` if there are none."""
    return reduce(ImpressionMetrics.merge, parts, ImpressionMetrics.empty())


def page_ndcg(user: Column, page: Column, watch_seconds: Column, scores: Column) -> Floats:
    """Return the NDCG of each page with watch time, ordered by user and page: [pages].

    Gains are seconds and discounts 1 / log2(rank + 1). Impressions with equal scores share the mean of their discounts.
    """
    pages = _page_codes(user, page)
    seconds = np.asarray(watch_seconds, np.float64)
    count = int(pages.max(initial=-1)) + 1
    rank, _ = _score_ranks(pages, -np.asarray(scores, np.float64))
    _, tied, ties = np.unique(rank, return_inverse=True, return_counts=True)
    order = np.argsort(rank, kind="stable")
    discounts = np.empty(len(pages))
    discounts[order] = _discounts(pages[order])
    shared = np.bincount(tied, weights=discounts, minlength=len(ties)) / ties
    found = np.bincount(pages, weights=seconds * shared[tied], minlength=count)
    best = np.lexsort((-seconds, pages))
    ideal = np.bincount(pages[best], weights=seconds[best] * _discounts(pages[best]), minlength=count)
    return np.asarray(found[ideal > 0] / ideal[ideal > 0])


def _discounts(pages: Ints) -> Floats:
    """Return the discount of each impression, which are sorted by page and best first."""
    first = np.searchsorted(pages, pages)
    return np.asarray(1 / np.log2(np.arange(len(pages)) - first + 2.0))


def _page_codes(user: Column, page: Column) -> Ints:
    """Return an integer from 0 for each distinct (user, page), in their order."""
    user_code = np.unique(user, return_inverse=True)[1]
    pages, page_code = np.unique(page, return_inverse=True)
    keys = user_code.astype(np.int64) * max(len(pages), 1) + page_code
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _score_ranks(pages: Ints, scores: Column) -> tuple[Ints, Ints]:
    """Return (rank, first): dense ranks by page and then score, and the lowest rank on each impression's page.

    Impressions of one page with equal scores have equal ranks.
    """
    order = np.lexsort((scores, pages))
    by_page, by_score = pages[order], np.asarray(scores)[order]
    new = np.ones(len(order), bool)
    new[1:] = (by_page[1:] != by_page[:-1]) | (by_score[1:] != by_score[:-1])
    numbers = np.cumsum(new) - 1
    rank, first = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    rank[order] = numbers
    first[order] = numbers[np.searchsorted(by_page, by_page)]
    return rank, first
