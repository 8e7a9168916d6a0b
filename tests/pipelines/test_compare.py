"""`watchnext compare`: two nights of one job, and two jobs."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from commands import run_here
from nights import DATE, night, published_night, with_figures, write_job

from pipelines import compare
from pipelines.base import manifest
from pipelines.config.jobs import JobError

AFTER = DATE + dt.timedelta(days=1)


def lists(rows: dict[str, list[str]]) -> pl.DataFrame:
    frame = pl.DataFrame(
        {"user_id": list(rows), "video_ids": list(rows.values())},
        schema={"user_id": pl.String, "video_ids": pl.List(pl.String)},
    )
    scores = [[float(-n) for n, _ in enumerate(videos)] for videos in rows.values()]
    return frame.with_columns(pl.Series("scores", scores, dtype=pl.List(pl.Float32)))


FIRST = {"ann": ["v1", "v2"], "bob": ["v3"], "cat": ["v1"], "dan": []}
SECOND = {"ann": ["v1", "v9"], "bob": ["v3"], "eve": ["v4"], "dan": ["v5"]}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = write_job(tmp_path, 'watches = "w"')
    with_figures(published_night(path, lists(FIRST)), 100, {10: 0.2, 100: 0.5})
    with_figures(published_night(path, lists(SECOND), date=AFTER), 100, {10: 0.3, 100: 0.5})
    return path


D, E = DATE, AFTER


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a.toml", D, E], [("a.toml", D), ("a.toml", E)]),
        (["a.toml", "b.toml"], [("a.toml", None), ("b.toml", None)]),
        (["a.toml", D, "b.toml", E], [("a.toml", D), ("b.toml", E)]),
        (["a.toml", D, "b.toml"], [("a.toml", D), ("b.toml", None)]),
        (["a.toml", "b.toml", D], [("a.toml", None), ("b.toml", D)]),
    ],
    ids=str,
)
def test_words_name_two_nights(words: list[object], expected: list[tuple[str, dt.date | None]]) -> None:
    assert compare.nights_of([str(word) for word in words]) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.toml"], "one night named, but two are compared"),
        (["a.toml", D], "one night named, but two are compared"),
        (["a.toml", D, E, D], "3 nights named"),
        ([D, "a.toml"], f"the date {D} has no job file before it"),
        (["a.toml", "2026-13-01", D], "2026-13-01 is not a date"),
    ],
    ids=str,
)
def test_other_words_are_mistakes(words: list[object], message: str) -> None:
    with pytest.raises(JobError, match=message):
        compare.nights_of([str(word) for word in words])


def test_lists_and_figures_of_two_nights(job: Path) -> None:
    done = run_here("compare", job, DATE, AFTER, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["overlap"] == {
        "users": 3, "other_users": 4, "in_both": 2, "retained": 1.5, "retained_first": 1.5, "same_first": 2, "equal": 1,
    }  # fmt: skip
    figures = {one["figure"]: one for one in found["figures"]}
    assert figures["recall@10"]["difference"] == pytest.approx(0.1)
    assert figures["recall@10"]["low"] == pytest.approx(0.1) and "better" in figures["recall@10"]["verdict"]
    assert figures["recall@100"]["difference"] == 0 and figures["users"]["low"] is None
    text = run_here("compare", job, DATE, AFTER).stdout
    assert "lists: 3 -> 4 users with a list, 2 in both" in text and "75.0% was in the first list" in text
    assert "recall@10: 0.2000 -> 0.3000: +0.1000 [+0.1000, +0.1000] significantly better" in text
    assert "  lists: 4 -> 4" in text


def test_settings_that_differ_are_listed(job: Path) -> None:
    for date, dimension in ((DATE, 8), (AFTER, 16)):
        of = night(job, date)
        settings = {"model": {"dimension": dimension, "hidden": [8]}, "date": date.isoformat()}
        manifest.commit(of.folder("neighbours"), replace(of.require("neighbours"), settings=settings))
    found = json.loads(run_here("compare", job, DATE, AFTER, "--json").stdout)
    assert found["settings"] == [{"name": "model.dimension", "first": "8", "second": "16"}]
    assert "model.dimension: 8 -> 16" in run_here("compare", job, DATE, AFTER).stdout


def test_two_jobs_with_other_users_have_no_overlap(job: Path, tmp_path: Path) -> None:
    other = write_job(tmp_path / "other", 'watches = "w"')
    published_night(other, lists({"zoe": ["v1"]}))
    done = run_here("compare", job, other)
    assert done.returncode == 0 and "no user is in both" in done.stdout
    assert f"figures: none: no users were held out, or the figures are gone, in {other} {DATE}" in done.stdout


def test_bucket_counts_may_differ(two_nights: Path, tmp_path: Path) -> None:
    job = two_nights / "job.toml"
    done = run_here("compare", job, DATE - dt.timedelta(days=1), DATE, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["overlap"]["in_both"] <= 120 and found["overlap"]["retained"] <= found["overlap"]["in_both"]
    assert {one["figure"] for one in found["figures"]} >= {"users", "recall@10"}
    assert "measured on different days" in found["figures_note"]
    same = json.loads(run_here("compare", job, DATE, DATE, "--json").stdout)
    assert same["overlap"]["equal"] == same["overlap"]["in_both"] == same["overlap"]["retained"]
    assert same["settings"] == [] and all(one["difference"] == 0 for one in same["figures"])


@pytest.mark.parametrize("words", [["2026-01-01", DATE], [DATE, "2026-01-01"]], ids=str)
def test_an_unknown_date_names_the_nights_that_exist(words: list[object], job: Path) -> None:
    done = run_here("compare", job, *words)
    assert done.returncode == 1 and f"complete nights: {DATE}, {AFTER}" in done.stderr


def test_no_night_yet_is_an_error(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"')
    done = run_here("compare", job, job)
    assert done.returncode == 1 and "nothing is published in" in done.stderr


@pytest.mark.parametrize("what", ["metrics", "manifest", "lists"])
def test_a_damaged_file_is_named(what: str, job: Path) -> None:
    of = night(job, AFTER)
    if what == "lists":
        max(Path(of.folder("neighbours")).glob("*.parquet"), key=lambda path: path.stat().st_size).write_bytes(b"PAR1")
    else:
        name = {"metrics": "metrics.json", "manifest": "COMPLETED"}[what]
        (Path(of.folder("evaluation" if what == "metrics" else "neighbours")) / name).write_text("{")
    done = run_here("compare", job, DATE, AFTER)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "read" in done.stderr
