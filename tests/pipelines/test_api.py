"""watchnext from Python: the frames are those of the files, the errors those of the commands, and the notebook runs."""

from __future__ import annotations

import datetime as dt
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from nights import DATE, REPOSITORY, night, published_night, write_job
from two_nights import BEFORE, copy

from pipelines import nightly
from pipelines.api import OpenJob, open_job
from pipelines.base import snapshot_store
from pipelines.config.jobs import JobError
from pipelines.night.errors import GateError, StageError
from pipelines.night.night import Night, Outcome
from transforms.logs.key_source import key_check
from transforms.logs.privacy import pseudonym

LISTS = pl.DataFrame(
    {"user_id": ["ann", "bob", "cleo"], "video_ids": [["v1", "v2"], ["v2"], []], "scores": [[2.0, 1.0], [0.5], []]},
    schema_overrides={"video_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)},
)
VECTORS = pl.DataFrame({"user_id": ["ann"], "vector": [[0.5, 1.0]]}, schema_overrides={"vector": pl.List(pl.Float32)})


@pytest.fixture
def made(job: Path) -> OpenJob:
    """A job whose only night was published by hand."""
    published_night(job, LISTS, vectors=VECTORS)
    return open_job(str(job))


@pytest.fixture
def ranked(ranked_nights: Path) -> OpenJob:
    """A job with two whole nights, whose lists are ranked."""
    return open_job(str(ranked_nights / "job.toml"))


def test_lists_are_those_of_the_files(made: OpenJob) -> None:
    assert made.lists().sort("user_id").equals(LISTS)
    assert made.lists(DATE).equals(made.lists(str(DATE)))
    assert made.lists(long=True).sort("user_id", "position").rows() == [
        ("ann", 1, "v1", 2.0),
        ("ann", 2, "v2", 1.0),
        ("bob", 1, "v2", 0.5),
    ]


@pytest.mark.parametrize("users", [[], ["cleo"], ["bob", "nobody"], ["ann", "bob", "cleo"]], ids=str)
def test_only_the_users_asked_for_are_read(users: list[str], made: OpenJob) -> None:
    found = made.lists(users=users)
    assert found.sort("user_id").equals(LISTS.filter(pl.col("user_id").is_in(users)))
    assert found.schema == LISTS.schema
    assert made.vectors("users", users=users).equals(VECTORS.filter(pl.col("user_id").is_in(users)))


def test_users_are_named_as_in_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "0123456789abcdef" * 2
    monkeypatch.setenv("KEY", key)
    job = write_job(tmp_path, 'watches = "w"', '[privacy]\npseudonym_key_env = "KEY"\n')
    stored = LISTS.with_columns(user_id=pl.Series([pseudonym(user, key.encode()) for user in LISTS["user_id"]]))
    of = published_night(job, stored)
    with pytest.raises(JobError, match="holds unmodified user ids"):
        open_job(str(job)).lists(users=["ann"])
    snapshot_store.commit(
        of.root.snapshots, snapshot_store.Snapshot(buckets=8, number=2, key_check=key_check(key.encode()))
    )
    found = open_job(str(job)).lists(users=["ann", "nobody", "cleo"])
    assert found.sort("user_id").equals(LISTS.filter(pl.col("user_id") != "bob"))
    assert open_job(str(job)).lists().sort("user_id").equals(stored.sort("user_id"))


def test_the_vectors_give_the_scores(ranked: OpenJob) -> None:
    users, videos = ranked.vectors("users"), ranked.vectors("videos")
    assert {"video_id", "label_count", "title", "vector"} <= set(videos.columns)
    assert videos["label_count"][0] == videos["label_count"].max()
    scores = np.array(users["vector"].to_list()) @ np.array(videos["vector"].to_list()).T
    assert scores.shape == (users.height, videos.height) and np.isfinite(scores).all()


def test_metrics_are_those_of_the_file(ranked: OpenJob) -> None:
    found = ranked.metrics(BEFORE)
    path = Path(night(Path(ranked.path), BEFORE).folder("evaluation"), "metrics.json")
    systems = json.loads(path.read_text())["systems"]
    assert found["date"].unique().to_list() == [BEFORE]
    of_all = found.filter(pl.col("slice").is_null())
    assert {(row["system"], row["metric"]): row["value"] for row in of_all.to_dicts()} == {
        (system, name): value for system, of in systems.items() for name, value in of["figures"].items()
    }
    compared = of_all.filter(pl.col("system") == "most popular", pl.col("metric") == "map").row(0, named=True)
    assert compared["difference_low"] <= compared["served_minus_system"] <= compared["difference_high"]
    assert found.filter(pl.col("slice") == "country").height > 0


def test_nights_are_those_with_metrics(ranked: OpenJob, made: OpenJob) -> None:
    assert made.nights() == []
    assert ranked.nights() == [BEFORE, DATE]
    assert ranked.lists()["expected_seconds"].list.len().max() == 14


def test_a_complete_night_is_not_run_again(ranked_nights: Path, tmp_path: Path) -> None:
    end = open_job(str(copy(ranked_nights, tmp_path))).run_night(str(DATE))
    assert (end.code, end.date) == (0, DATE.isoformat()) and "nothing to do" in end.message


@pytest.mark.parametrize(
    ("code", "kind"), [(1, StageError), (2, JobError), (3, GateError), (130, KeyboardInterrupt)], ids=str
)
def test_a_night_that_fails_raises(
    code: int, kind: type[BaseException], job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(of: Night, **_how: object) -> Outcome:
        return Outcome(run="", date=of.date.isoformat(), code=code, message="the reason", seconds=0.0)

    monkeypatch.setattr(nightly, "run_with_reporting", run)
    with pytest.raises(kind, match=r"^the reason$"):
        open_job(str(job)).run_night(DATE)


def test_mistakes_are_named(made: OpenJob, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"date = '21.11.2026': must have the form 2026-11-21"):
        made.lists("21.11.2026")
    with pytest.raises(JobError, match="of = 'channels': must be users or videos"):
        made.vectors("channels")  # type: ignore[arg-type]
    with pytest.raises(JobError, match="vectors of videos do not belong to users"):
        made.vectors("videos", users=["ann"])
    with pytest.raises(JobError, match="users = 'ann': must be a list of ids"):
        made.lists(users="ann")
    with pytest.raises(StageError, match="no complete lists of the night of 2026-11-20"):
        made.lists(DATE - dt.timedelta(days=1))
    with pytest.raises(StageError, match="has no figures: run watchnext nightly --date 2026-11-21"):
        made.metrics()
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(StageError, match="nothing is published"):
        made.lists()
    with pytest.raises(JobError, match="missing"):
        open_job(str(tmp_path / "missing.toml"))


def test_the_notebook_runs(ranked_nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB", str(copy(ranked_nights, tmp_path)))
    monkeypatch.setenv("DATE", DATE.isoformat())
    left = runpy.run_path(str(REPOSITORY / "docs" / "notebook.py"))
    assert left["some"].height == 3
    assert left["metrics"]["date"].unique().to_list() == [DATE]
    assert set(left["nights"]["date"]) == {BEFORE, DATE}
