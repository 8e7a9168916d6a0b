from __future__ import annotations

import datetime as dt
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nights import DATE, commit, night, write_job
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pipelines import gates
from pipelines.night.night import Night, Outcome
from pipelines.runs import openmetrics
from transforms.core import files

DONE = Outcome(run="r", date="2026-11-21", code=0, message="done", seconds=12.5)
FAILED = Outcome(run="r", date="2026-11-22", code=3, message="a gate", seconds=2.5)
COUNTS: dict[str, dict[str, Any]] = {
    "ingest": {
        "snapshot": 1,
        "rows": {"watches": 90, "searches": 4},
        "tables": {"watches": {"read": 100, "refused": 3, "duplicates": 7, "kept": 90}},
    }
}
DAY = dt.timedelta(days=1)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def staged(of: Night, recall: float = 0.25, lists: int = 7) -> Night:
    """The night, with three complete stages."""
    counts = COUNTS | {"neighbours": {"users": lists}}
    counts["evaluation"] = {"metrics": {"neighbours": {"recall@10": recall, "recall@50": 0.5, "NDCG@10": 0.1}}}
    for stage, own in counts.items():
        commit(of, stage, counts=own, seconds=3.25)
    return of


def serve(of: Night) -> None:
    """Make the night, as it is now, the one that is served."""
    served = {"date": str(of.date), "users": 7, "published_at": "2026-11-21T04:05:06+00:00", "stage": "neighbours"}
    served |= {
        "neighbours": of.require("neighbours").digest,
        **gates.summary(of).model_dump(mode="json", exclude_unset=True),
    }
    Path(of.root.published).write_text(json.dumps(served))


@pytest.fixture
def of(tmp_path: Path) -> Night:
    """A night with three complete stages, published."""
    found = staged(night(write_job(tmp_path, 'watches = "w"')))
    serve(found)
    return found


def list_of(night_: Night) -> str:
    return f"neighbours-{night_.require('neighbours').digest[:8]}"


def recalls(found: Samples) -> dict[tuple[str, str], float]:
    """(night, list) -> recall@10."""
    ratios = {labels: value for (name, labels), value in found.items() if name.endswith("recall_ratio")}
    return {(dict(labels)["date"], dict(labels)["list"]): v for labels, v in ratios.items() if ("k", "10") in labels}


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
    """The value of a metric with one sample; None if it has none."""
    values = [value for (metric, _), value in found.items() if metric == f"watchnext_{name}"]
    assert len(values) <= 1
    return values[0] if values else None


def test_a_night_that_went_well(of: Night) -> None:
    before = time.time()
    found = written(of, DONE)
    night_, lists = ("date", "2026-11-21"), ("list", list_of(of))
    ends = (f"watchnext_last_{end}_timestamp_seconds" for end in ("run", "success"))
    times = [found.pop((name, frozenset({night_}))) for name in ends]
    assert all(before <= at <= time.time() for at in times)
    expected: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
        ("last_run_duration_seconds", (night_,)): 12.5,
        ("last_run_exit_code", (night_,)): 0,
        ("stage_duration_seconds", (night_, ("stage", "ingest"))): 3.25,
        ("stage_duration_seconds", (night_, ("stage", "neighbours"))): 3.25,
        ("stage_duration_seconds", (night_, ("stage", "evaluation"))): 3.25,
        ("ingested_rows", (night_, ("table", "watches"), ("became", "refused"))): 3,
        ("ingested_rows", (night_, ("table", "watches"), ("became", "duplicates"))): 7,
        ("ingested_rows", (night_, ("table", "watches"), ("became", "kept"))): 90,
        ("store_rows", (night_, ("table", "watches"))): 90,
        ("store_rows", (night_, ("table", "searches"))): 4,
        ("recall_ratio", (night_, lists, ("system", "neighbours"), ("k", "10"))): 0.25,
        ("recall_ratio", (night_, lists, ("system", "neighbours"), ("k", "50"))): 0.5,
        ("recall_ratio", (night_, lists, ("system", "served"), ("k", "10"))): 0.25,
        ("recall_ratio", (night_, lists, ("system", "served"), ("k", "50"))): 0.5,
        ("published_night_timestamp_seconds", (night_, lists)): 1795219200,  # 2026-11-21T00:00:00Z
        ("published_timestamp_seconds", (night_, lists)): 1795233906,
        ("served_users", (night_, lists)): 7,
    }
    assert found == {(f"watchnext_{name}", frozenset(labels)): value for (name, labels), value in expected.items()}


def test_the_recall_of_the_served_lists_is_that_of_the_ranked_ones(of: Night) -> None:
    figures = {"ranking": {"recall@10": 0.125}, "neighbours": {"recall@10": 0.25}}
    commit(of, "evaluation", counts={"metrics": figures})
    ranked = files.write_bytes(of.folder("ranking"), "00000-of-00001-aa.parquet", 7, b"lists")
    inputs = {"neighbours": of.require("neighbours").digest}
    commit(of, "ranking", [ranked], counts={"ranker": "r"}, inputs=inputs)
    assert by_system(written(of, DONE), "ranking") == {"ranking": 0.125, "neighbours": 0.25, "served": 0.125}
    served = json.loads(Path(of.root.published).read_text())
    Path(of.root.published).write_text(json.dumps(served | {"stage": "ranking", "recall": figures}))
    commit(of, "evaluation", counts={"metrics": {"neighbours": {"recall@10": 0.25}}})
    assert by_system(written(of, DONE), "ranking") == {"ranking": 0.125, "neighbours": 0.25, "served": 0.125}
    Path(of.root.published).write_text(json.dumps(served | {"stage": "ranking"}))
    assert by_system(written(of, DONE), "ranking") == {"neighbours": 0.25}, "an older version did not measure them"


def by_system(found: Samples, stage: str) -> dict[str, float]:
    """System -> recall@10 of the lists of a stage."""
    labelled = [(dict(labels), value) for (name, labels), value in found.items() if name.endswith("recall_ratio")]
    of_stage = [(own, value) for own, value in labelled if own["list"].startswith(stage) and own["k"] == "10"]
    return {own["system"]: value for own, value in of_stage}


def test_a_failed_night_leaves_the_time_of_the_last_success(of: Night) -> None:
    first = alone(written(of, DONE), "last_success_timestamp_seconds")
    assert first is not None
    for _ in range(2):
        found = written(replace(of, date=DATE + DAY), FAILED)
        assert alone(found, "last_run_exit_code") == 3
        assert alone(found, "last_success_timestamp_seconds") == first


def test_a_backfill_renews_no_success_and_replaces_no_figure_of_the_served_night(of: Night) -> None:
    first = written(of, DONE)
    older = staged(replace(of, date=DATE - 9 * DAY), recall=0.125, lists=3)
    found = written(older, replace(DONE, date=str(older.date)))
    at = "watchnext_last_success_timestamp_seconds", frozenset({("date", "2026-11-21")})
    assert found[at] == first[at] and alone(found, "last_success_timestamp_seconds") == first[at]
    assert alone(found, "served_users") == 7
    assert recalls(found) == {("2026-11-21", list_of(of)): 0.25, (str(older.date), list_of(older)): 0.125}


def test_lists_of_another_run_that_are_not_served_stand_next_to_those_that_are(of: Night) -> None:
    served = list_of(of)
    staged(of, recall=0.375, lists=6)
    found = written(of, replace(FAILED, date=str(DATE)))
    assert recalls(found) == {("2026-11-21", served): 0.25, ("2026-11-21", list_of(of)): 0.375}
    assert alone(found, "served_users") == 7


def test_a_published_json_that_cannot_be_read_hides_no_failure(of: Night) -> None:
    written(of, DONE)
    Path(of.root.published).write_text("{")
    found = written(replace(of, date=DATE + DAY), FAILED)
    assert alone(found, "last_run_exit_code") == 3 and alone(found, "served_users") is None


def test_a_stage_run_by_itself_is_no_success_of_a_night(of: Night) -> None:
    first = alone(written(of, DONE), "last_success_timestamp_seconds")
    found = written(replace(of, date=DATE + DAY), replace(DONE, date=str(DATE + DAY)))
    assert alone(found, "last_success_timestamp_seconds") == first


def test_after_a_rollback_the_served_night_and_those_withdrawn_are_named(of: Night) -> None:
    later = staged(replace(of, date=DATE + DAY), recall=0.125, lists=3)
    serve(later)
    before = written(later, replace(DONE, date=str(later.date)))
    serve(of)
    for published, date in ((True, later.date), (False, DATE + 2 * DAY)):
        commit(replace(of, date=date), "publish", counts={"published": published})
    Path(of.root.withdrawn).write_text(json.dumps([str(later.date), str(DATE + 2 * DAY)]))
    assert openmetrics.write(of) == ""
    found = samples(Path(of.root.metrics).read_text())
    withdrawn = ("watchnext_withdrawn_night_timestamp_seconds", frozenset({("date", "2026-11-22")}))
    assert found[withdrawn] == 1795305600 and withdrawn not in before
    assert alone(found, "withdrawn_night_timestamp_seconds") == 1795305600, "a night that failed was never served"
    assert alone(found, "published_night_timestamp_seconds") == 1795219200
    of_run = [key for key in before if "last_" in key[0] or "stage_" in key[0] or "rows" in key[0]]
    assert len(of_run) > 5 and all(found[key] == before[key] for key in of_run)
    assert recalls(found) == {("2026-11-21", list_of(of)): 0.25, ("2026-11-22", list_of(later)): 0.125}


def test_files_of_older_versions_are_read(of: Night) -> None:
    old = "watchnext_last_run_{} 1.0\n"
    text = "".join(old.format(name) for name in ("timestamp_seconds", "duration_seconds", "exit_code"))
    Path(of.root.metrics).write_text(text + "watchnext_last_success_timestamp_seconds 5.5\n")
    served = json.loads(Path(of.root.published).read_text())
    Path(of.root.published).write_text(json.dumps({name: of_ for name, of_ in served.items() if name != "recall"}))
    assert openmetrics.write(of) == ""
    found = samples(Path(of.root.metrics).read_text())
    assert alone(found, "last_success_timestamp_seconds") == 5.5
    assert recalls(found) == {("2026-11-21", list_of(of)): 0.25}
    found = written(replace(of, date=DATE + DAY), FAILED)
    assert alone(found, "last_success_timestamp_seconds") == 5.5


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
    text = openmetrics.render([openmetrics.gauge("watchnext_x", "Help.", {(("system", odd),): 1.0})])
    assert samples(text.decode()) == {("watchnext_x", frozenset({("system", odd)})): 1.0}


def test_a_file_that_cannot_be_replaced_is_a_warning(of: Night) -> None:
    Path(of.root.metrics).mkdir()
    assert openmetrics.write(of, DONE).startswith(f"{of.root.metrics} is not up to date: IsADirectoryError")
