"""`watchnext init`, on folders of logs of different make. A job it writes is judged by doctor's checks of the logs."""

from __future__ import annotations

import io
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run_here
from log_folders import ASKING, DAYS, NEXT_DAY, WORKING, flat_exports, ratings, short_csv, two_apps, watches
from nights import night

from pipelines import doctor, init
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.config.settings import TABLES as TABLES_OF_JOBS
from pipelines.logs import ingest_plan, log_samples

CHECKS = [check for check in doctor.CHECKS if check.name in ("job", "logs", "times", "units")]


def problems(job: Path) -> list[str]:
    """What doctor would make of the job on the night after the logs."""
    request = DoctorRequest(job=str(job), date=NEXT_DAY)
    return [one.what for one in doctor.diagnose(request, CHECKS) if one.state == "problem"]


def written(make: Callable[[Path], None], tmp_path: Path, *arguments: object) -> tuple[Path, str]:
    """Make the logs, and the job file from them. Return it, and what was printed."""
    make(tmp_path / "logs")
    job = tmp_path / "job.toml"
    done = run_here("init", tmp_path / "logs", "--out", job, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return job, done.stdout


@pytest.mark.parametrize("name", WORKING)
def test_the_job_of_a_folder_of_logs_runs_without_an_edit(name: str, tmp_path: Path) -> None:
    job, printed = written(WORKING[name], tmp_path)
    assert problems(job) == []
    assert f"watchnext doctor {job} --date {NEXT_DAY}" in printed
    assert f"watchnext nightly {job} --date {NEXT_DAY}" in printed
    of = night(job, NEXT_DAY)
    sample = log_samples.sample_tables(of, {table: ingest_plan.find(of, table, None) for table in TABLES_OF_JOBS})[
        "watches"
    ]
    assert sum(log_samples.estimate_rows([file]) for file in sample.files) >= watches().height - DAYS * 10
    assert sample.rejected.is_empty() and 0 < sample.valid["completed"].sum() < sample.valid.height


TABLES: dict[str, dict[str, str]] = {
    "own_names": {
        "watches": "logs/watches/{date}.parquet",
        "searches": "logs/searches/{date}.parquet",
        "videos": "logs/videos.parquet",
        "users": "logs/users.parquet",
        "impressions": "logs/impressions/{date}.parquet",
    },
    "short_csv": {"watches": "logs/log.csv"},
    "tab_separated": {"watches": "logs/plays.tsv", "videos": "logs/movies.tsv"},
    "folders_by_day": {
        "watches": "logs/raw/playback/{date}/part-[0-9]*.jsonl.gz",
        "searches": "logs/raw/searches/{date}/part-[0-9]*.jsonl.gz",
    },
    "partitions": {"watches": "logs/video_views/dt={date}/country=*/part-[0-9]*-*.snappy.parquet"},
    "year_month_day": {
        "watches": "logs/stream/year=*/month=*/day=*/data.csv.gz",
        "videos": "logs/catalog/titles.csv",
    },
    "flat_exports": {
        "watches": "logs/view_log_[0-9]*.csv",
        "searches": "logs/search_log.csv",
        "videos": "logs/assets.csv",
        "users": "logs/customers.csv",
    },
    "with_impressions": {"watches": "logs/watch/{date}.ndjson", "impressions": "logs/exposures/{date}.ndjson"},
    "two_apps": {"watches": "logs/*/events/{date}.parquet"},
}


@pytest.mark.parametrize("name", WORKING)
def test_tables_are_found(name: str, tmp_path: Path) -> None:
    job, printed = written(WORKING[name], tmp_path)
    logs = tomllib.loads(job.read_text())["logs"]
    assert {table: path for table, path in logs.items() if table in init.TABLES} == TABLES[name]
    assert all(f"{table}: {path}" in printed for table, path in TABLES[name].items())


def test_columns_are_renamed_and_units_known(tmp_path: Path) -> None:
    job, _ = written(WORKING["tab_separated"], tmp_path)
    columns = tomllib.loads(job.read_text())["logs"]["columns"]
    assert columns["watches"] == {
        "user_id": "userId",
        "video_id": "movieId",
        "time": "timestamp",
        "watch_seconds": "playTime",
        "video_seconds": "duration",
    }
    assert columns["videos"] == {"video_id": "movieId", "video_seconds": "duration"}


def test_a_duration_that_differs_between_watches_of_a_video_is_the_watch_time(tmp_path: Path) -> None:
    job, _ = written(two_apps, tmp_path)
    assert tomllib.loads(job.read_text())["logs"]["columns"]["watches"]["watch_seconds"] == "duration"


def test_the_job_file_says_what_was_found(tmp_path: Path) -> None:
    job, printed = written(flat_exports, tmp_path)
    text = job.read_text()
    assert "# 7 files, about " in text and "columns: customer_id, asset_id, datetime, play_seconds" in text
    assert 'time_zone = "UTC"' in text and "[storage]\nroot = " in text
    assert "job.toml is written" in printed
    job, printed = written(WORKING["own_names"], tmp_path / "own")
    assert "note: not used: truth/preferences.parquet" in printed and "time_zone" not in job.read_text()


def test_a_time_zone_given_is_that_of_local_times(tmp_path: Path) -> None:
    job, _ = written(flat_exports, tmp_path, "--time-zone", "Europe/Berlin")
    assert tomllib.loads(job.read_text())["logs"]["time_zone"] == "Europe/Berlin"


@pytest.mark.parametrize("name", ASKING)
def test_what_the_logs_do_not_say_is_an_error_that_names_the_option(name: str, tmp_path: Path) -> None:
    make, message = ASKING[name]
    make(tmp_path / "logs")
    done = run_here("init", tmp_path / "logs", "--out", tmp_path / "job.toml")
    assert done.returncode == 2 and message in done.stderr and done.stdout == ""
    assert not (tmp_path / "job.toml").exists()


def test_options_answer_questions(tmp_path: Path) -> None:
    ratings(tmp_path / "logs")
    path = tmp_path / "logs" / "ratings.csv"
    path.write_text(path.read_text().replace("rating", "fraction_seen").replace("4.5", "1"))
    out = ["--out", tmp_path / "job.toml"]
    done = run_here("init", tmp_path / "logs", *out, "--column", "watches.completed=fraction_seen")
    assert done.returncode == 0, done.stderr
    logs = tomllib.loads((tmp_path / "job.toml").read_text())["logs"]
    assert logs["columns"]["watches"]["completed"] == "fraction_seen" and problems(tmp_path / "job.toml") == []


def test_paths_given_replace_guesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WORKING["own_names"](tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    one = ["--watches", "logs/watches/2026-11-1*.parquet", "--searches", "none"]
    done = run_here("init", "logs", *one)
    assert done.returncode == 0, done.stderr
    logs = tomllib.loads(Path("job.toml").read_text())["logs"]
    assert logs["watches"] == "logs/watches/2026-11-1*.parquet" and "searches" not in logs
    done = run_here("init", "logs", "--watches", "logs/nothing/*.csv", "--out", "b.toml")
    assert done.returncode == 2 and "--watches = " in done.stderr and "no log files found" in done.stderr


class Terminal(io.StringIO):
    """The answers that a person types."""

    def isatty(self) -> bool:
        return True


def answered(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(text))


def test_a_terminal_is_asked_for_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratings(tmp_path / "logs")
    path = tmp_path / "logs" / "ratings.csv"
    path.write_text(path.read_text().replace("rating", "finished_it").replace("4.5", "1"))
    answered(monkeypatch, "9\n1\n")
    done = run_here("init", tmp_path / "logs", "--out", tmp_path / "job.toml")
    assert done.returncode == 0, done.stderr
    assert "which column says whether a watch was completed" in done.stderr
    assert "  1  finished_it: watched to the end\n  2  finished_it: seconds watched\n" in done.stderr
    logs = tomllib.loads((tmp_path / "job.toml").read_text())["logs"]
    assert logs["columns"]["watches"]["completed"] == "finished_it"


def test_a_terminal_is_asked_for_the_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, "Europe/Berlin\n")
    job, _ = written(flat_exports, tmp_path)
    assert tomllib.loads(job.read_text())["logs"]["time_zone"] == "Europe/Berlin"


@pytest.mark.parametrize("arguments", [[], ["--no-questions"]])
def test_an_end_of_the_input_is_an_error(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratings(tmp_path / "logs")
    answered(monkeypatch, "")
    done = run_here("init", tmp_path / "logs", "--out", tmp_path / "job.toml", *arguments)
    assert done.returncode == 2 and ("the input ended" in done.stderr) is not bool(arguments)


def test_two_tables_that_may_be_watches_are_a_question(tmp_path: Path) -> None:
    short_csv(tmp_path / "logs")
    content = (tmp_path / "logs" / "log.csv").read_text()
    (tmp_path / "logs" / "other.csv").write_text(content.replace("item", "movie_id"))
    done = run_here("init", tmp_path / "logs", "--out", tmp_path / "job.toml")
    assert done.returncode == 2 and "which files are the table of watches?" in done.stderr
    assert "log.csv, other.csv" in done.stderr and "Answer with --watches" in done.stderr
    chosen = ["--watches", tmp_path / "logs" / "other.csv"]
    assert run_here("init", tmp_path / "logs", "--out", tmp_path / "job.toml", *chosen).returncode == 0


def test_an_existing_job_file_is_replaced_only_if_asked(tmp_path: Path) -> None:
    job, _ = written(short_csv, tmp_path)
    job.write_text("mine")
    done = run_here("init", tmp_path / "logs", "--out", job)
    assert done.returncode == 2 and "exists; name another file, or add --overwrite" in done.stderr
    assert job.read_text() == "mine"
    assert run_here("init", tmp_path / "logs", "--out", job, "--overwrite").returncode == 0
    assert problems(job) == []


MISTAKES: list[tuple[list[Any], str]] = [
    (["nowhere"], "FOLDER = 'nowhere' does not exist"),
    (["logs/log.csv"], "is a file; name the folder that contains it"),
    ([], "name the folder that contains the logs"),
    (["logs", "--column", "uid=user_id"], "must be TABLE.OURS=YOURS, such as"),
    (["logs", "--column", "watches.user=uid"], "must be TABLE.OURS=YOURS, such as"),
    (["logs", "--time-zone", "Berlin"], "'Berlin' is not an IANA time zone"),
    (["logs", "--out", "no/job.toml"], "does not exist"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=str)
def test_a_wrong_argument_is_named(
    arguments: list[Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_csv(tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    done = run_here("init", *arguments)
    assert done.returncode == 2 and message in done.stderr


def test_a_job_with_problems_is_written_and_the_problem_is_shown(tmp_path: Path) -> None:
    short_csv(tmp_path / "logs")
    path = tmp_path / "logs" / "log.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, *(",v1,1700000000,1" for _ in range(5))]) + "\n")
    done = run_here("init", tmp_path / "logs", "--out", tmp_path / "job.toml")
    printed = " ".join(done.stdout.split())
    assert done.returncode == 1 and "sampled rows would be rejected" in printed
    assert "a night would fail until the problems are fixed" in printed and (tmp_path / "job.toml").exists()


def test_a_root_within_the_logs_is_left_out(tmp_path: Path) -> None:
    short_csv(tmp_path)
    (tmp_path / "runs" / "nights").mkdir(parents=True)
    (tmp_path / "runs" / "nights" / "log.csv").write_text((tmp_path / "log.csv").read_text())
    assert run_here("init", tmp_path, "--out", tmp_path / "job.toml").returncode == 0
    assert problems(tmp_path / "job.toml") == []


def test_brackets_and_quotes_in_paths(tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" [1] {date}'
    short_csv(folder / "logs")
    assert run_here("init", folder / "logs", "--out", tmp_path / "job.toml").returncode == 0
    assert problems(tmp_path / "job.toml") == []
