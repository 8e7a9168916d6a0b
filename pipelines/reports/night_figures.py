"""The figures of held-out users that people compare: a night's lists with baselines, and with those of other nights.

measured = night_results.metrics(night)
against_baselines(measured)                      # most popular videos, item-to-item lists, ...
between_nights(measured, earlier, "recall@100")  # paired by user: a user has the same bootstrap weights every night
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from transforms.core.bootstrap import PairedDifference
from transforms.evaluation.gates import compare, notable_loss, too_few_users
from transforms.evaluation.night_metrics import NEIGHBOURS, NightMetrics
from transforms.evaluation.user_metrics import MeasuredFigures, paired_difference

BETTER, WORSE, NO_DIFFERENCE = "significantly better", "significantly worse", "no significant difference"
_COMPARISONS = {"above": BETTER, "below": WORSE, "no significant difference": NO_DIFFERENCE}


@dataclass(frozen=True, kw_only=True)
class FigureDifference:
    """A figure of some lists, and of others that they are compared with."""

    figure: str  # such as recall@100
    other: str  # the system, or the night, that the lists are compared with
    value: float
    other_value: float
    low: float | None = None  # 95 % interval of `value` - `other_value`; None if it is not known
    high: float | None = None
    verdict: str = ""  # what the difference shows, in words; empty if its interval is not known

    @property
    def difference(self) -> float:
        return self.value - self.other_value

    def in_words(self, signed: str) -> str:
        """Return the difference with its interval and the verdict. signed: the format of the numbers, as `+.3f`."""
        text = format(self.difference, signed)
        if self.low is None or self.high is None:
            return text
        return f"{text} [{self.low:{signed}}, {self.high:{signed}}] {self.verdict}"


def verdict(difference: PairedDifference, users: int | None, baseline: float) -> str:
    """Return what a difference to a baseline shows, in words. users: held-out users; None: enough."""
    return _COMPARISONS.get(compare(difference, users, notable_loss(baseline))) or too_few_users(users)


def held_out_users(measured: NightMetrics) -> int | None:
    """Return the number of held-out users that were measured; None if it is not known."""
    return measured.holdout.users if measured.holdout else None


def served_figures(measured: NightMetrics) -> MeasuredFigures | None:
    """Return the figures of the lists to serve; None if nobody was held out."""
    return measured.systems.get(measured.served_system)


def against_baselines(measured: NightMetrics) -> Iterator[FigureDifference]:
    """Yield the gated figure of the lists to serve against that of each other system that was measured."""
    own, figure = served_figures(measured), measured.gate
    for system, others in measured.systems.items():
        # ranked lists have the videos of those of neighbours, in another order
        if system in (measured.served_system, NEIGHBOURS) or own is None:
            continue
        if figure in own.figures and figure in others.figures:
            pairs = measured.differences.get(system, {figure: measured.beside.get(system)})
            yield _difference(own, others, figure, system, pairs.get(figure), held_out_users(measured))


def between_nights(night: NightMetrics, other: NightMetrics, figure: str, name: str) -> FigureDifference | None:
    """Return a figure of the lists of two nights, or of two jobs; None if one of them did not measure it.

    The interval is that of the users held out in both: it needs the replicates of the figure, which nights keep of
    recall. name: what to call the other night.
    """
    own, others = served_figures(night), served_figures(other)
    if own is None or others is None or figure not in own.figures or figure not in others.figures:
        return None
    counted = [users for users in map(held_out_users, (night, other)) if users is not None]
    pair = paired_difference(own, others, figure)
    return _difference(own, others, figure, name, pair, min(counted, default=None))


def _difference(
    own: MeasuredFigures,
    others: MeasuredFigures,
    figure: str,
    other: str,
    pair: PairedDifference | None,
    users: int | None,
) -> FigureDifference:
    value, other_value = own.figures[figure], others.figures[figure]
    if pair is None or math.isnan(pair.low):
        return FigureDifference(figure=figure, other=other, value=value, other_value=other_value)
    return FigureDifference(
        figure=figure,
        other=other,
        value=value,
        other_value=other_value,
        low=pair.low,
        high=pair.high,
        verdict=verdict(pair, users, other_value),
    )
