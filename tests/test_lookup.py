from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from nights import published_night, write_job

from pipelines import lookup
from pipelines.errors import StageError
from pipelines.jobs import load_job

LISTS = pl.DataFrame(
    {
        "user_id": ["ann", "bob", "cleo", "dan", "7"],
        "video_ids": [["v1", "v2", "v3"], ["v2"], [], ["v3", "v9"], ["v1"]],
        "scores": [[3.0, 2.0, 1.0], [0.5], [], [2.5, -1.0], [0.0]],
    },
    schema_overrides={"video_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)},
)
TITLES = pl.DataFrame({"video_id": ["v1", "v2", "v3"], "title": ["One", "Two — deux", None]})


@pytest.fixture(params=["plain", "neighbours"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The job of a published night; also below a folder that is named as one of a night's own."""
    path = write_job(tmp_path / request.param, 'watches = "w"')
    published_night(path, LISTS, titles=TITLES)
    return path


def test_every_user_s_list_is_found_best_first_with_titles(job: Path) -> None:
    titles = dict(TITLES.iter_rows())
    for user, videos, scores in LISTS.iter_rows():
        found = lookup.lookup(load_job(str(job)), user, 10)
        assert (found.user_id, found.date, found.known) == (user, "2026-11-21", True)
        assert [(i.video_id, i.score) for i in found.items] == list(zip(videos, scores, strict=True))
        assert [i.title for i in found.items] == [titles.get(video) for video in videos]


def test_no_more_than_k_are_shown(job: Path) -> None:
    assert [i.video_id for i in lookup.lookup(load_job(str(job)), "ann", 2).items] == ["v1", "v2"]


def test_a_list_is_printed_for_people_or_as_json(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lookup.main([str(job), "ann", "--k", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "user ann, published 2026-11-21"
    assert [line.split() for line in shown[1:]] == [
        ["1", "3.0000", "v1", "One"],
        ["2", "2.0000", "v2", "Two", "—", "deux"],
    ]
    assert lookup.main([str(job), "dan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == [
        {"video_id": "v3", "title": None, "score": 2.5},
        {"video_id": "v9", "title": None, "score": -1.0},
    ]


def test_a_user_the_night_did_not_serve_is_told(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lookup.main([str(job), "nobody"]) == 1
    assert "user 'nobody' has no watch or search in the window of 2026-11-21" in capsys.readouterr().out


def test_nothing_published_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = write_job(tmp_path, 'watches = "w"')
    with pytest.raises(StageError, match=r"nothing is published in .*runs: run watchnext nightly first"):
        lookup.lookup(load_job(str(job)), "ann", 10)
    assert lookup.main([str(job), "ann"]) == 1
    assert capsys.readouterr().err.startswith("watchnext: nothing is published in ")


def test_k_must_be_positive(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lookup.main([str(job), "ann", "--k", "0"])
    assert "--k must be positive, but is 0" in capsys.readouterr().err
