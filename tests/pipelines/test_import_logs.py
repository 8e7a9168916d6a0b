"""`watchnext import` as a person types it: what it prints, its mistakes, and a night on what it wrote."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from commands import stages_in_process, watchnext
from public_data import FIRST, SAMPLES, at, write_files

from pipelines.config.jobs import load_job
from pipelines.datasets import day_files, importing
from pipelines.datasets.data_set import Frames, Request, Source
from pipelines.datasets.registry import DATA_SETS
from transforms.logs import readers as csv_frames


def watches(out: Path) -> list[tuple[object, ...]]:
    frame = pl.read_parquet(sorted(out.glob("watches/*.parquet")))
    return frame.select("user_id", "video_id", "completed").sort("user_id", "video_id").rows()


def table(folder: Path, name: str, text: str) -> Path:
    write_files(folder, {name: text})
    return folder / name


def test_the_last_line_is_the_command_of_a_night(tmp_path: Path) -> None:
    path = SAMPLES["movielens-1m"].write(tmp_path / "in")
    out = tmp_path / "a folder"
    done = watchnext("import", "movielens-1m", path, out)
    assert done.code == 0
    command = shlex.split(done.message.splitlines()[-1].partition("next: ")[2])
    assert command == ["watchnext", "nightly", str(out / "job.toml"), "--date", "2001-01-01"]
    assert f"{out}: 3 watches of 2000-12-31 to 2000-12-31" in done.message


def test_pieces_of_any_size_give_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"u{n % 7},v{n % 11},{FIRST + 40_000 * n}\n" for n in range(200))
    path = table(tmp_path, "x.csv", f"user_id,video_id,time\n{rows}")
    outs = [tmp_path / "whole", tmp_path / "pieces"]
    for out, size in zip(outs, (10**6, 16), strict=True):
        monkeypatch.setattr(importing, "PIECE_ROWS", size)
        monkeypatch.setattr(day_files, "PIECE_ROWS", size)
        monkeypatch.setattr(csv_frames, "FRAME_ROWS", size)
        assert watchnext("import", "events", path, out, "--split", "last").code == 0
    whole, pieces = ({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} for out in outs)
    assert whole == pieces and len(whole) > 90


def test_help_lists_all_data_sets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        from pipelines import import_logs

        import_logs.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert all(name in shown.replace("- ", "-") for name in DATA_SETS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["movielens", "in", "out"], "there is no data set 'movielens'; the data sets are movielens-100k, "),
        (["movielens-1m", "absent", "out"], "absent does not exist; get MovieLens 1M from https://grouplens.org"),
        (["movielens-1m", "in/ml/ratings.dat", "out"], "is a file; PATH is the folder of the unpacked files"),
        (["movielens-1m", "in", "in"], "in is not empty; give a new folder as OUT"),
        (["movielens-1m", "in", "in/ml/ratings.dat"], "is a file; give a new folder as OUT"),
        (["movielens-1m", "in/empty", "out"], "lacks ratings.dat, movies.dat, users.dat; get MovieLens 1M"),
        (["movielens-1m", "in", "out", "--split", "first"], "--split 'first' is none of last, "),
        (["movielens-1m", "in", "out", "--split", "published"], "does not split it; use last or time=DATE"),
        (["movielens-1m", "in", "out", "--split", "time=2000-01-01"], "no watch is left in the logs"),
        (["movielens-1m", "in", "out", "--completed-only"], "--completed-only belongs to --split last"),
        (["movielens-1m", "in", "out", "--time-unit", "ms"], "--time-unit: only the data set 'events' has this option"),
        (["mind", "in", "out", "--completed-from", "2"], "--completed-from has no meaning for mind: every click"),
        (["sequences", "in", "out"], "in is a folder; give the file with one user per line"),
        (["events", "in/empty", "out"], "has no table of events: a name must end in .csv, .tsv"),
        (["events", "in", "out", "--time-zone", "Berlin"], "'Berlin' is not an IANA time zone such as Europe/Berlin"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SAMPLES["movielens-1m"].write(tmp_path / "in")
    (tmp_path / "in" / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    done = watchnext("import", *arguments)
    assert done.code == 2 and message in done.message and len(done.message.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_out_folder_is_kept_after_a_failure(tmp_path: Path) -> None:
    write_files(tmp_path / "in", {"ratings.dat": "x::y\n", "movies.dat": "1::a::b\n"})
    (tmp_path / "out").mkdir()
    assert watchnext("import", "movielens-10m", tmp_path / "in", tmp_path / "out").code == 2
    assert list((tmp_path / "out").iterdir()) == []


def test_a_signal_ends_the_import_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_source: Source, _request: Request) -> Frames:
        yield pl.DataFrame({"user_id": ["a"], "video_id": ["b"], "time": [at(FIRST)], "completed": [True]})
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setitem(DATA_SETS, "movielens-1m", replace(DATA_SETS["movielens-1m"], watches=stopped))
    path = SAMPLES["movielens-1m"].write(tmp_path / "in")
    done = watchnext("import", "movielens-1m", path, tmp_path / "out")
    assert done.code == 128 + signal.SIGTERM and "stopped by a signal; nothing was written" in done.message
    assert not (tmp_path / "out").exists()


def test_a_truncated_file_ends_with_code_1(tmp_path: Path) -> None:
    path = table(tmp_path, "events.csv.gz", "user_id,video_id,time\n" + "a,b,978300760\n" * 1000)
    path.write_bytes(path.read_bytes()[:-20])
    done = watchnext("import", "events", path, tmp_path / "out")
    assert done.code == 1 and "events.csv.gz: not a complete csv.gz file" in done.message
    assert not (tmp_path / "out").exists()


def test_columns_of_a_table_have_any_names(tmp_path: Path) -> None:
    path = table(tmp_path, "x.csv", f"who,what,when,stars\nü,v/1,{FIRST},5\nü,v 2,{FIRST + 1},2\n")
    named = ("--user", "who", "--video", "what", "--time", "when")
    done = watchnext("import", "events", path, tmp_path / "out", *named, "--rating", "stars", "--completed-from", "3")
    assert done.code == 0 and watches(tmp_path / "out") == [("ü", "v 2", False), ("ü", "v/1", True)]
    done = watchnext("import", "events", path, tmp_path / "all", *named)
    assert done.code == 0 and [row[2] for row in watches(tmp_path / "all")] == [True, True]
    done = watchnext("import", "events", path, tmp_path / "none")
    assert done.code == 2
    assert "has no column 'user_id', 'video_id', 'time'; its columns are who, what, when, stars" in done.message
    assert "--user, --video, --time" in done.message
    done = watchnext("import", "events", path, tmp_path / "none", *named, "--rating", "stars")
    assert done.code == 2 and "--rating needs --completed-from" in done.message


def test_watch_times_decide_as_at_ingest(tmp_path: Path) -> None:
    rows = [
        {"user_id": 1, "video_id": 1, "time": FIRST, "watch_seconds": 40, "video_seconds": 100},
        {"user_id": 1, "video_id": 2, "time": FIRST, "watch_seconds": 60, "video_seconds": 100},
        {"user_id": 1, "video_id": 3, "time": FIRST, "watch_seconds": 31},
        {"user_id": 1, "video_id": 4, "time": FIRST, "watch_seconds": 1, "completed": True},
    ]
    path = table(tmp_path, "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert watchnext("import", "events", path, tmp_path / "out").code == 0
    assert [row[2] for row in watches(tmp_path / "out")] == [False, True, True, True]
    assert watchnext("import", "events", path, tmp_path / "less", "--completed-from", "0.4").code == 0
    assert [row[2] for row in watches(tmp_path / "less")] == [True, True, True, True]


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.tsv.gz"])
def test_the_unit_of_times(unit: str, factor: int, name: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["a"], "video_id": [7], "time": [FIRST * factor]})
    path = tmp_path / name
    text = f"user_id\tvideo_id\ttime\na\t7\t{FIRST * factor}\n"
    if name == "x.csv":
        frame.write_csv(path)
    elif name == "x.parquet":
        frame.write_parquet(path)
    else:
        path.write_bytes(gzip.compress(text.encode()))
    done = watchnext("import", "events", path, tmp_path / "out", "--time-unit", unit)
    assert done.code == 0 and "2000-12-31 to 2000-12-31" in done.message
    wrong = {"s": "ns", "ms": "s", "us": "s", "ns": "s"}[unit]
    done = watchnext("import", "events", path, tmp_path / "wrong", "--time-unit", wrong)
    assert done.code == 2 and "and the time in its published unit? (--time-unit)" in done.message


def test_times_without_an_offset_and_days_are_of_the_time_zone(tmp_path: Path) -> None:
    path = table(tmp_path, "x.csv", "user_id,video_id,time\na,b,2024-07-01 00:30:00\n")
    done = watchnext("import", "events", path, tmp_path / "out", "--time-zone", "Europe/Berlin")
    assert done.code == 0 and "--date 2024-07-02" in done.message
    assert load_job(str(tmp_path / "out" / "job.toml")).logs.time_zone == "Europe/Berlin"
    (written,) = (tmp_path / "out" / "watches").iterdir()
    assert str(pl.read_parquet(written)["time"][0]) == "2024-06-30 22:30:00+00:00"


def test_hostile_ids_are_printed_and_stored_safely(tmp_path: Path) -> None:
    rows = "".join(f'u{n},"v,""{n}""\'; --",{FIRST}\n' for n in range(100))
    path = table(
        tmp_path, "x\x1b[31m.csv", f'user_id,video_id,time\n{rows}NULL,v,{FIRST}\n"a\x07",v,{FIRST}\n2.0,v,{FIRST}\n'
    )
    out = tmp_path / 'o"ut\x1b'
    done = watchnext("import", "events", path, out, "--split", "last")
    assert done.code == 0 and "\x1b" not in done.message
    assert "left out: 2 rows with no user" in done.message
    assert ("2", "v", True) in watches(out)
    assert load_job(str(out / "job.toml")).logs.watches == str(out / "watches" / "{date}.parquet")


@pytest.mark.slow
def test_a_night_runs_on_imported_logs(tmp_path: Path) -> None:
    rows = "".join(
        f"{user}::{(user * 7 + step * step) % 40}::{3 + (user + step) % 3}::{FIRST + 86_400 * step + user}\n"
        for user in range(60)
        for step in range(12)
    )
    write_files(tmp_path / "in", {"ratings.dat": rows, "movies.dat": "".join(f"{n}::t {n}::x\n" for n in range(40))})
    done = watchnext("import", "movielens-10m", tmp_path / "in", tmp_path / "out", "--split", "last")
    assert done.code == 0
    command = shlex.split(done.message.splitlines()[-1].partition("watchnext ")[2])
    with stages_in_process():
        night = watchnext(*command)
    assert night.code == 0, night.message
    users = pl.read_parquet(tmp_path / "out" / "truth.parquet")["user_id"]
    lists = pl.read_parquet(
        sorted((tmp_path / "out" / "runs" / "nights" / command[-1] / "neighbours").glob("*.parquet"))
    )
    assert set(users) <= set(lists["user_id"])
