"""The report of a night: what it shows, and how that becomes one HTML page.

What is missing is left out or explained in its place. Titles, settings and file names are data and escaped.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from transforms.report import figures, plots
from transforms.report.video_map import VideoMap

Point = tuple[float, float, float]  # value, low, high
Level = Literal["ok", "neutral", "warn", "bad"]
_STATUS = re.compile(r'<span class="status \w+">[^<]*</span>')
_SHOWN = {
    "coverage": "share of the videos that may be shown",
    "mean_age_days": "mean age, days",
    "new_uploads": "share uploaded in the last 7 days",
    "popularity_bias": "doublings more popular than what was watched",
}
_RANKER = {
    "impressions": "impressions",
    "clicks": "clicks",
    "per_user_loss": "per-user loss",
    "ndcg": "NDCG",
    "auc": "AUC",
    "predicted_seconds": "mean expected seconds",
    "watched_seconds": "mean watched seconds",
}


@dataclass(frozen=True, kw_only=True)
class Status:
    """What became of the night: "published", "ungated", "not published: ..."."""

    text: str
    level: Level

    @property
    def html(self) -> Markup:
        """The element that shows it in the head of a report."""
        return Markup('<span class="status {}">{}</span>').format(self.level, self.text)


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training curve: losses[i] after steps[i] steps; speeds[i]: examples a second from there to
    the next; recall in the holdout after
    each pass; the share of the time that training waited for its input."""

    steps: Sequence[int] = ()
    losses: Sequence[float] = ()
    speeds: Sequence[float] = ()
    epochs: Sequence[float] = ()
    waiting: float | None = None

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.losses):
            raise ValueError(f"each loss needs its step, but there are {len(self.losses)} and {len(self.steps)}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a night's report shows. Every part but the date may be empty. Measured is as in `night_metrics`."""

    date: str
    run: str = ""
    status: Status | None = None
    gates: Sequence[Mapping[str, Any]] = ()  # name, value, bound, ok, message of each
    headline: Sequence[tuple[str, Any]] = ()  # label, value: about four to eight
    figure: str = ""  # what systems are compared by: recall@k
    systems: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # system -> measured
    beside: Mapping[str, Mapping[str, float] | None] = field(default_factory=dict)  # system -> value, low, high
    trend_nights: Sequence[str] = ()  # dates, the last is this one
    trend: Mapping[str, Sequence[Point | None]] = field(default_factory=dict)  # name -> one of each night
    slices: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)  # kind, value, system
    shown: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # system -> figure -> value
    ages: Mapping[str, Sequence[float]] = field(default_factory=dict)  # system -> share of videos by days since upload
    ann_loss: Mapping[str, Any] = field(default_factory=dict)
    ranking: Mapping[str, Any] = field(default_factory=dict)  # as in metrics.json
    ranker: Mapping[str, Any] = field(default_factory=dict)  # figures and calibration on held-out impressions
    training: Training = field(default_factory=Training)
    similar: Mapping[str, Sequence[tuple[str, Sequence[tuple[str, float]]]]] = field(default_factory=dict)
    folding: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # kind of pairs -> what they are -> share
    map: VideoMap | None = None
    days: Sequence[str] = ()  # whole days of events
    events: Mapping[str, Sequence[int]] = field(default_factory=dict)  # table -> rows of each day
    night_rows: Sequence[tuple[str, Sequence[int | None]]] = ()  # night -> read, kept, refused, users served
    counts: Sequence[tuple[str, str, int]] = ()  # stage, what, rows
    rejects: Mapping[str, int] = field(default_factory=dict)  # reason -> rows
    vocabulary: Mapping[str, Any] = field(default_factory=dict)  # what was cut off, by name; tables may nest
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage -> wall-clock seconds
    costs: Sequence[tuple[str, Sequence[Any]]] = ()  # stage -> processor seconds, memory and files as people read them
    settings: Mapping[str, Any] = field(default_factory=dict)  # tables may nest
    versions: Mapping[str, Any] = field(default_factory=dict)


def render_report(report: Report) -> str:
    """The whole page as text, in UTF-8 when written. Same report, same page."""
    names = dict.fromkeys(name for measured in report.systems.values() for name in measured["figures"])
    kinds = dict.fromkeys(name for of in report.folding.values() for name in of)
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            metric_rows=[(name, [_measured(of, name) for of in report.systems.values()]) for name in names],
            beside_rows=[
                (name, [of["value"], figures.format_interval((of["low"], of["high"]))])
                for name, of in report.beside.items()
                if of
            ],
            **_ranking(report),
            slices=_slices(report),
            shown_rows=[(text, [of.get(name) for of in report.shown.values()]) for name, text in _SHOWN.items()],
            folding_rows=[(name, [of.get(name) for of in report.folding.values()]) for name in kinds],
            epoch_rows=[(str(number), [recall]) for number, recall in enumerate(report.training.epochs, 1)],
            reject_rows=[
                (reason, [rows]) for reason, rows in sorted(report.rejects.items(), key=lambda r: (-r[1], r[0]))
            ],
            plots=_plots(report),
        )
    )


def with_status(page: str, status: Status) -> str:
    """A report that was rendered before, with another status; without one it is returned as it is."""
    return _STATUS.sub(lambda _: status.html, page, count=1)


def _ranking(report: Report) -> dict[str, list[tuple[str, list[Any]]]]:
    """The rows of the tables on ranking."""
    orders = {order: report.ranking[order] for order in ("neighbours", "ranking") if order in report.ranking}
    rows = [(order, [(of["recall"], figures.format_interval(of["interval"]))]) for order, of in orders.items()]
    if more := report.ranking.get("difference"):
        rows.append(("difference", [(more["value"], figures.format_interval((more["low"], more["high"])))]))
    known = report.ranker.get("figures", {})
    columns = ("impressions", "predicted_seconds", "watched_seconds")
    classes = enumerate(report.ranker.get("calibration", ()), 1)
    return {
        "ranking_rows": rows,
        "ranker_rows": [(text, [known[name]]) for name, text in _RANKER.items() if name in known],
        "calibration_rows": [(str(number), [of[name] for name in columns]) for number, of in classes],
    }


@functools.cache
def environment() -> Environment:
    """Where templates come from, and what they can call."""
    found = Environment(
        loader=PackageLoader("transforms.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["figure"] = figures.format_value
    return found


def _measured(of: Mapping[str, Any], name: str) -> tuple[Any, str]:
    return of["figures"].get(name), figures.format_interval(of.get("intervals", {}).get(name))


def _slices(report: Report) -> list[tuple[str, list[str], list[tuple[str, list[Any]]]]]:
    """Kind, systems that were measured by it, and value -> users, then figure and interval of each system."""

    def row(of: Mapping[str, Any], systems: Sequence[str]) -> list[Any]:
        shown = [_measured(of[system], report.figure) if system in of else (None, "") for system in systems]
        return [next(iter(of.values()))["figures"]["users"], *shown]

    found = []
    for kind, values in report.slices.items():
        systems = _of_slices(report, values)
        found.append((kind, systems, [(value, row(of, systems)) for value, of in values.items()]))
    return found


def _of_slices(report: Report, values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [system for system in report.systems if any(system in of for of in values.values())]


def _plots(report: Report) -> dict[str, Markup | None]:
    """The plots by name; None where there is no data for one."""
    training, freshness = report.training, report.slices.get("upload", {})
    return {
        "events": plots.volumes("Events by day", report.days, report.events) if report.days and report.events else None,
        "systems": _systems(report),
        "trend": plots.trends("Recall by night", report.trend_nights, report.trend)
        if report.trend_nights and report.trend
        else None,
        "freshness": _freshness(report, freshness) if freshness else None,
        "ages": plots.shares("Videos by days since upload", report.ages, axes=("days since upload", "share of videos"))
        if report.ages
        else None,
        "loss": plots.curve("Training loss by step", training.steps, training.losses, axes=("step", "loss"))
        if training.losses
        else None,
        "speed": plots.curve(
            "Training speed by step", training.steps[1:], training.speeds, axes=("step", "examples a second"), colour=2
        )
        if training.speeds
        else None,
        "map": plots.cloud("Videos in two dimensions", report.map) if report.map else None,
        "seconds": plots.seconds("Seconds by stage", report.seconds) if report.seconds else None,
    }


def _line(of: Mapping[str, Any], cuts: Sequence[str]) -> list[tuple[float, float | None, float | None]]:
    intervals = of.get("intervals", {})
    return [(of["figures"].get(cut, 0.0), *intervals.get(cut, (None, None))) for cut in cuts]


def _systems(report: Report) -> Markup | None:
    names = {name for of in report.systems.values() for name in of["figures"] if re.match(r"recall@\d+$", name)}
    cuts = sorted(names, key=lambda name: int(name[7:]))
    bars = {system: _line(of, cuts) for system, of in report.systems.items()}
    return plots.systems("Recall at each k by system", cuts, bars) if cuts else None


def _freshness(report: Report, values: Mapping[str, Mapping[str, Any]]) -> Markup | None:
    """Recall by age of what was watched; `report.figure` of each system."""
    bars = {
        system: [_line(of[system], [report.figure])[0] if system in of else (0.0, None, None) for of in values.values()]
        for system in _of_slices(report, values)
    }
    return plots.systems("Recall by age of the video", list(values), bars) if bars else None
