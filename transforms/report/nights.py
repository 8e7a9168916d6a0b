"""The page of all nights: what became of each, newest first, with a link to its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transforms.report.figures import format_interval
from transforms.report.page import Point, Status, environment


@dataclass(frozen=True, kw_only=True)
class NightRow:
    """One night. served: whether its lists are served now; recall: in the holdout, with its interval; figure: what that
    is if it is not that of the page; link: to its report, empty if there is none."""

    date: str
    status: Status
    served: bool = False
    recall: Point | None = None
    figure: str = ""
    users: int | None = None
    failed: Sequence[str] = ()  # gates
    unexpected: Sequence[str] = ()  # gates that should have been computed and were not
    link: str = ""


def render_nights(rows: Sequence[NightRow], *, figure: str) -> str:
    """The whole page as text. figure: what `recall` is, such as recall@100."""
    shown = [
        (row, row.recall[0] if row.recall else None, format_interval(row.recall and row.recall[1:])) for row in rows
    ]
    return environment().get_template("nights.html.jinja").render(rows=shown, figure=figure)
