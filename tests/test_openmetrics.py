from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from nights import DATE, night, write_job
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pipelines import manifest, openmetrics
from pipelines.manifest import Manifest
from pipelines.openmetrics import Gauge
from pipelines.run_log import Outcome
from pipelines.stages import Night

DONE = Outcome(run="r", date="2026-11-21", code=0, message="done", seconds=12.5)
FAILED = Outcome(run="r", date="2026-11-22", code=3, message="a gate", seconds=2.5)
COUNTS: dict[str, dict[str, Any]] = {
    "ingest": {
        "rows": {"watches": 90, "searches": 4},
        "tables": {"watches": {"read": 100, "refused": 3, "duplicates": 7, "kept": 90}},
    },
    "evaluation": {"metrics": {"neighbours": {"recall@10": 0.25, "recall@50": 0.5, "NDCG@10": 0.1, "users": 17}}},
}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def of(tmp_path: Path) -> Night:
    """A night with two complete stages, published."""
    found = night(write_job(tmp_path, 'watches = "w"'))
    for stage, counts in COUNTS.items():
        done = Manifest(stage=stage, date=DATE.isoformat(), fingerprint="f", files=[], counts=counts, seconds=3.25)
        manifest.commit(found.folder(stage), done)
    served = {"date": "2026-11-21", "users": 7, "published_at": "2026-11-21T04:05:06+00:00"}
    Path(found.root.published).write_text(json.dumps(served))
    return found


def samples(text: str) -> Samples:
    """Every sample of a text that both parsers read, and read alike: (name, labels) -> value."""
    both = []
    for parse in (parse_openmetrics, parse_text):
        families = list(parse(text))
        assert {family.type for family in families} == {"gauge"}
        assert all(family.documentation for family in families)
        both.append({(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples})
    assert both[0] == both[1]
    return both[0]


def written(of: Night, end: Outcome) -> Samples:
    assert openmetrics.write(of, end) == ""
    return samples(Path(of.root.metrics).read_text())


def alone(found: Samples, name: str) -> float | None:
    return found.get((f"watchnext_{name}", frozenset()))


def test_a_night_that_went_well(of: Night) -> None:
    before = time.time()
    found = written(of, DONE)
    times = [found.pop((f"watchnext_last_{what}_timestamp_seconds", frozenset())) for what in ("run", "success")]
    assert all(before <= at <= time.time() for at in times)
    expected: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
        ("last_run_duration_seconds", ()): 12.5,
        ("last_run_exit_code", ()): 0,
        ("stage_duration_seconds", (("stage", "ingest"),)): 3.25,
        ("stage_duration_seconds", (("stage", "evaluation"),)): 3.25,
        ("ingested_rows", (("table", "watches"), ("became", "refused"))): 3,
        ("ingested_rows", (("table", "watches"), ("became", "duplicates"))): 7,
        ("ingested_rows", (("table", "watches"), ("became", "kept"))): 90,
        ("store_rows", (("table", "watches"),)): 90,
        ("store_rows", (("table", "searches"),)): 4,
        ("recall_ratio", (("system", "neighbours"), ("k", "10"))): 0.25,
        ("recall_ratio", (("system", "neighbours"), ("k", "50"))): 0.5,
        ("published_night_timestamp_seconds", ()): 1795219200,  # 2026-11-21T00:00:00Z
        ("published_timestamp_seconds", ()): 1795233906,
        ("served_users", ()): 7,
    }
    assert found == {(f"watchnext_{name}", frozenset(labels)): value for (name, labels), value in expected.items()}


def test_a_failed_night_leaves_the_time_of_the_last_success(of: Night) -> None:
    first = alone(written(of, DONE), "last_success_timestamp_seconds")
    assert first is not None
    for _ in range(2):
        found = written(of, FAILED)
        assert alone(found, "last_run_exit_code") == 3
        assert alone(found, "last_success_timestamp_seconds") == first


def test_before_the_first_success_there_is_none(tmp_path: Path) -> None:
    found = written(night(write_job(tmp_path, 'watches = "w"')), FAILED)
    assert {name for name, _ in found} == {
        "watchnext_last_run_timestamp_seconds",
        "watchnext_last_run_duration_seconds",
        "watchnext_last_run_exit_code",
    }


def test_names_end_with_their_unit_and_the_text_with_eof(of: Night) -> None:
    written(of, DONE)
    lines = Path(of.root.metrics).read_text().splitlines()
    assert lines[-1] == "# EOF"
    units = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# UNIT ")}
    assert units["watchnext_recall_ratio"] == "ratio" and set(units.values()) == {"seconds", "ratio"}
    assert all(name.endswith(f"_{unit}") for name, unit in units.items())


def test_values_of_labels_are_escaped() -> None:
    odd = 'a "quoted" \\ name\nof two lines'
    text = openmetrics.render([Gauge("watchnext_x", "Help.", {(("system", odd),): 1.0})])
    assert samples(text) == {("watchnext_x", frozenset({("system", odd)})): 1.0}


def test_a_file_that_cannot_be_replaced_is_a_warning(of: Night) -> None:
    Path(of.root.metrics).mkdir()
    assert openmetrics.write(of, DONE).startswith(f"{of.root.metrics} is not up to date: IsADirectoryError")
