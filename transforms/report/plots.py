"""Draw the plots of a report as inline SVG that uses the page's font and text colour.

Matplotlib is imported only when a plot is drawn, because many importers of this module never draw one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from markupsafe import Markup

from transforms.report.figures import escape_mathtext
from transforms.report.video_map import VideoMap

# Readable on white and on black.
COLOURS = ("#3b7dc4", "#d98a2b", "#4fa172", "#b0568f", "#7a7f87", "#c4553b", "#2fa3a8", "#8a6fc9")
INK = "#808994"  # replaced with the page's text colour
MAX_POINTS = 2_000  # of a curve or a scatter plot; more are not visible

Line = Sequence[tuple[float, float | None, float | None]]  # value, low, high
Points = Sequence[tuple[float, float, float] | None]  # one for each night


def curve(label: str, xs: Sequence[float], ys: Sequence[float], *, axes: tuple[str, str], colour: int = 0) -> Markup:
    """Draw a line through points, thinned to at most `MAX_POINTS`; a single point is drawn as a marker."""
    figure, plot = _axes(height=2.3, labels=axes)
    every = -(-len(xs) // MAX_POINTS)
    one = {"marker": "o"} if len(xs) == 1 else {}
    plot.plot(list(xs)[::every], list(ys)[::every], color=COLOURS[colour], linewidth=1.4, **one)
    plot.xaxis.set_major_formatter("{x:,.0f}")
    return _svg(figure, label)


def trends(label: str, nights: Sequence[str], lines: Mapping[str, Points]) -> Markup:
    """Draw lines over nights with intervals; each point is (value, low, high), or None if a night has no value."""
    figure, plot = _axes(height=2.7)
    for (name, points), colour in zip(lines.items(), cycle(COLOURS), strict=False):
        values, low, high = (np.array([np.nan if p is None else p[i] for p in points]) for i in range(3))
        places = np.arange(len(points))
        plot.errorbar(places, values, yerr=[values - low, high - values], color=colour, ecolor=colour, elinewidth=1,
                      capsize=2.5, marker="o", markersize=4, linewidth=1.6, label=escape_mathtext(name))  # fmt: skip
    _days(plot, nights)
    plot.margins(y=0.2)
    _legend(plot, len(lines))
    return _svg(figure, label)


def volumes(label: str, days: Sequence[str], tables: Mapping[str, Sequence[int]]) -> Markup:
    """Draw the rows of each table by day as stacked bars."""
    figure, plot = _axes(height=2.3)
    below = np.zeros(len(days))
    for (table, rows), colour in zip(tables.items(), cycle(COLOURS), strict=False):
        plot.bar(range(len(days)), rows, 0.8, bottom=below, color=colour, label=escape_mathtext(table))
        below += rows
    _days(plot, days)
    plot.yaxis.set_major_formatter("{x:,.0f}")
    plot.margins(y=0.2)
    _legend(plot, len(tables))
    return _svg(figure, label)


def systems(label: str, cuts: Sequence[str], bars: Mapping[str, Line]) -> Markup:
    """Draw grouped bars with intervals: a group for each cut, a bar for each system."""
    figure, plot = _axes(height=2.9)
    width = 0.8 / len(bars)
    for i, ((system, line), colour) in enumerate(zip(bars.items(), cycle(COLOURS), strict=False)):
        places = [x + (i - (len(bars) - 1) / 2) * width for x in range(len(cuts))]
        plot.bar(places, [value for value, _, _ in line], width * 0.92, label=escape_mathtext(system), color=colour)
        for x, (value, low, high) in zip(places, line, strict=True):
            if low is not None and high is not None:
                plot.plot([x, x], [low, high], color=INK, linewidth=1.3)
            plot.text(x, high or value, f"{value:.2f}".lstrip("0"), ha="center", va="bottom", fontsize=8, color=INK)
    plot.set_xticks(range(len(cuts)), [escape_mathtext(cut) for cut in cuts])
    plot.margins(y=0.12)
    _legend(plot, len(bars), columns=2)
    return _svg(figure, label)


def shares(label: str, lines: Mapping[str, Sequence[float]], *, axes: tuple[str, str]) -> Markup:
    """Draw a line of shares for each name, over the positions 0, 1, ..."""
    figure, plot = _axes(height=2.5, labels=axes)
    for (name, values), colour in zip(lines.items(), cycle(COLOURS), strict=False):
        plot.plot(
            range(len(values)),
            values,
            color=colour,
            linewidth=1.6,
            marker="o",
            markersize=3,
            label=escape_mathtext(name),
        )
    plot.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    plot.set_ylim(bottom=0)
    _legend(plot, len(lines), columns=2)
    return _svg(figure, label)


def seconds(label: str, by_stage: Mapping[str, float]) -> Markup:
    """Draw the seconds of each stage as horizontal bars, the first stage on top."""
    figure, plot = _axes(height=0.6 + 0.3 * len(by_stage))
    bars = plot.barh(range(len(by_stage)), list(by_stage.values()), 0.65, color=COLOURS[0])
    plot.set_yticks(range(len(by_stage)), [escape_mathtext(stage) for stage in by_stage])
    plot.bar_label(bars, labels=[f"{s:,.1f} s" for s in by_stage.values()], padding=4, fontsize=9, color=INK)
    plot.invert_yaxis()
    plot.margins(x=0.12)
    plot.xaxis.set_visible(False)
    plot.spines["bottom"].set_visible(False)
    plot.grid(visible=False)
    return _svg(figure, label)


def cloud(label: str, video_map: VideoMap) -> Markup:
    """Draw videos as points, coloured by group."""
    figure, plot = _axes(height=5.2)
    groups = np.array(video_map.groups)
    names = sorted(set(video_map.groups), key=lambda name: (-int((groups == name).sum()), name))
    for name, colour in zip(names, cycle(COLOURS), strict=False):
        points = video_map.places[groups == name]
        plot.scatter(
            points[:, 0], points[:, 1], s=7, color=colour, alpha=0.75, linewidths=0, label=escape_mathtext(name)
        )
    plot.set_xticks([])
    plot.set_yticks([])
    plot.spines["bottom"].set_visible(False)
    _legend(plot, len(names), columns=4, markerscale=2.5)
    return _svg(figure, label)


def _days(plot: Any, days: Sequence[str]) -> None:
    """Label the axis with at most ten dates, without the year."""
    every = -(-len(days) // 10)
    places = range((len(days) - 1) % every, len(days), every)
    plot.set_xticks(list(places), [escape_mathtext(days[i][5:]) for i in places])
    plot.set_xlim(-0.6, len(days) - 0.4)


def _legend(plot: Any, entries: int, *, columns: int = 3, **more: Any) -> None:
    """Put the legend above the plot."""
    plot.legend(frameon=False, labelcolor=INK, fontsize=9, ncols=min(entries, columns), loc="lower left",
                bbox_to_anchor=(0, 1), borderaxespad=0.2, **more)  # fmt: skip


def _axes(*, height: float, labels: tuple[str, str] = ("", "")) -> tuple[Any, Any]:
    """Create an empty plot in the report's style, without pyplot, which has global state and selects a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    plot.spines[["top", "right", "left"]].set_visible(False)
    plot.spines["bottom"].set_color(INK)
    plot.tick_params(colors=INK, length=0, labelsize=9)
    plot.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
    plot.set_axisbelow(True)
    plot.set_xlabel(labels[0], color=INK)
    plot.set_ylabel(labels[1], color=INK)
    return figure, plot


def _svg(figure: Any, label: str) -> Markup:
    """Convert a plot to an SVG element that uses the page's font and text colour."""
    from matplotlib import rc_context

    out = io.StringIO()
    # With a fixed salt and without a date, equal data give equal bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)  # the page sets the size
    # Make ids unique within the page.
    prefix = re.sub(r"\W", "-", label.lower())
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\1{prefix}-", svg)
    return Markup(svg.replace(INK, "currentColor").replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
