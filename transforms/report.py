"""The report of a night: one HTML file that opens offline, for people.

    html = render_report(Report(date="2026-11-21", status=Status(text="published", level="ok"), metrics={...}))

What is missing is left out or explained in its place. Titles, settings and file names are data and escaped. The plots
are drawn by matplotlib, which is imported when a report is rendered and not before: much that imports this never does.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import cycle
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

_COLOURS = ("#3b7dc4", "#d98a2b", "#4fa172", "#b0568f", "#7a7f87")  # readable on white and on black
_INK = "#808994"  # replaced by the page's own text colour
_MOST_POINTS = 2_000  # of a curve: more cannot be seen


@dataclass(frozen=True, kw_only=True)
class Status:
    """What became of the night: "published", "ungated", "not published: ..."."""

    text: str
    level: Literal["ok", "warn", "bad"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training curve: losses[i] after steps[i] steps; recall in the holdout after each pass, if measured."""

    steps: Sequence[int] = ()
    losses: Sequence[float] = ()
    epochs: Sequence[float] = ()

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.losses):
            raise ValueError(f"each loss needs its step, but there are {len(self.losses)} and {len(self.steps)}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a night's report shows, in the order it is shown. Every part but the date may be empty."""

    date: str
    status: Status | None = None
    headline: Sequence[tuple[str, Any]] = ()  # label, value: about four to eight
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # system -> figure -> value
    training: Training = field(default_factory=Training)
    similar: Sequence[tuple[str, Sequence[tuple[str, float]]]] = ()  # title -> its neighbours' titles and cosines
    counts: Sequence[tuple[str, str, int]] = ()  # stage, what, rows
    rejects: Mapping[str, int] = field(default_factory=dict)  # reason -> rows
    vocabulary: Mapping[str, Any] = field(default_factory=dict)  # what was cut off, by name; tables may nest
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage -> wall-clock seconds
    settings: Mapping[str, Any] = field(default_factory=dict)  # tables may nest
    versions: Mapping[str, Any] = field(default_factory=dict)


def render_report(report: Report) -> str:
    """The whole page as text, in UTF-8 when written. Same report, same page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = figure
    template = resources.files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    names = dict.fromkeys(name for figures in report.metrics.values() for name in figures)
    return environment.from_string(template).render(
        report=report,
        metric_rows=[(name, [figures.get(name) for figures in report.metrics.values()]) for name in names],
        epoch_rows=[(str(number), [recall]) for number, recall in enumerate(report.training.epochs, 1)],
        reject_rows=[(reason, [rows]) for reason, rows in sorted(report.rejects.items(), key=lambda r: (-r[1], r[0]))],
        plots=_plots(report),
    )


def figure(value: Any) -> str:
    """A value as people read it: 1,234,567; 0.1963; 12.5; yes; a list with commas; - where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _decimal(value)
    if isinstance(value, list | tuple):
        return ", ".join(figure(item) for item in value) or "none"
    return str(value)


def _decimal(value: float) -> str:
    """Four digits or so: what a reader compares."""
    if math.isinf(value) or (value and abs(value) < 0.001):
        return f"{value:.3g}"
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.2f}" if abs(value) < 1_000 else f"{value:,.0f}"


def _plots(report: Report) -> dict[str, Markup | None]:
    """The plots by name, as inline SVG; None where there is no data for one."""
    return {"recall": _recall_bars(report), "training": _loss_curve(report), "seconds": _seconds_bars(report)}


def _recall_bars(report: Report) -> Markup | None:
    """Recall@k of each system, in groups by k."""
    found = {int(name[7:]) for figures in report.metrics.values() for name in figures if re.match(r"recall@\d+$", name)}
    if not found:
        return None
    ks, systems = sorted(found), list(report.metrics)
    figure_, axes = _axes(height=2.9)
    width = 0.8 / len(systems)
    for i, (system, colour) in enumerate(zip(systems, cycle(_COLOURS), strict=False)):
        heights = [report.metrics[system].get(f"recall@{k}", 0.0) for k in ks]
        at = [x + (i - (len(systems) - 1) / 2) * width for x in range(len(ks))]
        bars = axes.bar(at, heights, width * 0.92, label=_plain(system), color=colour)
        axes.bar_label(bars, fmt="%.3f", padding=2, fontsize=8, color=_INK)
    axes.set_xticks(range(len(ks)), [f"recall@{k}" for k in ks])
    axes.margins(y=0.15)
    axes.legend(frameon=False, labelcolor=_INK, loc="upper left", fontsize=9)
    return _svg(figure_, "Recall at each k by system")


def _loss_curve(report: Report) -> Markup | None:
    """The training loss by step, thinned to what can be seen."""
    steps, losses = report.training.steps, report.training.losses
    if not steps:
        return None
    figure_, axes = _axes(height=2.6)
    every = max(1, len(steps) // _MOST_POINTS)
    one = {"marker": "o"} if len(steps) == 1 else {}
    axes.plot(list(steps)[::every], list(losses)[::every], color=_COLOURS[0], linewidth=1.4, **one)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("step", color=_INK)
    axes.set_ylabel("loss", color=_INK)
    return _svg(figure_, "Training loss by step")


def _seconds_bars(report: Report) -> Markup | None:
    """Seconds of each stage, the first on top."""
    if not report.seconds:
        return None
    stages, seconds = [_plain(stage) for stage in report.seconds], list(report.seconds.values())
    figure_, axes = _axes(height=0.6 + 0.3 * len(stages))
    bars = axes.barh(range(len(stages)), seconds, 0.65, color=_COLOURS[0])
    axes.set_yticks(range(len(stages)), stages)
    axes.bar_label(bars, labels=[f"{s:,.1f} s" for s in seconds], padding=4, fontsize=9, color=_INK)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=False)
    return _svg(figure_, "Seconds by stage")


def _axes(*, height: float) -> tuple[Any, Any]:
    """An empty plot of the report's style. No pyplot: that keeps global state and picks a screen to draw on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure_ = Figure(figsize=(7.2, height), layout="constrained")
    FigureCanvasAgg(figure_)
    axes = figure_.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.tick_params(colors=_INK, length=0, labelsize=9)
    axes.grid(axis="y", color=_INK, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure_, axes


def _svg(figure_: Any, label: str) -> Markup:
    """The plot as an SVG element whose text is text in the page's font and whose grey is the page's own text colour."""
    from matplotlib import rc_context

    out = io.StringIO()
    # A fixed salt and no date: the same figures give the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}):
        figure_.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)  # the page decides
    # Ids and clip paths of the plots share one page.
    prefix = re.sub(r"\W", "-", label.lower())
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\1{prefix}-", svg)
    return Markup(svg.replace(_INK, "currentColor").replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def _plain(text: str) -> str:
    """A label in a plot as it is: a dollar sign starts no formula there."""
    return text.replace("$", r"\$")
