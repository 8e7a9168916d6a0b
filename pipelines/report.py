"""What the report of a night shows, gathered from the manifests of its stages."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from typing import Any

import polars as pl

from pipelines import manifest, paths, train
from pipelines.stages import STAGES, Night
from transforms import files
from transforms.folding import KINDS
from transforms.report import Report, Status, Training, render_report
from transforms.similar import SIMILAR

SHOWN_VIDEOS = 12
SHOWN_NEIGHBOURS = 5
_FOLDING = {
    "apart": "nobody watched both",
    "other_country": "of another country",
    "other_topic": "of another topic",
    "folded": "folded",
}
_PACKAGES = ("watchnext", "apache-beam", "tensorflow", "tensorflow-transform", "scann", "polars", "numpy")


def render(night: Night, metrics: dict[str, dict[str, float]]) -> str:
    """The night's report as one HTML page. metrics: system -> figure -> value; empty without a holdout."""
    done = {stage: found for stage in STAGES if (found := manifest.load(night.folder(stage)))}
    counts = {stage: found.counts for stage, found in done.items()}
    history = json.loads(files.read_bytes(paths.join(night.folder("train"), train.HISTORY)))
    recall = f"recall@{max((int(n.split('@')[1]) for n in next(iter(metrics.values()), {}) if '@' in n), default=0)}"
    page = Report(
        date=night.date.isoformat(),
        status=_status(metrics),
        headline=[
            ("users served", counts["neighbours"].get("users", 0)),
            ("videos to choose from", counts["index"]["info"]["candidates"]["rows"]),
            ("watches in the window", counts["vocabulary"]["window"]["watches"]),
            ("training labels", counts["examples"]["train_pointers"]),
            *((f"{recall}, {system}", figures[recall]) for system, figures in metrics.items()),
        ],
        metrics=metrics,
        training=Training(
            steps=[point["step"] for point in history["loss"]],
            losses=[point["loss"] for point in history["loss"]],
            epochs=[next(value for name, value in epoch.items() if "recall" in name) for epoch in history["holdout"]],
        ),
        similar=list(_similar(night)),
        folding=folding(counts["neighbours"]),
        counts=list(_rows(counts)),
        rejects=counts["ingest"].get("rejects", {}),
        vocabulary={**counts["vocabulary"]["cover"], "long tail": long_tail(counts["examples"])},
        seconds={stage: found.seconds for stage, found in done.items()},
        settings=night.job.model_dump(mode="json"),
        versions={name: _version(name) for name in _PACKAGES},
    )
    return render_report(page)


def long_tail(counts: dict[str, int]) -> dict[str, float]:
    """What the cut of the video vocabulary touches: shares of completed watches and of the users who have any. From
    the counts of stage examples."""
    touched, others = counts["users_with_out_of_vocabulary"], counts["users_with_nothing_else"]
    completed = counts["watches"] - counts["watches_of_robots"] - counts["watches_not_completed"]
    return {
        "share of completed watches out of vocabulary": counts["watches_out_of_vocabulary"] / max(1, completed),
        "share of users with one in their past": touched / max(1, counts["users_with_completed"]),
        "share of users with nothing else in it": others / max(1, counts["users_with_completed"]),
    }


def folding(counts: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Shares of the pairs of each kind, those without pairs left out. From the counts of stage neighbours."""
    found = {kind: counts["folding"][kind] for kind in KINDS} if "folding" in counts else {}
    return {
        kind: {shown: of[figure] / of["pairs"] for figure, shown in _FOLDING.items()}
        for kind, of in found.items()
        if of["pairs"]
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout that runs without being installed
        return "not installed"


def _status(metrics: dict[str, dict[str, float]]) -> Status:
    if not metrics:
        return Status(text="ungated: no holdout to measure on (examples.holdout_days, holdout_users)", level="warn")
    return Status(text="ungated: nothing compares this night with a bound", level="warn")


def _rows(counts: dict[str, dict[str, object]]) -> Iterator[tuple[str, str, int]]:
    """(stage, what, rows) of everything counted."""
    tables = counts["ingest"].get("tables", {})
    assert isinstance(tables, dict)
    for table, rows in tables.items():
        yield from (("ingest", f"{table} {what}", number) for what, number in rows.items())
    for stage in ("examples", "neighbours"):
        for what, number in counts[stage].items():
            if isinstance(number, int):
                yield stage, what.replace("_", " "), number


def _similar(night: Night) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Titles of the most completed videos, each with its nearest neighbours' titles and cosines."""
    listed = manifest.entries(night.require("neighbours").named(SIMILAR), night.folder("neighbours"))
    if not listed:
        return
    vectors = files.read_parquet(paths.join(night.folder("train"), train.VECTORS), ["id", "video_id"])
    wanted = vectors.sort("id").head(10 * SHOWN_VIDEOS).select("video_id")
    rows = pl.concat(files.read_parquet(path) for path in listed)
    shown = wanted.join(rows, on="video_id", maintain_order="left").head(SHOWN_VIDEOS)
    titles = night.titles({*shown["video_id"], *shown["video_ids"].explode()})
    for video, ids, cosines in shown.iter_rows():
        nearest = list(zip(ids, cosines, strict=True))[:SHOWN_NEIGHBOURS]
        yield titles.get(video, video), [(titles.get(other, other), cosine) for other, cosine in nearest]
