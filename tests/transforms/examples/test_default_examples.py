"""Records of unknown users equal those of users without usable events in the window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from nights import night, write_job

from pipelines import examples, ingest, vocabulary
from transforms.contracts.example_spec import MISSING, FeatureSpec
from transforms.examples.tfrecords import read_tfrecords

WATCHES: list[dict[str, Any]] = [
    {"user_id": "ann", "video_id": "tea", "completed": True, "country": "SE", "device": "tv"},
    {"user_id": "bob", "video_id": "tea", "completed": True, "country": "DE", "device": "tv"},
    {"user_id": "bob", "video_id": "jazz", "completed": True, "country": "DE", "device": "tv"},
    {"user_id": "eve", "video_id": "jazz", "completed": False, "country": "SE", "device": None},
    {"user_id": "joe", "video_id": "jazz", "completed": False, "country": None, "device": None},
]
SEARCHES = [{"user_id": user, "query": "?!"} for user in ("eve", "joe", "sue")] + [{"user_id": "bob", "query": "tea"}]
USERS = [{"user_id": "ann", "gender": "f", "birth_year": 1986}]


def run(folder: Path, tables: dict[str, list[dict[str, Any]]]) -> tuple[FeatureSpec, dict[str, dict[str, Any]], Any]:
    """Run the stages on tables and return the spec, the serving records by user, and the default records in order."""
    for table, rows in tables.items():
        timed = [{**row, "time": f"2026-11-19T10:0{at}:00Z"} for at, row in enumerate(rows)]
        (folder / f"{table}.jsonl").write_text("\n".join(json.dumps(row) for row in timed))
    logs = "\n".join(f'{table} = "{table}.jsonl"' for table in tables)
    job = write_job(
        folder, logs, "[examples]\nwindow_days = 5\nholdout_days = 0\npartial_watches = false\n[storage]\nbuckets = 8\n"
    )
    of = night(job)
    for stage in (ingest, vocabulary, examples):
        stage.run(of)
    done, at = of.require("examples"), of.folder("examples")
    spec = FeatureSpec.from_json((Path(at) / "spec.json").read_text())
    ids = ("watches", "tokens", "label", "watches_end", "tokens_end", "label_days", "as_of_days", *spec.categories)
    features: dict[str, Any] = {"user_id": pl.String(), **dict.fromkeys(ids, pl.List(pl.Int64))}
    features |= dict.fromkeys(("example_age", *spec.numbers), pl.List(pl.Float32))
    (defaults,) = [read_tfrecords(f"{at}/{e.name}", features).to_dicts() for e in done.named("defaults-")]
    served = [row for e in done.named("serving/") for row in read_tfrecords(f"{at}/{e.name}", features).to_dicts()]
    return spec, {row["user_id"]: row for row in served}, defaults


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureSpec, dict[str, dict[str, Any]], Any]:
    tables = {"watches": WATCHES, "searches": SEARCHES, "users": USERS}
    return run(tmp_path_factory.mktemp("defaults"), tables)


def test_one_record_for_no_country_and_one_for_each(
    everything: tuple[FeatureSpec, dict[str, dict[str, Any]], Any],
) -> None:
    spec, _, defaults = everything
    assert spec.categories["country"] == ["DE", "SE"]
    assert [(row["user_id"], row["country"]) for row in defaults] == [("", [0]), ("DE", [1]), ("SE", [2])]
    for row in defaults:
        assert row["watches"] == row["tokens"] == row["label"] == []
        assert row["watches_end"] == row["tokens_end"] == row["device"] == row["gender"] == [0]
        assert row["age"] == [MISSING] and row["example_age"] == [0.0]


def test_records_equal_those_of_users_without_usable_history(
    everything: tuple[FeatureSpec, dict[str, dict[str, Any]], Any],
) -> None:
    _, served, (anywhere, _, sweden) = everything
    nameless = [{name: value for name, value in row.items() if name != "user_id"} for row in (anywhere, sweden)]
    for user, expected in {"joe": nameless[0], "sue": nameless[0], "eve": nameless[1]}.items():
        assert {name: value for name, value in served[user].items() if name != "user_id"} == expected


def test_logs_without_countries_give_one_record(tmp_path: Path) -> None:
    plain = [{name: row[name] for name in ("user_id", "video_id", "completed")} for row in WATCHES]
    spec, served, (only,) = run(tmp_path, {"watches": plain})
    assert spec.categories == {} and only["user_id"] == "" and served["joe"] == {**only, "user_id": "joe"}
