from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from findings import request_of
from nights import DATE, night, simulated, watch_rows, write_job

from pipelines import doctor, ingest
from pipelines.checks import joins as doctor_joins
from pipelines.checks import logs as doctor_logs
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding


def findings_in(folder: Path, logs: str = 'watches = "w.parquet"', more: str = "") -> list[Finding]:
    return list(doctor_logs.logs(request_of(folder, logs, more)))


def found_in(folder: Path, logs: str = 'watches = "w.parquet"', more: str = "") -> dict[str, Finding]:
    """The last finding of each check."""
    return {one.check: one for one in findings_in(folder, logs, more)}


def write(folder: Path, frame: pl.DataFrame, name: str = "w.parquet") -> None:
    frame.write_parquet(folder / name)


def test_whole_logs_are_ok_and_shown(tmp_path: Path) -> None:
    found = {one.check: one for one in doctor_logs.logs(DoctorRequest(job=str(simulated(tmp_path)), date=DATE))}
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
        ("logs/*.parquet", "no log files found", "contains w.parquet"),
        ("logs/{date}.parquet", "no log files found on a day from", "contains w.parquet"),
        ("elsewhere/w.csv", "no log files found", "contains job.toml, logs/"),
        ("", "is empty: give a file, a folder or a glob", ""),
    ],
)
def test_a_path_that_does_not_exist_is_reported_with_the_nearest_name(
    path: str, what: str, fix: str, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    write(tmp_path, watch_rows(), "logs/w.parquet")
    if path == "logs/*.parquet":
        path = "logs/*.csv"
    found = found_in(tmp_path, f'watches = "{path}"')["logs.watches"]
    assert found.state == "problem" and what in found.what and fix in found.fix


def test_missing_days_are_reported(tmp_path: Path) -> None:
    for day in ("2026-11-18", "2026-11-20"):
        write(tmp_path, watch_rows(), f"{day}.parquet")
    found = found_in(tmp_path, 'watches = "{date}.parquet"')["logs.watches"]
    assert found.state == "problem" and "no file for 2026-11-19" in found.what


def test_a_truncated_file_is_reported(tmp_path: Path) -> None:
    write(tmp_path, watch_rows())
    (tmp_path / "w.parquet").write_bytes((tmp_path / "w.parquet").read_bytes()[:200])
    found = found_in(tmp_path)["logs.watches"]
    assert found.state == "problem" and "w.parquet: not a complete parquet file" in found.what and found.fix


def test_missing_columns_come_with_the_likely_ones(tmp_path: Path) -> None:
    write(tmp_path, watch_rows().rename({"user_id": "uid", "time": "ts"}))
    found = found_in(tmp_path)["logs.watches"]
    assert found.state == "problem" and "lacks 'user_id', 'time'" in found.what
    assert found.fix.endswith('below [logs.columns.watches]: user_id = "uid"; time = "ts"')
    renamed = '[logs.columns.watches]\nuser_id = "uid"\ntime = "ts"\n'
    assert found_in(tmp_path, more=renamed)["logs.watches"].state == "ok"


def test_one_of_several_columns_is_suggested_too(tmp_path: Path) -> None:
    write(tmp_path, watch_rows().rename({"watch_seconds": "play_time"}))
    found = found_in(tmp_path)["logs.watches"]
    assert found.state == "problem" and "needs one of completed, watch_seconds" in found.what
    assert found.fix.endswith('watch_seconds = "play_time"')


def test_an_optional_column_by_another_name_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path, watch_rows().with_columns(country_code=pl.lit("SE"), colour=pl.lit("red")))
    found = [one for one in findings_in(tmp_path) if one.state == "warning"]
    assert [one.what for one in found] == ["country: no such column, but one with a similar name"]
    assert found[0].fix.endswith('country = "country_code"')


def test_rows_that_would_be_rejected_are_shown_with_their_reason(tmp_path: Path) -> None:
    rows = watch_rows().with_columns(watch_seconds=pl.Series([-1.0, -2.0, *range(38)]))
    write(tmp_path, rows.with_columns(user_id=pl.when(pl.int_range(40) == 5).then(None).otherwise("user_id")))
    found = found_in(tmp_path)["logs.watches"]
    assert found.state == "problem"
    assert "3 of 40 sampled rows would be rejected, above max_reject_fraction = 0.001" in found.what
    assert found.details[0].startswith("2 x watch_seconds is negative; w.parquet row 1: {")
    assert found.details[1].startswith("1 x user_id is null; w.parquet row 6: {")
    few = found_in(tmp_path, 'watches = "w.parquet"\nmax_reject_fraction = 0.1')["logs.watches"]
    assert few.state == "warning" and few.details == found.details


def test_a_file_without_a_row_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("user_id,video_id,time,completed\n")
    found = found_in(tmp_path, 'watches = "w.csv"')["logs.watches"]
    assert found.state == "problem" and "the sampled files have no rows" in found.what


@pytest.mark.parametrize(("known", "state"), [(5, "ok"), (1, "warning"), (0, "problem")])
def test_a_catalogue_of_other_ids_is_reported(known: int, state: str, tmp_path: Path) -> None:
    write(tmp_path, watch_rows())
    ids = [f"{n}v" for n in range(known)] + [f"video/{n}" for n in range(5 - known)]
    write(tmp_path, pl.DataFrame({"video_id": ids}), "videos.parquet")
    found = found_in(tmp_path, 'watches = "w.parquet"\nvideos = "videos.parquet"')["catalogue"]
    assert found.state == state and f"it contains the videos of {known / 5:.1%} of the watches" in found.what
    assert ("watches have 0v, 1v, the catalogue " in found.fix) == (state != "ok")


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
    assert found.state == "warning" and "1 file was skipped: part-00001." in found.what and found.fix


def every(job: Path) -> list[Finding]:
    """What all checks of logs and sizes find."""
    checks = [check for check in doctor.CHECKS if check.module in ("logs", "times", "sizes")]
    return list(doctor.diagnose(DoctorRequest(job=str(job), date=DATE), checks))


@pytest.mark.parametrize("broken", ["w", "s", "u", "v", "h", "f"])
def test_one_broken_file_is_one_finding(tmp_path: Path, broken: str) -> None:
    watches = watch_rows()
    frames = {
        "w": watches,
        "s": watches.select("user_id", "time", query=pl.lit("jazz")),
        "u": watches.select("user_id").unique(),
        "v": watches.select("video_id").unique(),
        "h": watches.select("user_id", "video_id").unique(),
        "f": watches.select("user_id").head(1),
    }
    for name, frame in frames.items():
        write(tmp_path, frame, f"{name}.parquet")
    tables = {"watches": "w", "searches": "s", "users": "u", "videos": "v", "hidden": "h"}
    logs = "\n".join(f'{table} = "{name}.parquet"' for table, name in tables.items())
    job = write_job(tmp_path, logs, '[privacy]\nforget = "f.parquet"\n')
    assert [one for one in every(job) if one.state != "ok"] == []
    (tmp_path / f"{broken}.parquet").write_bytes(b"PAR1" + bytes(200))
    (found,) = (one for one in every(job) if one.state != "ok")
    assert found.state == "problem" and f"{broken}.parquet" in found.what


def test_the_list_of_users_to_forget_is_compared_with_the_logs(tmp_path: Path) -> None:
    write(tmp_path, watch_rows())
    (tmp_path / "f.csv").write_text("member\n1u\n0004\nnobody\n")
    logs, forget = 'watches = "w.parquet"', '[privacy]\nforget = "f.csv"\n'
    found = found_in(tmp_path, logs, forget)["privacy"]
    assert found.state == "problem" and "[logs.columns.forget]" in found.what
    forget += '[logs.columns.forget]\nuser_id = "member"\n'
    found = found_in(tmp_path, logs, forget)["privacy.forget"]
    assert found.state == "warning" and found.fix
    assert found.what == "2 of 3 ids on the list do not occur in the logs: 0004, nobody"
    ingest.run(night(tmp_path / "job.toml"))
    applied = found_in(tmp_path, logs, forget)["privacy.forget"].what
    assert applied.startswith("3 ids; the list was applied to all stored data; 2 do not occur")
    assert applied.endswith(": 0004, nobody")
    (tmp_path / "f.csv").write_text("member\n2u\nnobody\n")
    (tmp_path / "w.parquet").unlink()
    write(tmp_path, watch_rows(count=1), "w.parquet")  # the store has the others
    assert "1 of 2 ids" in found_in(tmp_path, logs, forget)["privacy.forget"].what


def test_other_tables_are_compared_with_the_logs(tmp_path: Path) -> None:
    write(tmp_path, watch_rows().with_columns(country=pl.lit("SE")))
    (tmp_path / "u.csv").write_text("user_id\n1u\n1U\n")
    (tmp_path / "h.csv").write_text("user_id,video_id\n1u,0v\n2u,V0\n")
    videos = [f"{video},{'SE' if video == '0v' else 'SWE'}" for video in sorted(watch_rows()["video_id"].unique())]
    (tmp_path / "v.csv").write_text("\n".join(["video_id,countries", *videos, ""]))
    logs = 'watches = "w.parquet"\nusers = "u.csv"\nvideos = "v.csv"\nhidden = "h.csv"'
    assert [one.what for one in findings_in(tmp_path, logs) if one.state == "warning"] == [
        "1 of 2 users of the table do not occur in the logs: 1U",
        "1 of 2 hidden videos are neither in the catalogue nor watched: V0",
        "1 of 2 codes in countries occur in no watch and no user: SWE",
    ]


def test_rows_that_were_not_looked_at_may_have_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_joins, "FRAME_ROWS", 40)
    write(tmp_path, watch_rows())
    (tmp_path / "u.csv").write_text("user_id\n1u\nlater\n")
    found = found_in(tmp_path, 'watches = "w.parquet"\nusers = "u.csv"')["logs.users"]
    assert found.state == "ok" and "nobody" not in found.what
    (tmp_path / "u.csv").write_text("user_id\nU1\nlater\n")
    assert found_in(tmp_path, 'watches = "w.parquet"\nusers = "u.csv"')["logs.users"].state == "warning"


@pytest.mark.parametrize(
    ("ours", "columns", "theirs"),
    [
        ("user_id", ["uid", "item_id", "ts"], "uid"),
        ("video_id", ["uid", "item_id", "ts"], "item_id"),
        ("time", ["uid", "item_id", "ts"], "ts"),
        ("user_id", ["USER-ID"], "USER-ID"),
        ("user_id", ["userId", "uid"], "userId"),
        ("watch_seconds", ["watch_secs", "x"], "watch_secs"),
        ("query", ["Search Query"], "Search Query"),
        ("user_id", ["title", "colour"], None),
        ("user_id", [], None),
        ("activity", ["activty"], "activty"),
    ],
)
def test_nearest_column_matches_spellings_and_synonyms(ours: str, columns: list[str], theirs: str | None) -> None:
    assert doctor_logs.nearest_column(ours, columns) == theirs


def test_renaming_advice_gives_the_lines_for_the_job_file() -> None:
    advice = doctor_logs.renaming_advice("watches", ["user_id", "time"], ["uid", "ts", "x"])
    assert advice.endswith('below [logs.columns.watches]: user_id = "uid"; time = "ts"')


def test_renaming_advice_without_a_likely_column_gives_an_example() -> None:
    advice = doctor_logs.renaming_advice("searches", ["query", "user_id"], ["x"])
    assert "[logs.columns.searches]" in advice and advice.endswith('query = "..."')
