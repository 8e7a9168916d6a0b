"""The first sentences of a report, for good, poor and unmeasured nights."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from night_measured import measured

from pipelines.night.night_results import GateResults
from pipelines.reports.report_summary import summary
from transforms.evaluation.gates import Gate, State
from transforms.report.page import Status

FIGURES = "Of the videos that 500 held-out users completed next, {} are among the first 100 of their lists"


def gates(status: Literal["passed", "failed", "forced"], before: str | None = None, **ok: bool) -> GateResults:
    states: dict[bool, State] = {True: "passed", False: "failed"}
    named = tuple(Gate(name=name, value=0.0, bound="", state=states[of], message="m") for name, of in ok.items())
    return GateResults(date="2026-11-21", status=status, why="", compared_with=before, gates=named)


def against_item_to_item(value: float, low: float, high: float) -> dict[str, Any]:
    """Figures of lists with recall .5, and of item-to-item lists."""
    content = measured(0.5).to_dict()
    content["systems"]["item to item"] = content["systems"]["most popular"]
    content["beside"]["item to item"] = {"value": value, "low": low, "high": high}
    return {"systems": content["systems"], "beside": content["beside"]}


def test_a_good_night_is_compared_with_baselines_and_with_the_night_before() -> None:
    more = against_item_to_item(0.4, 0.35, 0.45)
    compared = (
        "significantly more than in the most popular videos (10 %) and in item-to-item lists (10 %), "
        "and significantly less than in the lists of 2026-11-20 on their own days (60 %)."
    )
    assert summary(1_996, measured(0.5, **more), gates("passed", before="2026-11-20"), measured(0.6)) == Status(
        text=f"Good lists for 1,996 users. {FIGURES.format('50 %')}: {compared}", level="ok"
    )


@pytest.mark.parametrize(
    ("difference", "start", "words", "level"),
    [
        (
            (-0.1, -0.15, -0.05),
            "Poor lists for 7 users, worse than item-to-item lists.",
            "significantly less than in",
            "bad",
        ),
        (
            (0.001, -0.001, 0.003),
            "Lists for 7 users, not clearly better than item-to-item lists.",
            "not significantly more or less than in",
            "warn",
        ),
        (
            (0.0, -0.3, 0.3),
            "Lists for 7 users, not clearly better than item-to-item lists.",
            "it is not known whether this is more (too few held-out users (500) to tell) than in",
            "warn",
        ),
    ],
)
def test_lists_are_judged_by_the_baselines(
    difference: tuple[float, float, float], start: str, words: str, level: str
) -> None:
    found = summary(7, measured(0.5, **against_item_to_item(*difference)), None, None)
    assert found is not None and found.level == level and found.text.startswith(start)
    assert f"and {words} item-to-item lists (10 %)." in found.text


def test_failed_gates_come_first() -> None:
    found = summary(7, measured(0.5), gates("failed", recall=False, users=True, index=False), None)
    assert found is not None and found.level == "bad"
    assert found.text.startswith("Not published: failed at recall, index. There are lists for 7 users. Of the videos ")
    forced = summary(7, measured(0.5), gates("forced", recall=False), None)
    assert forced is not None and forced.text.startswith("Published in spite of failed gates: recall. There are lists ")


@pytest.mark.parametrize(("recall", "text"), [(0.0043, "0.43 %"), (0.0, "0 %"), (0.0951, "10 %"), (0.094, "9.4 %")])
def test_small_shares_keep_two_digits(recall: float, text: str) -> None:
    found = summary(7, measured(recall), None, None)
    assert found is not None and FIGURES.format(text) in found.text


def test_a_night_without_figures_says_so() -> None:
    found = summary(7, None, None, None)
    assert found == summary(7, measured(0.5, systems={}, beside={}), None, None)
    assert found == Status(
        text="Lists for 7 users. How good they are was not measured: no user was held out, or none of them completed a "
        "video.",
        level="neutral",
    )
    assert summary(None, None, None, None) is None
