from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from nights import DATE, simulated, watch_rows, write_job

from pipelines.checks import logs as doctor_logs
from pipelines.checks.findings import Asked, Finding


def found_in(folder: Path, logs: str, more: str = "") -> dict[str, Finding]:
    """Findings by check; the last of each."""
    job = write_job(folder, logs, more)
    return {one.check: one for one in doctor_logs.logs(Asked(job=str(job), date=DATE))}


def write(folder: Path, frame: pl.DataFrame, name: str = "w.parquet") -> None:
    frame.write_parquet(folder / name)


def test_whole_logs_are_ok_and_shown(tmp_path: Path) -> None:
    found = {one.check: one for one in doctor_logs.logs(Asked(job=str(simulated(tmp_path)), date=DATE))}
    assert {name: one.state for name, one in found.items()} == dict.fromkeys(
        ("logs.watches", "logs.searches", "logs.videos", "logs.users", "catalogue"), "ok"
    )
    watches = found["logs.watches"]
    assert watches.what.startswith("5 files, about ") and "can be read" in watches.what
    assert watches.details[0].split()[:4] == ["user_id", "time", "video_id", "completed"]
    assert len(watches.details) == 1 + doctor_logs.SHOWN_ROWS


def test_the_lengths_of_the_catalogue_decide_what_is_completed(tmp_path: Path) -> None:
    write(tmp_path, watch_rows(count=2).with_columns(watch_seconds=pl.lit(12.0)))
    write(tmp_path, pl.DataFrame({"video_id": ["0v", "1v"], "video_seconds": [20.0, 40.0]}), "videos.parquet")
    logs = 'watches = "w.parquet"\nvideos = "videos.parquet"'
    shown = found_in(tmp_path, logs)["logs.watches"].details
    assert [line.split()[4] for line in shown[1:]] == ["True", "False"]


@pytest.mark.parametrize(
    ("path", "what", "fix"),
    [
        ("logs/*.parquet", "no log files there", "holds w.parquet"),
        ("logs/{date}.parquet", "no log files there on a day from", "holds w.parquet"),
        ("elsewhere/w.csv", "no log files there", "holds job.toml, logs/"),
        ("", "is empty: give a file, a folder or a glob", ""),
    ],
)
def test_a_path_that_names_nothing_is_told_with_what_is_near(path: str, what: str, fix: str, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    write(tmp_path, watch_rows(), "logs/w.parquet")
    if path == "logs/*.parquet":
        path = "logs/*.csv"
    found = found_in(tmp_path, f'watches = "{path}"')["logs.watches"]
    assert found.state == "problem" and what in found.what and fix in found.fix


def test_days_that_are_missing_are_told(tmp_path: Path) -> None:
    for day in ("2026-11-18", "2026-11-20"):
        write(tmp_path, watch_rows(), f"{day}.parquet")
    found = found_in(tmp_path, 'watches = "{date}.parquet"')["logs.watches"]
    assert found.state == "problem" and "no file for 2026-11-19" in found.what


def test_a_file_that_is_not_whole_is_told(tmp_path: Path) -> None:
    write(tmp_path, watch_rows())
    (tmp_path / "w.parquet").write_bytes((tmp_path / "w.parquet").read_bytes()[:200])
    found = found_in(tmp_path, 'watches = "w.parquet"')["logs.watches"]
    assert found.state == "problem" and "w.parquet: not a whole parquet file" in found.what and found.fix


def test_missing_columns_come_with_the_likely_ones(tmp_path: Path) -> None:
    write(tmp_path, watch_rows().rename({"user_id": "uid", "time": "ts"}))
    found = found_in(tmp_path, 'watches = "w.parquet"')["logs.watches"]
    assert found.state == "problem" and "lacks 'user_id', 'time'" in found.what
    assert found.fix.endswith('below [logs.columns.watches]: user_id = "uid"; time = "ts"')
    renamed = '[logs.columns.watches]\nuser_id = "uid"\ntime = "ts"\n'
    assert found_in(tmp_path, 'watches = "w.parquet"', renamed)["logs.watches"].state == "ok"


def test_one_of_several_columns_is_suggested_too(tmp_path: Path) -> None:
    write(tmp_path, watch_rows().rename({"watch_seconds": "play_time"}))
    found = found_in(tmp_path, 'watches = "w.parquet"')["logs.watches"]
    assert found.state == "problem" and "needs one of completed, watch_seconds" in found.what
    assert found.fix.endswith('watch_seconds = "play_time"')


def test_an_optional_column_by_another_name_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path, watch_rows().with_columns(country_code=pl.lit("SE"), colour=pl.lit("red")))
    job = write_job(tmp_path, 'watches = "w.parquet"')
    found = [one for one in doctor_logs.logs(Asked(job=str(job), date=DATE)) if one.state == "warning"]
    assert [one.what for one in found] == ["country: no such column, but one that may be it"]
    assert found[0].fix.endswith('country = "country_code"')


def test_rows_that_would_be_refused_are_shown_with_their_reason(tmp_path: Path) -> None:
    rows = watch_rows().with_columns(watch_seconds=pl.Series([-1.0, -2.0, *range(38)]))
    write(tmp_path, rows.with_columns(user_id=pl.when(pl.int_range(40) == 5).then(None).otherwise("user_id")))
    found = found_in(tmp_path, 'watches = "w.parquet"')["logs.watches"]
    assert found.state == "problem"
    assert "3 of 40 that were looked at would be refused, above max_reject_fraction = 0.001" in found.what
    assert found.details[0].startswith("2 x watch_seconds is negative; w.parquet row 1: {")
    assert found.details[1].startswith("1 x user_id is null; w.parquet row 6: {")
    few = found_in(tmp_path, 'watches = "w.parquet"\nmax_reject_fraction = 0.1')["logs.watches"]
    assert few.state == "warning" and few.details == found.details


def test_a_file_without_a_row_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("user_id,video_id,time,completed\n")
    found = found_in(tmp_path, 'watches = "w.csv"')["logs.watches"]
    assert found.state == "problem" and "not one row in those that were looked at" in found.what


@pytest.mark.parametrize(("known", "state"), [(5, "ok"), (1, "warning"), (0, "problem")])
def test_a_catalogue_of_other_ids_is_told(known: int, state: str, tmp_path: Path) -> None:
    write(tmp_path, watch_rows())
    ids = [f"{n}v" for n in range(known)] + [f"video/{n}" for n in range(5 - known)]
    write(tmp_path, pl.DataFrame({"video_id": ids}), "videos.parquet")
    found = found_in(tmp_path, 'watches = "w.parquet"\nvideos = "videos.parquet"')["catalogue"]
    assert found.state == state and f"it has the videos of {known / 5:.1%} of the watches" in found.what
    assert state == "ok" or "watches have 0v, 1v, the catalogue " in found.fix


def test_users_are_shown_by_their_pseudonyms_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, watch_rows().with_columns(watch_seconds=pl.Series([-1.0, *range(39)])))
    privacy = '[privacy]\npseudonym_key_env = "KEY_OF_THE_TEST"\n'
    logs = 'watches = "w.parquet"\nmax_reject_fraction = 1.0'
    monkeypatch.setenv("KEY_OF_THE_TEST", "a key that is long enough")
    shown = found_in(tmp_path, logs, privacy)
    assert "privacy" not in shown and "0u" not in str(shown) and len(shown["logs.watches"].details) == 5
    monkeypatch.delenv("KEY_OF_THE_TEST")
    hidden = found_in(tmp_path, logs, privacy)
    assert hidden["privacy"].state == "problem" and "the environment variable is not set" in hidden["privacy"].what
    assert hidden["logs.watches"].details == ("1 x watch_seconds is negative; w.parquet row 1",)


def test_long_cells_are_cut() -> None:
    rows = pl.DataFrame({"title": ["x" * 100], "score": [107.80000305], "nothing": [None]})
    assert list(doctor_logs.as_table(rows)) == [f"{'title':<24}  score", f"{'x' * 23}…  107.8"]


def test_files_that_are_passed_over_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    write(tmp_path, watch_rows(), "w/a.parquet")
    (tmp_path / "w" / "part-00001").touch()
    found = found_in(tmp_path, 'watches = "w"')["logs.watches"]
    assert found.state == "warning" and "1 file was passed over: part-00001." in found.what and found.fix
