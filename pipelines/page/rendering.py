"""Render the templates of the local page. All values are escaped."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined

from pipelines.base import console
from transforms.report import figures

LONGEST_TEXT = 300  # characters of an id or title that are shown
LONGEST_LINK = 8_000  # characters of a link, about as many as servers and browsers accept everywhere


def render(template: str, **values: Any) -> str:
    """Render a template of this folder, such as `user.html.jinja`."""
    return _environment().get_template(template).render(**values)


def shown(text: str | None) -> str:
    """Return text for people: control characters and those that change the direction of text are written as escapes,
    and long text is cut."""
    text = text or ""
    return console.printable(text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…")


def link(path: str, **query: Any) -> str:
    """Return the address of a page of this server, without the values that are None; empty if it is too long."""
    given = urlencode({name: value for name, value in query.items() if value is not None})
    address = f"{path}?{given}" if given else path
    return address if len(address) <= LONGEST_LINK else ""


def seconds(value: float | None) -> str:
    """Format seconds as a player shows them, 1:05 or 1:00:05; empty if there are none."""
    if value is None:
        return ""
    minutes, rest = divmod(round(value), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


@functools.cache
def _environment() -> Environment:
    own, report = PackageLoader("pipelines.page", ""), PackageLoader("transforms.report", "")
    templates = Environment(
        loader=PrefixLoader({"page": own, "report": report}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "figure": figures.format_value,
        "interval": figures.format_interval,
        "shown": shown,
        "printable": console.printable,
        "seconds": seconds,
    }
    templates.globals |= {"link": link}
    return templates
