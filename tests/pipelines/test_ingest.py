from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, night, watch_rows, write_job
from stores import impressions_of, newest

from pipelines import ingest
from pipelines.base import lock, manifest, snapshot_store
from pipelines.logs import joins
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from transforms.core import files
from transforms.core.digests import bucket_of
from transforms.logs.readers import LogError


def run(job: Path, date: dt.date = DATE) -> manifest.Manifest:
    """One ingest, and the manifest it left."""
    ingest.run(night(job, date))
    return night(job, date).require("ingest")


def rows(read: int, **others: int) -> dict[str, int]:
    """A table's row in a manifest's counts."""
    return {"read": read, "refused": 0, "duplicates": 0, "forgotten": 0, "other_days": 0, "kept": 0} | others


def events(of: Night, table: str = "watches") -> pl.DataFrame:
    """All events the newest snapshot lists, with the day and the bucket of the file each is in."""
    frames = [
        files.read_parquet(f"{of.root.store}/{f.file.name}").with_columns(day=pl.lit(f.day), bucket=f.bucket)
        for f in newest(of).files
        if f.table == table
    ]
    return pl.concat(frames).sort("user_id", "time", "query" if table == "searches" else "video_id")


def to_parquet(rows: pl.DataFrame, path: Path) -> None:
    rows.write_parquet(path)


def to_json_lines(rows: pl.DataFrame, path: Path) -> None:
    rows.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_ndjson(path)


def to_csv(rows: pl.DataFrame, path: Path) -> None:
    rows.with_columns(pl.col("time").dt.epoch("s")).write_csv(path)


def to_csv_gz(rows: pl.DataFrame, path: Path) -> None:
    path.write_bytes(gzip.compress(rows.with_columns(pl.col("time").dt.epoch("ms")).write_csv().encode()))


Write = Callable[[pl.DataFrame, Path], None]
FORMATS: dict[str, Write] = {"parquet": to_parquet, "jsonl": to_json_lines, "csv": to_csv, "csv.gz": to_csv_gz}


def logged(folder: Path, ending: str = "parquet", *, order: list[int] | None = None, more: str = "") -> Path:
    """Four files of watches and one of searches, written in a format and named in an order; the job for them."""
    rows = watch_rows()
    (folder / "w").mkdir(parents=True)
    for name, part in enumerate(order or [0, 1, 2, 3]):
        FORMATS[ending](rows[part * 10 : part * 10 + 10], folder / "w" / f"{name}.{ending}")
    searches = rows.select("user_id", "time", query=pl.lit("Jazz ") + pl.col("video_id"))
    FORMATS[ending](searches[::3], folder / f"searches.{ending}")
    return write_job(folder, f'watches = "w"\nsearches = "searches.{ending}"\n{more}')


def test_every_format_and_every_order_of_files_gives_the_same_store(tmp_path: Path) -> None:
    jobs = [logged(tmp_path / ending, ending) for ending in FORMATS]
    jobs.append(logged(tmp_path / "order", order=[2, 0, 3, 1]))
    found = [run(job).figures["store"] for job in jobs]
    assert len(set(found)) == 1, dict(zip([*FORMATS, "order"], found, strict=True))
    expected = watch_rows().sort("user_id", "time", "video_id")
    for job in jobs:
        got = events(night(job))
        assert got.select("user_id", "video_id", "time").equals(expected.select("user_id", "video_id", "time"))
        assert got["completed"].to_list() == (expected["watch_seconds"] >= 30).to_list()


def test_events_lie_in_the_file_of_their_day_and_bucket(tmp_path: Path) -> None:
    job = logged(tmp_path)
    assert run(job).figures["buckets"] == 8
    for table in ("watches", "searches"):
        found = events(night(job), table)
        assert found["day"].to_list() == found["time"].dt.date().cast(pl.String).to_list()
        assert found["bucket"].to_list() == [bucket_of(user, 8) for user in found["user_id"]]


def test_impressions_are_events_like_others(tmp_path: Path) -> None:
    job = logged(tmp_path)
    run(job)
    before = night(job)
    shown = impressions_of(watch_rows())
    shown.write_parquet(tmp_path / "i.parquet")
    job = logged(tmp_path / "with", more=f'impressions = "{tmp_path}/i.parquet"\n')
    counts = run(job).figures
    assert counts["tables"]["impressions"] == rows(120, kept=120) and counts["rows"]["impressions"] == 120
    found = events(night(job), "impressions")
    assert found["day"].to_list() == found["time"].dt.date().cast(pl.String).to_list()
    assert found["bucket"].to_list() == [bucket_of(user, 8) for user in found["user_id"]]
    plain = shown.with_columns(pl.when("clicked").then("watch_seconds").otherwise(0.0).cast(pl.Float32))
    assert found.select(shown.columns).equals(plain.sort("user_id", "time", "video_id"))
    of = night(job)
    assert of.ingested.window_digest() == before.ingested.window_digest() != of.ingested.window_digest(["impressions"])
    listed = {path for bucket in of.ingested.buckets() for path in bucket.impressions}
    assert listed == {f"{of.root.store}/{f.file.name}" for f in newest(of).files if f.table == "impressions"}


def test_a_late_file_joins_the_days_it_belongs_to_and_the_rest_stays(tmp_path: Path) -> None:
    job = logged(tmp_path)
    first = run(job)
    before = newest(night(job))
    late = watch_rows().head(5).with_columns(pl.lit("late").alias("video_id"))
    to_csv(late, tmp_path / "w" / "late.csv")
    second = run(job)
    after = newest(night(job))
    assert set(before.files) < set(after.files) and after.number == before.number + 1
    assert {f.day for f in set(after.files) - set(before.files)} == set(late["time"].dt.date().cast(pl.String))
    assert second.figures["tables"]["watches"] == rows(45, kept=45)
    assert events(night(job)).height == 45 and second.fingerprint == first.fingerprint
    whole = logged(tmp_path / "whole")
    to_csv(late, tmp_path / "whole" / "w" / "late.csv")
    run(whole)
    assert events(night(whole)).equals(events(night(job)))


def test_rows_that_are_sent_again_are_counted_and_kept_once(tmp_path: Path) -> None:
    job = logged(tmp_path)
    run(job)
    to_json_lines(watch_rows()[5:15], tmp_path / "w" / "again.jsonl")
    assert run(job).figures["tables"]["watches"] == rows(50, duplicates=10, kept=40)
    assert events(night(job)).height == 40


def test_a_second_run_takes_nothing(tmp_path: Path) -> None:
    job = logged(tmp_path)
    first, before = run(job), newest(night(job))
    assert ingest.plan(night(job)).is_done(night(job))
    assert run(job) == first and newest(night(job)) == before
    to_csv(watch_rows().head(1).with_columns(pl.lit("new").alias("video_id")), tmp_path / "w" / "new.csv")
    assert not ingest.plan(night(job)).is_done(night(job))


def test_the_next_night_keeps_what_is_taken_and_the_earlier_one_its_snapshot(tmp_path: Path) -> None:
    job = logged(tmp_path)
    first = run(job)
    tomorrow = DATE + dt.timedelta(days=1)
    to_csv(watch_rows().head(2).with_columns(pl.lit("new").alias("video_id")), tmp_path / "w" / "new.csv")
    second = run(job, tomorrow)
    assert second.figures["tables"]["watches"]["read"] == 2
    before, after = night(job).ingested.snapshot, night(job, tomorrow).ingested.snapshot
    assert before.number == first.figures["snapshot"] < after.number
    assert (before.rows("watches"), after.rows("watches")) == (40, 42)


def test_a_crash_between_snapshot_and_manifest_loses_no_count(tmp_path: Path) -> None:
    job = logged(tmp_path, more='max_reject_fraction = 0.5\nusers = "u.csv"')
    (tmp_path / "u.csv").write_text("user_id,birth_year\n1u,x\n2u,1990\n")
    to_csv(watch_rows().head(2).with_columns(time=None, user_id=None), tmp_path / "w" / "bad.csv")
    first = run(job)
    of = night(job)
    (Path(of.folder("ingest")) / manifest.NAME).unlink()
    second = run(job)
    assert second.figures == first.figures and second.figures["tables"]["watches"]["refused"] == 2
    assert sorted(rejects(of)["table"]) == ["users", "watches", "watches"] and newest(of).number == 1


def test_a_crash_before_the_snapshot_leaves_orphans_that_the_next_run_removes(tmp_path: Path) -> None:
    job = logged(tmp_path)
    of = night(job)
    orphan = Path(of.root.store) / "watches" / "2026-11-18" / "00000-of-00008-dead.parquet"
    orphan.parent.mkdir(parents=True)
    watch_rows().write_parquet(orphan)
    run(job)
    assert not orphan.exists() and events(of).height == 40


def bad_rows() -> pl.DataFrame:
    """One row for each reason a watch is rejected for, the first one good."""
    rows = [
        ("u", "v", "2026-11-20T10:00:00Z", "12"),
        ("", "v", "2026-11-20T10:00:00Z", "12"),
        ("u", None, "2026-11-20T10:00:00Z", "12"),
        ("u", "v", "yesterday", "12"),
        ("u", "v", "2026-11-22T00:00:00Z", "12"),
        ("u", "v", "2026-11-20T10:00:01Z", "-1"),
    ]
    return pl.DataFrame(rows, schema=["user_id", "video_id", "time", "watch_seconds"], orient="row")


REASONS = [
    "user_id is null",
    "video_id is null",
    "time cannot be read",
    "time lies in the future: not before 2026-11-22 00:00 UTC",
    "watch_seconds is negative",
]


def rejects(of: Night) -> pl.DataFrame:
    folder = Path(of.root.night(of.date)) / "rejects"
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.iterdir())]).sort("file", "row")


def test_too_many_rejects_fail_the_night_and_nothing_is_taken(tmp_path: Path) -> None:
    job = logged(tmp_path, more="max_reject_fraction = 0.05")
    bad_rows().write_csv(tmp_path / "w" / "bad.csv")
    of = night(job)
    with pytest.raises(StageError, match=r"5 of 60 rows were rejected, above max_reject_fraction = 0.05 .*nothing was"):
        ingest.run(of)
    assert snapshot_store.latest(of.root.snapshots) is None and manifest.load(of.folder("ingest")) is None
    found = rejects(of)
    assert found.columns == ["table", "file", "row", "reason", "text"]
    assert found["reason"].to_list() == REASONS and found["row"].to_list() == [2, 3, 4, 5, 6]
    assert set(found["table"]) == {"watches"} and set(found["file"]) == {str(tmp_path / "w" / "bad.csv")}
    assert json.loads(found["text"][2])["time"] == "yesterday"


def test_rejects_below_the_limit_are_counted_and_the_night_goes_on(tmp_path: Path) -> None:
    job = logged(tmp_path, more="max_reject_fraction = 0.1")
    bad_rows().write_csv(tmp_path / "w" / "bad.csv")
    counts = run(job).figures
    assert counts["tables"]["watches"] == rows(46, refused=5, kept=41)
    assert counts["rejects"] == {f"watches: {reason}": 1 for reason in REASONS}
    assert rejects(night(job))["reason"].to_list() == REASONS
    assert events(night(job)).height == 41


@pytest.mark.parametrize("batch_bytes", [1, 2_000_000_000])
def test_all_rejected_rows_are_counted_and_the_first_of_each_reason_listed(tmp_path: Path, batch_bytes: int) -> None:
    job = logged(tmp_path, more=f"max_reject_fraction = 1.0\nbatch_bytes = {batch_bytes}")
    for name in ("x", "y", "z"):
        bad_rows()[[0] + [3] * 700].write_csv(tmp_path / "w" / f"{name}.csv")
    counts = run(job).figures
    assert counts["rejects"] == {"watches: time cannot be read": 2_100}
    found = rejects(night(job)).select("file", "row").rows()
    assert found == [(f"{tmp_path}/w/x.csv", row) for row in range(2, 702)] + [
        (f"{tmp_path}/w/y.csv", row) for row in range(2, 302)
    ]
    assert any(note.startswith("2,100 rows were rejected: 1,000 of them, the first") for note in counts["notes"])


def test_a_night_that_failed_for_its_rejects_goes_on_when_they_are_gone(tmp_path: Path) -> None:
    job = logged(tmp_path)
    bad_rows().write_csv(tmp_path / "w" / "bad.csv")
    with pytest.raises(StageError):
        ingest.run(night(job))
    (tmp_path / "w" / "bad.csv").unlink()
    assert run(job).figures["rejects"] == {} and events(night(job)).height == 40
    assert not (Path(night(job).root.night(DATE)) / "rejects").exists()


@pytest.mark.parametrize("batch_bytes", [1, 2_000_000_000])
def test_rows_read_are_kept_rejected_or_duplicates_in_any_batches(tmp_path: Path, batch_bytes: int) -> None:
    job = logged(tmp_path, more=f"max_reject_fraction = 0.5\nbatch_bytes = {batch_bytes}")
    bad_rows().write_csv(tmp_path / "w" / "bad.csv")
    to_json_lines(watch_rows()[20:32], tmp_path / "w" / "again.jsonl")
    run(job)
    found = night(job).require("ingest").figures["tables"]["watches"]
    assert found == rows(58, refused=5, duplicates=12, kept=41)
    assert events(night(job)).height == 41


def test_catalogue_and_users_are_read_anew_when_they_change(tmp_path: Path) -> None:
    job = logged(tmp_path, more='videos = "v.csv"\nusers = "u.csv"')
    (tmp_path / "v.csv").write_text("video_id,title\n0v,Zero\n1v,One\n0v,Zero again\n")
    (tmp_path / "u.csv").write_text("user_id,gender\n0u,f\n1u,m\n")
    first = run(job)
    assert first.figures["tables"]["videos"] == rows(3, duplicates=1, kept=2)
    assert night(job).ingested.titles(["0v", "1v", "9v"]) == {"0v": "Zero again", "1v": "One"}
    assert sum(entry.rows for entry in first.named("users/")) == 2
    (tmp_path / "v.csv").write_text("video_id,title\n0v,Nil\n")
    second = run(job)
    assert night(job).ingested.titles(["0v", "1v"]) == {"0v": "Nil"}
    assert second.figures["store"] == first.figures["store"] and second.fingerprint != first.fingerprint


@pytest.mark.parametrize("ending", ["parquet", "csv.gz"])
def test_a_file_cut_short_is_named_and_nothing_is_taken(tmp_path: Path, ending: str) -> None:
    job = logged(tmp_path, ending)
    path = tmp_path / "w" / f"2.{ending}"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LogError, match=f"2.{ending}: not a complete {ending} file"):
        ingest.run(night(job))
    assert snapshot_store.latest(night(job).root.snapshots) is None


def test_logs_without_a_valid_watch_are_an_error(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w.csv"')
    (tmp_path / "w.csv").write_text("user_id,video_id,time,watch_seconds\n")
    with pytest.raises(StageError, match=r"logs.watches = .*w.csv': there is not one valid watch"):
        ingest.run(night(job))


def test_the_bucket_count_of_a_store_is_that_of_the_job_and_stays(tmp_path: Path) -> None:
    job = logged(tmp_path, more='[storage]\nroot = "runs"\nbuckets = 16')
    assert run(job).figures["buckets"] == 16
    job.write_text(job.read_text().replace("buckets = 16", "buckets = 32"))
    to_csv(watch_rows().head(1).with_columns(pl.lit("new").alias("video_id")), tmp_path / "w" / "new.csv")
    assert run(job).figures["buckets"] == 16


def test_what_is_passed_over_is_noted(tmp_path: Path) -> None:
    job = logged(tmp_path, more='[privacy]\nforget = "forget"\n')
    for name in ("w/region=EU/late.xls", "forget/ids.txt", "forget/ids.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("user_id\nnobody\n")
    to_parquet(watch_rows(), tmp_path / "w" / "region=EU" / "all.parquet")
    notes = run(job).figures["notes"]
    assert any(note.startswith("logs.watches: 1 file was skipped: late.xls. ") for note in notes)
    assert any(note.startswith("logs.watches: folder names give values of region, ") for note in notes)
    assert any(note.startswith("privacy.forget: 1 file was skipped: ids.txt. ") for note in notes)


def test_a_job_in_a_folder_with_the_signs_of_patterns_reads_and_removes_its_own_files(tmp_path: Path) -> None:
    folder, other = tmp_path / "run?", tmp_path / "run1"
    for place in (folder, other):
        logged(place)
    run(other / "job.toml")
    (other / "runs" / "LOCK").write_text("{}")
    with lock.hold(night(folder / "job.toml").root.lock):
        assert run(folder / "job.toml").figures["tables"]["watches"]["read"] == 40
        assert run(folder / "job.toml", DATE + dt.timedelta(days=1)).figures["tables"] == {}
    assert not (folder / "runs" / "LOCK").exists() and (other / "runs" / "LOCK").exists()
    assert events(night(folder / "job.toml")).equals(events(night(other / "job.toml")))


def ids_csv(path: Path, header: str, *lines: str) -> None:
    path.write_text("\n".join([header, *lines, ""]))


def test_ids_of_a_new_list_of_users_to_forget_that_are_nobody_are_noted(tmp_path: Path) -> None:
    job = logged(tmp_path, more='[privacy]\nforget = "forget.csv"\n')
    users = watch_rows()["user_id"].unique().sort()
    ids_csv(tmp_path / "forget.csv", "user_id", users[0], users[1], "0004", "no\u202ebody")
    counts = run(job).figures
    assert counts["joins"]["forget"] == {"values": 4, "unmatched": 2}
    message = "privacy.forget: 2 of 4 ids on the list do not occur in the logs (compared with"
    assert any(note.startswith(message) for note in counts["notes"])
    assert not any("0004" in note or "body" in note.removeprefix(message) for note in counts["notes"])
    unchanged = run(job, DATE + dt.timedelta(days=1)).figures
    assert "forget" not in unchanged["joins"] and not any("privacy.forget" in note for note in unchanged["notes"])
    ids_csv(tmp_path / "forget.csv", "user_id", users[2], "0004")
    changed = run(job, DATE + dt.timedelta(days=2)).figures
    assert changed["joins"]["forget"] == {"values": 2, "unmatched": 1}  # users[2] was in the store alone
    assert any("1 of 2 ids" in note and "earlier night also count here" in note for note in changed["notes"])


@pytest.mark.parametrize("more", ["", 'pseudonym_key_env = "KEY"\n'], ids=["ids", "pseudonyms"])
def test_no_id_of_users_to_forget_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str) -> None:
    monkeypatch.setenv("KEY", "0123456789abcdef")
    job = logged(tmp_path, more=f'[privacy]\nforget = "forget.csv"\n{more}')
    ids_csv(tmp_path / "forget.csv", "user_id", watch_rows()["user_id"][0], "secret-id")
    notes = run(job).figures["notes"]
    assert any("1 of 2 ids on the list do not occur in the logs (" in note for note in notes)
    kept = [path for path in Path(night(job).root.path).rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if b"secret-id" in path.read_bytes()]


def test_ids_of_other_tables_without_a_partner_are_counted(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    watches = watch_rows().with_columns(country=pl.lit("se"))
    to_parquet(watches, tmp_path / "w.parquet")
    users, videos = watches["user_id"].unique().sort(), watches["video_id"].unique().sort()
    ids_csv(tmp_path / "u.csv", "user_id,country", f"{users[0]},at", f"{users[1]},", "ghost,de")
    ids_csv(tmp_path / "v.csv", "video_id,countries", f"{videos[0]},SE", f'{videos[1]},"AT,UK"')
    pairs = (f"{users[0]},{videos[4]}", f"{users[1]},nothing", f"ghost,{videos[0]}")
    ids_csv(tmp_path / "h.csv", "user_id,video_id", *pairs)
    logs = 'watches = "w.parquet"\nusers = "u.csv"\nvideos = "v.csv"\nhidden = "h.csv"'
    counts = run(write_job(tmp_path, logs)).figures
    assert counts["joins"] == {
        "users": {"values": 3, "unmatched": 1},
        "hidden users": {"values": 3, "unmatched": 1},
        "hidden videos": {"values": 3, "unmatched": 1},
        "videos": {"values": 5, "unmatched": 3},
        "countries": {"values": 3, "unmatched": 1},
    }
    notes = [note for note in counts["notes"] if note.startswith("logs.")]
    assert notes == [
        "logs.users: 1 of 3 users of the table do not occur in the logs",
        "logs.hidden: 1 of 3 users with hidden videos do not occur in the logs",
        f"logs.videos: 3 of 5 watched videos are not in the catalogue, so they are never recommended: "
        f"{', '.join(videos[2:])}",
        "logs.videos: 1 of 3 codes in countries occur in no watch and no user: UK",
        "logs.hidden: 1 of 3 hidden videos are neither in the catalogue nor watched: nothing",
    ]


def test_of_a_large_store_some_buckets_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "LOCAL_ROWS", 12)
    job = logged(tmp_path)
    write_job(tmp_path, (tmp_path / "job.toml").read_text().split("\n", 2)[1] + '\nusers = "u.csv"')
    ids_csv(tmp_path / "u.csv", "user_id", *(f"ghost{n}" for n in range(100)), *watch_rows()["user_id"].unique())
    counts = run(job).figures
    assert 0 < counts["joins"]["users"]["unmatched"] < 100
    (note,) = (note for note in counts["notes"] if "users of the table" in note)
    assert note.endswith(f" of {counts['buckets']} buckets were compared)")


def test_a_link_from_the_logs_to_the_root_is_refused(tmp_path: Path) -> None:
    job = logged(tmp_path)
    run(job)
    (tmp_path / "w" / "link").symlink_to(tmp_path / "runs")
    with pytest.raises(LogError, match=r"w/link/.*\.parquet is a file of the root .*runs, to which a link in the logs"):
        run(job, DATE + dt.timedelta(days=1))
