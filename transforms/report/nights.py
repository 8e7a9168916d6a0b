"""The page of all nights, newest first: status and recall of each, with a link to its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transforms.report.figures import format_interval
from transforms.report.page import Point, Status, environment


@dataclass(frozen=True, kw_only=True)
class NightRow:
    """One night of the page."""

    date: str
    status: Status
    served: bool = False  # whether its lists are served now
    recall: Point | None = None  # in the holdout, with its interval
    figure: str = ""  # name of the metric in `recall` if it is not that of the page
    users: int | None = None
    failed: Sequence[str] = ()  # names of failed gates
    unexpected: Sequence[str] = ()  # names of gates that should have been computed but were not
    link: str = ""  # to the report; empty if there is none


def render_nights(rows: Sequence[NightRow], *, figure: str) -> str:
    """Render the page as HTML. figure: the name of the metric in `recall`, such as recall@100."""
    table = [
        (row, row.recall[0] if row.recall else None, format_interval(row.recall and row.recall[1:])) for row in rows
    ]
    return environment().get_template("nights.html.jinja").render(rows=table, figure=figure)
