"""Figures of a night made by hand."""

from __future__ import annotations

from typing import Any

from transforms.evaluation.night_metrics import NightMetrics


def measured(value: float, *, users: int = 500, spread: float = 0.001, **more: Any) -> NightMetrics:
    """Figures of one night: recall@100 of its lists, and 0.1 of the most popular videos."""

    def system(recall: float) -> dict[str, Any]:
        replicates = {"recall@100": [recall + spread * n for n in range(-50, 51)]}
        figures = {"users": users, "recall@100": recall}
        return {"figures": figures, "intervals": {"recall@100": [recall - 0.1, recall + 0.1]}, "replicates": replicates}

    content = {
        "format_version": 1,
        "k": 100,
        "gate": "recall@100",
        "holdout": {"start": "a", "end": "b", "users": users},
        "systems": {"neighbours": system(value), "most popular": system(0.1)},
        "beside": {"most popular": {"value": value - 0.1, "low": value - 0.15, "high": value - 0.05}},
    }
    return NightMetrics.model_validate(content | more)
