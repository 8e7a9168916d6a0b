"""What a user is told they get, against the lists and watches of a night made by hand."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path

import polars as pl
import pytest
from commands import Done, watchnext
from nights import published_night, write_job
from rich.cells import cell_len

from pipelines import lookup
from pipelines.config.jobs import load_job
from pipelines.serving.user_lookup import Item, Lookup, Watch

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
        assert (found.user_id, found.date, found.known, found.country) == (user, "2026-11-21", True, None)
        assert [(i.video_id, i.score) for i in found.items] == list(zip(videos, scores, strict=True))
        assert [i.title for i in found.items] == [titles.get(video) for video in videos]
        assert (found.length, found.watches) == (len(videos), [])


@pytest.mark.parametrize(
    "arguments",
    [["-abc"], ["--", "-abc"], ["-abc", "--k", "2"], ["--k", "2", "-abc"], ["--k=2", "-abc", "--country", "SE"]],
    ids=" ".join,
)
def test_an_id_may_begin_with_a_dash(arguments: list[str], tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"')
    published_night(job, LISTS.with_columns(user_id=pl.col("user_id").replace("ann", "-abc")))
    assert watchnext("lookup", job, *arguments).message.startswith("user -abc, published 2026-11-21")


ID = "required: USER; put -- before an id that begins with -: watchnext lookup JOB.toml -- -ID"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], ID),
        (["--abc"], ID),
        (["-a", "-b"], ID),
        (["ann", "--k", "0"], "--k must be positive, but is 0"),
        (["ann", "--watches", "-1"], "--watches must be 0 or more, but is -1"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], message: str) -> None:
    done = watchnext("lookup", "job.toml", *arguments)
    assert done.code == 2 and message in done.message


def test_an_id_is_utf_8_whatever_the_locale(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lookup.utf8_argument(os.fsdecode("Zo\u00eb".encode())) == "Zo\u00eb"
    assert lookup.main([str(job), "\udcff"]) == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_control_characters_of_an_id_are_not_printed(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lookup.main([str(job), "\x1b[2J\x9b31m"]) == 1
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x9b" not in shown
    assert lookup.main([str(job), "\x9b31m", "--json"]) == 1
    shown = capsys.readouterr().out
    assert "\x9b" not in shown and json.loads(shown)["user_id"] == "\x9b31m"


def test_no_more_than_k_are_shown(job: Path) -> None:
    found = lookup.lookup(load_job(str(job)), "ann", 2)
    assert [i.video_id for i in found.items] == ["v1", "v2"] and found.length == 3


def test_a_list_is_printed_for_people_or_as_json(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lookup.main([str(job), "ann", "--k", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "user ann, published 2026-11-21: the first 2 of 3",
        "",
        "  1  3.0000  v1  One",
        "  2  2.0000  v2  Two — deux",
    ]
    assert lookup.main([str(job), "cleo"]) == 0
    assert capsys.readouterr().out == "user cleo, published 2026-11-21: an empty list\n"
    assert lookup.main([str(job), "dan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "user_id": "dan",
        "date": "2026-11-21",
        "source": "files",
        "known": True,
        "country": None,
        "length": 2,
        "items": [
            {"video_id": "v3", "title": None, "score": 2.5, "seconds": None, "video_seconds": None, "why": []},
            {"video_id": "v9", "title": None, "score": -1.0, "seconds": None, "video_seconds": None, "why": []},
        ],
        "watches": [],
        "state": "served",
    }


FOUND = Lookup(
    user_id="u",
    date="2026-11-21",
    source="files",
    known=True,
    country=None,
    length=200,
    items=[
        Item(video_id="video-1", title="A very long title " * 20, score=12.25),
        Item(video_id="動画", title="深夜の電車で聴く音楽プレイリスト、作業用" * 4, score=-3.5),
        Item(video_id="v", title=None, score=0.0),
        Item(video_id="w", title="two\nlines and \x1b[31mred", score=0.0),
    ],
    watches=[
        Watch(
            time=dt.datetime(2026, 11, 20, 9, 5, tzinfo=dt.UTC), video_id="video-1", title="Seen " * 40, completed=True
        ),
        Watch(time=dt.datetime(2026, 11, 19, 23, 59, tzinfo=dt.UTC), video_id="v", title=None, completed=False),
    ],
)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_columns_stand_in_line_and_titles_are_cut_to_the_width(width: int) -> None:
    lines = lookup.to_text(FOUND, width).splitlines()
    assert lines[:2] == ["user u, published 2026-11-21: the first 4 of 200", ""]
    assert all(cell_len(line) <= width for line in lines) and len(lines) == 10
    assert lines[2].startswith("  1  12.2500  video-1  A very long title A very") and lines[2].endswith("…")
    assert cell_len(lines[2]) > width - 3 and width - 3 < cell_len(lines[3]) and lines[3].endswith("…")
    assert lines[3].startswith("  2  -3.5000  動画     深夜の電車で")
    assert lines[4] == "  3   0.0000  v"
    assert lines[5] == "  4   0.0000  w        two lines and  [31mred"
    assert lines[6:8] == ["", "last watches, times in UTC"]
    assert lines[8].startswith("  2026-11-20 09:05  completed  video-1  Seen ") and lines[8].endswith("…")
    assert lines[9] == "  2026-11-19 23:59  in part    v"


def test_a_ranked_list_shows_seconds_beside_the_length_and_what_it_is_ordered_by() -> None:
    items = [
        Item(video_id="v", title="t", score=7.5, seconds=61.4, video_seconds=100.0),
        Item(video_id="w", title=None, score=5.0, seconds=9.6),
        Item(video_id="not ranked", title=None, score=4.0, video_seconds=100.0),
    ]
    lines = lookup.to_text(Lookup(**{**vars(FOUND), "items": items, "watches": []}), 60).splitlines()
    assert lines[1:] == [
        "by expected seconds (of the length) and the neighbours' order",
        "",
        "  1  61 s of 100 s  v           t",
        "  2           10 s  w",
        "  3                 not ranked",
    ]


def test_ids_are_never_cut() -> None:
    long = "x" * 120
    text = lookup.to_text(Lookup(**{**vars(FOUND), "items": [Item(video_id=long, title="t", score=1.0)]}))
    assert f"  1  1.0000  {long}  t" in text.splitlines()


def test_a_user_that_the_night_did_not_serve_is_an_error(job: Path) -> None:
    message = "user 'nobody' has no list: no watches or searches in the window of 2026-11-21, and the night has no "
    assert watchnext("lookup", job, "nobody") == Done(1, f"{message}default lists\n")


def test_a_lookup_without_a_published_night_is_an_error(tmp_path: Path) -> None:
    done = watchnext("lookup", write_job(tmp_path, 'watches = "w"'), "ann")
    assert done.code == 1 and done.message.startswith("watchnext: nothing is published in ")
    assert "runs: run watchnext nightly first" in done.message


@pytest.mark.parametrize("user", [" ann", "ann\t"])
def test_an_id_is_found_as_the_logs_spell_it(user: str, job: Path) -> None:
    found = lookup.lookup(load_job(str(job)), user, 10)
    assert found.user_id == "ann" and found.known
