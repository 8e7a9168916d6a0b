"""The data of a night's report and of the page of all nights, and their rendering to HTML.

Missing parts are omitted, or replaced with an explanation. Titles, settings and file names are escaped.
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
_USERS = re.compile(r'<section id="users">.*?</section>\n?', re.DOTALL)
_STATUS = re.compile(r'<span class="status \w+">[^<]*</span>')
_LIST_STATISTICS = {
    "coverage": "share of the videos that may be shown",
    "mean_age_days": "mean age, days",
    "new_uploads": "share uploaded in the last 7 days",
    "popularity_bias": "doublings more popular than watched videos",
}
_RANKER = {
    "impressions": "impressions",
    "clicks": "clicks",
    "per_user_loss": "watch time in the wrong order (per-user loss)",
    "ndcg": "watch time near the top (NDCG)",
    "auc": "clicked above unclicked (AUC)",
    "predicted_seconds": "mean expected seconds",
    "watched_seconds": "mean watched seconds",
}


@dataclass(frozen=True, kw_only=True)
class Status:
    """The status of a night: "published", "ungated", "not published: ..."."""

    text: str
    level: Level

    @property
    def html(self) -> Markup:
        """The HTML element in the header of a report."""
        return Markup('<span class="status {}">{}</span>').format(self.level, self.text)


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training curve."""

    steps: Sequence[int] = ()
    losses: Sequence[float] = ()  # losses[i]: after steps[i] steps
    speeds: Sequence[float] = ()  # speeds[i]: examples per second between steps[i] and steps[i + 1]
    epochs: Sequence[float] = ()  # recall in the holdout after each epoch
    waiting: float | None = None  # share of the time that training waited for its input
    auto: Mapping[str, str] = field(default_factory=dict)  # setting -> its value and why: those that were "auto"

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.losses):
            raise ValueError(
                f"losses and steps must have the same length, but have {len(self.losses)} and {len(self.steps)}"
            )


@dataclass(frozen=True, kw_only=True)
class UserExample:
    """A user's last watches, newest first, and the first videos of the list."""

    user_id: str
    watched: Sequence[tuple[str, str, bool]]  # time, title, whether it was completed
    listed: Sequence[tuple[str, float | None]]  # title, expected seconds (None: not ranked)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The data of a night's report. Every field except the date may be empty. Metrics are as in `night_metrics`."""

    date: str
    run: str = ""
    status: Status | None = None
    summary: Status | None = None  # whether the night is good, for how many users, and compared with what
    gates: Sequence[Mapping[str, Any]] = ()  # name, value, bound, ok, note, message of each
    headline: Sequence[tuple[str, Any]] = ()  # label, value: about four to eight
    metric: str = ""  # name of the metric that compares systems: recall@k
    systems: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # system -> metrics
    differences: Mapping[str, Mapping[str, Mapping[str, float] | None]] = field(default_factory=dict)
    # system -> figure -> value, low, high: the served lists minus the system
    comparisons: Mapping[str, str] = field(default_factory=dict)  # system -> what its difference shows, in words
    trend_nights: Sequence[str] = ()  # dates, the last is this one
    trend: Mapping[str, Sequence[Point | None]] = field(default_factory=dict)  # name -> one of each night
    slices: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)  # kind, value, system
    list_statistics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # system -> figure -> value
    ages: Mapping[str, Sequence[float]] = field(default_factory=dict)  # system -> share of videos by days since upload
    lengths: Mapping[str, Sequence[float]] = field(default_factory=dict)  # system -> share of videos by class of length
    length_classes: Sequence[str] = ()  # what these classes are
    ann_loss: Mapping[str, Any] = field(default_factory=dict)
    diversity: Mapping[str, Any] = field(default_factory=dict)  # as in metrics.json
    new_videos: Mapping[str, Any] = field(default_factory=dict)  # as in metrics.json
    served: Mapping[str, Any] = field(default_factory=dict)  # as in metrics.json
    ranking: Mapping[str, Any] = field(default_factory=dict)  # as in metrics.json
    ranker: Mapping[str, Any] = field(default_factory=dict)  # figures and calibration on held-out impressions
    order: Mapping[str, Any] = field(default_factory=dict)  # `order.ChosenOrder` of the ranked lists
    training: Training = field(default_factory=Training)
    users: Sequence[UserExample] = ()
    similar: Mapping[str, Sequence[tuple[str, Sequence[tuple[str, float]]]]] = field(default_factory=dict)
    folding: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # kind of pairs -> property -> share
    map: VideoMap | None = None
    days: Sequence[str] = ()  # complete days of events
    events: Mapping[str, Sequence[int]] = field(default_factory=dict)  # table -> rows of each day
    night_rows: Sequence[tuple[str, Sequence[int | None]]] = ()  # night -> read, kept, rejected, users served
    counts: Sequence[tuple[str, str, int]] = ()  # stage, what, rows
    rejects: Mapping[str, int] = field(default_factory=dict)  # reason -> rows
    vocabulary: Mapping[str, Any] = field(default_factory=dict)  # sizes and coverage, by name; may be nested
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage -> wall-clock seconds
    # stage -> processor seconds, memory, bytes read and written, and size of the files, formatted
    costs: Sequence[tuple[str, Sequence[Any]]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # may be nested
    versions: Mapping[str, Any] = field(default_factory=dict)


def render_report(report: Report) -> str:
    """Render the page as HTML, to be written in UTF-8. Equal reports give equal pages."""
    names = dict.fromkeys(name for measured in report.systems.values() for name in measured["figures"])
    kinds = dict.fromkeys(name for shares in report.folding.values() for name in shares)
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            metric_rows=[
                (name, [_value_and_interval(metrics, name) for metrics in report.systems.values()]) for name in names
            ],
            **_gates(report),
            **_differences(report),
            **_ranking(report),
            slices=_slices(report),
            statistic_rows=[
                (text, [statistics.get(name) for statistics in report.list_statistics.values()])
                for name, text in _LIST_STATISTICS.items()
            ],
            folding_rows=[(name, [shares.get(name) for shares in report.folding.values()]) for name in kinds],
            epoch_rows=[(str(number), [recall]) for number, recall in enumerate(report.training.epochs, 1)],
            reject_rows=[
                (reason, [rows]) for reason, rows in sorted(report.rejects.items(), key=lambda r: (-r[1], r[0]))
            ],
            plots=_plots(report),
        )
    )


def with_status(page: str, status: Status) -> str:
    """Replace the status of a rendered report; a report without a status is returned unchanged."""
    return _STATUS.sub(lambda _: status.html, page, count=1)


def without_users(page: str) -> str:
    """Return a rendered report without its section of users."""
    return _USERS.sub("", page, count=1)


def _gates(report: Report) -> dict[str, Any]:
    """Return the gates to show first, failed ones and those that should have been computed, and those to fold."""
    failed = [gate for gate in report.gates if gate["ok"] is False]
    missing = [gate for gate in report.gates if gate["ok"] is None and not gate.get("expected", True)]
    passed = [gate for gate in report.gates if gate["ok"]]
    others = [gate for gate in report.gates if gate["ok"] is None and gate.get("expected", True)]
    checks = f"{len(passed)} check{'' if len(passed) == 1 else 's'} passed"
    return {
        "open_gates": [*failed, *missing],
        "folded_gates": [*passed, *others],
        "folded_title": checks + (f", {len(others)} not computed, as expected" if others else ""),
    }


def _differences(report: Report) -> dict[str, Any]:
    """Return the columns and rows of the table that compares the served lists with other systems."""
    names = dict.fromkeys(name for of in report.differences.values() for name, difference in of.items() if difference)

    def cells(of: Mapping[str, Mapping[str, float] | None]) -> list[Any]:
        found = [of.get(name) for name in names]
        return [(one["value"], figures.format_interval((one["low"], one["high"]))) if one else None for one in found]

    rows = [(system, [*cells(of), report.comparisons.get(system)]) for system, of in report.differences.items()]
    return {
        "difference_columns": [*names, f"result at {report.metric}"],
        "difference_rows": [row for row in rows if any(row[1])],
    }


def _ranking(report: Report) -> dict[str, list[tuple[str, list[Any]]]]:
    """Return the rows of the tables about ranking."""
    orders = {order: report.ranking[order] for order in ("neighbours", "ranking") if order in report.ranking}
    rows = [
        (order, [(measured["recall"], figures.format_interval(measured["interval"]))])
        for order, measured in orders.items()
    ]
    if more := report.ranking.get("difference"):
        rows.append(("difference", [(more["value"], figures.format_interval((more["low"], more["high"])))]))
    known = report.ranker.get("figures", {})
    columns = ("impressions", "clicks", "predicted_seconds", "watched_seconds")
    classes = enumerate(report.ranker.get("calibration", ()), 1)

    def ratio(of: Mapping[str, Any]) -> tuple[float | None, str]:
        watched = of["watched_seconds"]
        return of["predicted_seconds"] / watched if watched else None, figures.format_interval(of.get("interval"))

    def difference(of: Mapping[str, float]) -> tuple[float, str]:
        return of["value"], figures.format_interval((of["low"], of["high"]))

    return {
        "ranking_rows": rows,
        "ranker_rows": [(text, [known[name]]) for name, text in _RANKER.items() if name in known],
        "calibration_rows": [
            (str(number), [*(entry.get(name) for name in columns), ratio(entry)]) for number, entry in classes
        ],
        "order_rows": [
            (
                f"{point['weight']}" + (" (chosen)" if point["weight"] == report.order["weight"] else ""),
                [
                    point["recall"],
                    difference(point["recall_difference"]),
                    point["watch_time"],
                    difference(point["watch_time_difference"]),
                ],
            )
            for point in report.order.get("curve", ())
        ],
    }


@functools.cache
def environment() -> Environment:
    """Return the environment of the templates, with the filters `figure`, `setting` and `interval`."""
    templates = Environment(
        loader=PackageLoader("transforms.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["figure"] = figures.format_value
    templates.filters["setting"] = figures.format_setting
    templates.filters["interval"] = figures.format_interval
    return templates


def _value_and_interval(metrics: Mapping[str, Any], name: str) -> tuple[Any, str]:
    return metrics["figures"].get(name), figures.format_interval(metrics.get("intervals", {}).get(name))


def _slices(report: Report) -> list[tuple[str, list[str], list[tuple[str, list[Any]]]]]:
    """Return for each kind of slice: the measured systems, and for each value the users and the systems' metrics."""

    def row(by_system: Mapping[str, Any], systems: Sequence[str]) -> list[Any]:
        measured = [
            _value_and_interval(by_system[system], report.metric) if system in by_system else (None, "")
            for system in systems
        ]
        return [next(iter(by_system.values()))["figures"]["users"], *measured]

    tables = []
    for kind, values in report.slices.items():
        systems = _measured_systems(report, values)
        tables.append((kind, systems, [(value, row(by_system, systems)) for value, by_system in values.items()]))
    return tables


def _measured_systems(report: Report, values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [system for system in report.systems if any(system in by_system for by_system in values.values())]


def _plots(report: Report) -> dict[str, Markup | None]:
    """Return the plots by name; None if there is no data for a plot."""
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
        "lengths": plots.systems("Videos by length", report.length_classes, _bars(report.lengths))
        if report.lengths and report.length_classes
        else None,
        "orders": _orders(report),
        "loss": plots.curve("Training loss by step", training.steps, training.losses, axes=("step", "loss"))
        if training.losses
        else None,
        "speed": plots.curve(
            "Training speed by step",
            training.steps[1:],
            training.speeds,
            axes=("step", "examples per second"),
            colour=2,
        )
        if training.speeds
        else None,
        "map": plots.cloud("Videos in two dimensions", report.map) if report.map else None,
        "seconds": plots.seconds("Seconds by stage", report.seconds) if report.seconds else None,
    }


def _bars(shares: Mapping[str, Sequence[float]]) -> dict[str, plots.Line]:
    """Return bars without intervals."""
    return {name: [(share, None, None) for share in values] for name, values in shares.items()}


def _orders(report: Report) -> Markup | None:
    """Plot the ranked lists and the same videos in the order of the neighbours; None if there are no ranked lists."""
    cut, systems = report.ranking.get("cut"), ("neighbours", "ranking")
    if not cut or not all(report.ranking.get(name) and name in report.systems for name in systems):
        return None
    figure, bars = f"recall@{cut}", {}
    if not all(figure in report.systems[name]["figures"] for name in systems):  # lists are shorter than `cut`
        return None
    for name in systems:
        watch_time = report.ranking[name]
        bars[name] = [*_line(report.systems[name], [figure]), (watch_time["recall"], *watch_time["interval"])]
    return plots.systems("Ranked and unranked lists", [figure, f"watch time in the first {cut}"], bars)


def _line(metrics: Mapping[str, Any], cuts: Sequence[str]) -> list[tuple[float, float | None, float | None]]:
    intervals = metrics.get("intervals", {})
    return [(metrics["figures"].get(cut, 0.0), *intervals.get(cut, (None, None))) for cut in cuts]


def _systems(report: Report) -> Markup | None:
    names = {
        name for metrics in report.systems.values() for name in metrics["figures"] if re.match(r"recall@\d+$", name)
    }
    cuts = sorted(names, key=lambda name: int(name[7:]))
    bars = {system: _line(metrics, cuts) for system, metrics in report.systems.items()}
    return plots.systems("Recall at each k by system", cuts, bars) if cuts else None


def _freshness(report: Report, values: Mapping[str, Mapping[str, Any]]) -> Markup | None:
    """Plot each system's `report.metric` by age of the watched video."""
    bars = {
        system: [
            _line(by_system[system], [report.metric])[0] if system in by_system else (0.0, None, None)
            for by_system in values.values()
        ]
        for system in _measured_systems(report, values)
    }
    return plots.systems("Recall by age of the video", list(values), bars) if bars else None


@dataclass(frozen=True, kw_only=True)
class NightRow:
    """One night of the page."""

    date: str
    status: Status
    served: bool = False  # whether its lists are served now
    recall: Point | None = None  # in the holdout, with its interval
    metric: str = ""  # name of the metric in `recall`, if it is not that of the page
    users: int | None = None
    failed: Sequence[str] = ()  # names of failed gates
    unexpected: Sequence[str] = ()  # names of gates that should have been computed but were not
    link: str = ""  # to the report; empty if there is none


def render_nights(rows: Sequence[NightRow], *, metric: str) -> str:
    """Render the page as HTML. metric: the name of the metric in `recall`, such as recall@100."""
    table = [
        (row, row.recall[0] if row.recall else None, figures.format_interval(row.recall and row.recall[1:]))
        for row in rows
    ]
    return environment().get_template("nights.html.jinja").render(rows=table, metric=metric)
