"""Results of peers: the choice of settings, and tables. Pure functions on what JSON files hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

GIB = 2**30
WATCHNEXT = "watchnext"


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return a short name of settings, the same for the same settings in any order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def chosen(tries: Sequence[Mapping[str, Any]], figure: str) -> dict[str, Any]:
    """Return settings, epochs, seconds and figures of the point with the highest figure; the earliest of equal ones.

    tries: `settings`, and `points` with `epochs`, `train_seconds` and `figures`. Raises ValueError if there is none.
    """
    points = [{"settings": tried["settings"], **point} for tried in tries for point in tried["points"]]
    if not points:
        raise ValueError("no settings were tried: is the grid of the peer empty?")
    return max(points, key=lambda point: (point["figures"][figure], -point["train_seconds"]))


def quality_table(results: Sequence[Mapping[str, Any]], cuts: Sequence[int], measure: str) -> str:
    """Return a Markdown table, one row per result, watchnext first, then by the figure at the last cut.

    measure: the figure without its cut, for example "recall".
    """
    order = sorted(results, key=lambda row: (row["peer"] != WATCHNEXT, -row["figures"][f"{measure}@{cuts[-1]}"]))
    heads = [
        "method",
        f"{measure}@{' / '.join(map(str, cuts))}",
        "NDCG@" + str(cuts[-1]),
        "training, s",
        "lists of all users, users/s",
        "memory, GiB",
        "whole, s",
        "settings tried",
        "chosen on validation",
    ]
    return "\n".join([_line(heads), _line(["---"] * len(heads)), *(_line(_row(row, cuts, measure)) for row in order)])


def _row(row: Mapping[str, Any], cuts: Sequence[int], measure: str) -> list[str]:
    figures = row["figures"]
    settings = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
    epochs = f"{row['epochs']} epochs" if row["epochs"] and row["epochs"] > 1 else ""
    return [
        row["title"],
        " / ".join(decimal(figures[f"{measure}@{k}"]) for k in cuts),
        decimal(figures[f"ndcg@{cuts[-1]}"]),
        f"{row['train_seconds']:,.0f}",
        f"{row['listed_users'] / row['list_seconds']:,.0f}",
        f"{row['peak_bytes'] / GIB:.1f}",
        f"{row['whole_seconds']:,.0f}",
        str(row["tries"]),
        ", ".join(filter(None, [settings, epochs])),
    ]


def decimal(value: float) -> str:
    """Format a share with three decimals and without the zero before the point, as docs/benchmarks.md does."""
    return f"{value:.3f}".removeprefix("0")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
