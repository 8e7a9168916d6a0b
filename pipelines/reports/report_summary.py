"""The first sentences of a report: whether the night is good, for how many users, and compared with what.

Good lists for 1,996 users. Of the videos that 586 held-out users completed next, 54 % are among the first 100 of
their lists: significantly more than in the most popular videos (32 %) and in item-to-item lists (45 %), and
significantly less than in the lists of 2026-11-20 on their own days (59 %).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.night.night_results import GateResults
from pipelines.reports import night_figures
from pipelines.reports.night_figures import BETTER, NO_DIFFERENCE, WORSE, FigureDifference
from transforms.evaluation.night_metrics import ITEM_TO_ITEM, MOST_POPULAR, NightMetrics
from transforms.report.page import Level, Status

_WORDS = {
    BETTER: "significantly more than in",
    WORSE: "significantly less than in",
    NO_DIFFERENCE: "not significantly more or less than in",
}
_BASELINES = {MOST_POPULAR: "the most popular videos", ITEM_TO_ITEM: "item-to-item lists"}


def summary(
    users: int | None, metrics: NightMetrics | None, gates: GateResults | None, before: NightMetrics | None
) -> Status | None:
    """Return a night's summary; None before it has lists.

    users: the number of lists, None if there are none. before: the figures of the night that the gates compared this
    one with; None if there is none.
    """
    if users is None:
        return None
    compared = list(_compared(metrics, gates, before)) if metrics else []
    head, level = _judge(users, compared)
    if gates and gates.status in ("failed", "forced"):
        names = ", ".join(gate.name for gate in gates.in_state("failed") or gates.unexpected)
        start = "Not published: failed at" if gates.status == "failed" else "Published in spite of failed gates:"
        head, level = f"{start} {names}. There are lists for {users:,} users", "bad"
    return Status(text=f"{head}. {_figures(metrics, compared)}", level=level)


def _compared(
    metrics: NightMetrics, gates: GateResults | None, before: NightMetrics | None
) -> Iterator[tuple[str, FigureDifference]]:
    """Yield (what the lists are compared with, difference): the baselines of the gates, and the night before."""
    for one in night_figures.against_baselines(metrics):
        if one.other in _BASELINES:
            yield _BASELINES[one.other], one
    if before and gates:
        name = f"the lists of {gates.compared_with} on their own days"
        if found := night_figures.between_nights(metrics, before, metrics.gate, name):
            yield name, found


def _judge(users: int, compared: Sequence[tuple[str, FigureDifference]]) -> tuple[str, Level]:
    """Return the judgement in words, by the baselines; the night before was measured on other days."""
    verdicts = {name: one.verdict for name, one in compared if one.other in _BASELINES}
    worse = [name for name, verdict in verdicts.items() if verdict == WORSE]
    if worse:
        return f"Poor lists for {users:,} users, worse than {' and '.join(worse)}", "bad"
    unclear = [name for name, verdict in verdicts.items() if verdict != BETTER]
    if unclear:
        return f"Lists for {users:,} users, not clearly better than {' and '.join(unclear)}", "warn"
    return (f"Good lists for {users:,} users", "ok") if verdicts else (f"Lists for {users:,} users", "neutral")


def _figures(metrics: NightMetrics | None, compared: Sequence[tuple[str, FigureDifference]]) -> str:
    own = night_figures.served_figures(metrics) if metrics else None
    if metrics is None or own is None or metrics.gate not in own.figures:
        return "How good they are was not measured: no user was held out, or none of them completed a video."
    held_out = night_figures.held_out_users(metrics)
    of_users = "held-out users" if held_out is None else f"{held_out:,} held-out users"
    recall, k = _percent(own.figures[metrics.gate]), metrics.k
    text = f"Of the videos that {of_users} completed next, {recall} are among the first {k} of their lists"
    groups: dict[str, list[str]] = {}
    for name, one in compared:
        unknown = f"it is not known whether this is more ({one.verdict or 'without an interval'}) than in"
        groups.setdefault(_WORDS.get(one.verdict, unknown), []).append(f"{name} ({_percent(one.other_value)})")
    parts = [f"{words} {' and in '.join(names)}" for words, names in groups.items()]
    return f"{text}{': ' if parts else ''}{', and '.join(parts)}."


def _percent(share: float) -> str:
    """Format a share as a percentage, with two significant digits below 10 %."""
    return f"{100 * share:.0f} %" if share >= 0.095 or not share else f"{100 * share:.2g} %"
