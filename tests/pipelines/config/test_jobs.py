from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.base import paths, raw_files
from pipelines.config.jobs import Job, JobError, load_job

ALONE = '[logs]\nwatches = "/logs/watches"\n'


def job_of(folder: Path, text: str) -> Job:
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return load_job(str(path))


def error_of(folder: Path, text: str) -> str:
    with pytest.raises(JobError) as caught:
        job_of(folder, text)
    return str(caught.value)


def test_every_setting_but_the_logs_has_a_default(tmp_path: Path) -> None:
    """The defaults themselves are in docs/job.md, which test_job_reference.py compares."""
    given = {"logs": {"watches": "/logs/watches"}, "storage": {"root": str(tmp_path / "runs")}}
    assert job_of(tmp_path, ALONE) == Job.model_validate(given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[examples]\nwindow_day = 7\n", "unknown setting examples.window_day; did you mean examples.window_days?"),
        ("[neighbors]\nk = 3\n", "unknown setting neighbors; did you mean neighbours?"),
        ("[model]\ndimensions = 8\n", "unknown setting model.dimensions; did you mean model.dimension?"),
        (
            '[logs.columns]\nwatch_secs = "w"\n',
            "unknown setting logs.columns.watch_secs; did you mean logs.columns.watch_seconds?",
        ),
        (
            '[logs.columns.users]\nbirthyear = "w"\n',
            "unknown setting logs.columns.users.birthyear; did you mean logs.columns.users.birth_year?",
        ),
        ('[logs.columns.watched]\nuser_id = "u"\n', "watched is not a log table"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path, text: str, message: str) -> None:
    assert message in error_of(tmp_path, ALONE + text)


@pytest.mark.parametrize(
    ("text", "setting", "value", "rule"),
    [
        ("[neighbours]\nk = -3\n", "neighbours.k", "-3", "greater than 0"),
        ('[neighbours]\nk = "many"\n', "neighbours.k", "'many'", "valid integer"),
        ('[neighbours]\nexclude = "seen"\n', "neighbours.exclude", "'seen'", "'completed', 'watched' or 'none'"),
        ("[examples]\nwindow_days = 999_999_999\n", "examples.window_days", "999999999", "less than or equal to 36500"),
        ("[storage]\nkeep_days = 99_999_999\n", "storage.keep_days", "99999999", "less than or equal to 36500"),
        ("[neighbours]\nexclude_days = -1\n", "neighbours.exclude_days", "-1", "greater than or equal to 0"),
        ("[neighbours]\nmax_share_per_channel = 0\n", "neighbours.max_share_per_channel", "0", "greater than 0"),
        ("[neighbours]\ndiversity = 1\n", "neighbours.diversity", "1", "less than 1"),
        ("[neighbours]\ndiversity = -0.1\n", "neighbours.diversity", "-0.1", "greater than or equal to 0"),
        ("[index]\nshard_videos = 0\n", "index.shard_videos", "0", "greater than 0"),
        ('[index]\nonly = "age_day < 1"\n', "index.only", "'age_day < 1'", "no column age_day; did you mean age_days?"),
        ("[examples]\nholdout_users = 1.5\n", "examples.holdout_users", "1.5", "less than or equal to 1"),
        ("[examples]\nper_user = -1\n", "examples.per_user", "-1", "greater than or equal to 0"),
        ("[model]\nhidden = [64, 0]\n", "model.hidden.1", "0", "greater than 0"),
        ("[training]\nepochs = 1.5\n", "training.epochs", "1.5", "valid integer"),
        ('[storage]\nroot = " "\n', "storage.root", "' '", "it is empty: give a folder"),
        ('[logs.columns]\ntime = ""\n', "logs.columns", "''", "the name of your column for time is empty"),
        ('[logs.columns.users]\ngender = ""\n', "logs.columns", "''", "the name of your column for gender is empty"),
        ("[storage]\nbuckets = 12\n", "storage.buckets", "12", "a power of two from 8 to 4096"),
        ("[storage]\nkeep_nights = -1\n", "storage.keep_nights", "-1", "greater than or equal to 0"),
        ('[notify]\non = "never"\n', "notify.on", "'never'", "'failure' or 'always'"),
        ("[notify]\ntimeout_seconds = 0\n", "notify.timeout_seconds", "0", "greater than 0"),
        ("[storage]\nbuckets = 4\n", "storage.buckets", "4", "a power of two from 8 to 4096"),
        ("time_zone = 'Mars/Base'\n", "logs.time_zone", "'Mars/Base'", "not an IANA time zone"),
        ("max_reject_fraction = 2\n", "logs.max_reject_fraction", "2", "less than or equal to 1"),
        ("completed_fraction = 0\n", "logs.completed_fraction", "0", "greater than 0"),
        (
            "[examples]\nmax_sequence = 40\n",
            "examples",
            "40",
            "max_sequence must be at least watch_history and search_history",
        ),
        ("[examples]\nlong_tail_rows = 0\n", "examples.long_tail_rows", "0", "greater than 0"),
        ('[examples]\nlong_tail = "drop"\n', "examples.long_tail", "'drop'", "'zero' or 'hash'"),
        ("[examples]\nmax_events_per_day = -1\n", "examples.max_events_per_day", "-1", "greater than or equal to 0"),
        ("[examples]\nwindow_days = 3\nholdout_days = 3\n", "examples", "3", "holdout_days must be below window_days"),
        ("[gates]\nmin_volume = 3\n", "gates", "3", "min_volume must not be above max_volume (2), but is 3"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(tmp_path: Path, text: str, setting: str, value: str, rule: str) -> None:
    message = error_of(tmp_path, ALONE + text)
    assert f"{setting} = " in message and value in message and rule in message
    assert str(tmp_path / "job.toml") in message


def test_one_error_lists_all_mistakes_of_a_file(tmp_path: Path) -> None:
    message = error_of(tmp_path, ALONE + "[neighbours]\nk = 0\n[index]\nrecal = 0.9\n")
    assert len(message.splitlines()) == 2 and "neighbours.k" in message and "index.recall" in message


def test_paths_are_relative_to_the_job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path)
    text = '[logs]\nwatches = "../w/{date}.csv"\nvideos = "/data/v.csv"\nusers = "gs://bucket/u/*.parquet"\n'
    (tmp_path / "inner" / "job.toml").write_text(text + '[storage]\nroot = "../runs"\n')
    job = load_job("inner/job.toml")
    assert Path(job.logs.watches).resolve() == Path(tmp_path / "w" / "{date}.csv").resolve()
    assert Path(job.storage.root).resolve() == Path(tmp_path / "runs").resolve()
    assert (job.logs.videos, job.logs.users, job.logs.searches) == ("/data/v.csv", "gs://bucket/u/*.parquet", None)


def test_columns_are_renamed_for_all_tables_or_for_one(tmp_path: Path) -> None:
    text = ALONE + '[logs.columns]\nuser_id = "uid"\ntime = "ts"\n[logs.columns.searches]\ntime = "when"\n'
    logs = job_of(tmp_path, text).logs
    assert logs.renamed("watches") == {"user_id": "uid", "time": "ts"}
    assert logs.renamed("searches") == {"user_id": "uid", "time": "when"}


def test_a_category_of_the_users_table_may_be_renamed(tmp_path: Path) -> None:
    text = ALONE + '[logs.columns.users]\nplan = "subscription"\n'
    assert "logs.columns.users.plan" in error_of(tmp_path, text)
    job = job_of(tmp_path, text + '[examples]\nuser_categories = ["plan"]\n')
    assert job.logs.renamed("users") == {"plan": "subscription"}


def test_what_is_no_toml_says_where(tmp_path: Path) -> None:
    message = error_of(tmp_path, "[logs\nwatches = 1\n")
    assert "cannot be read as TOML" in message and "line 1" in message and "job.toml" in message


def test_missing_logs_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    assert "logs is missing and has no default" in error_of(tmp_path, "[model]\ndimension = 8\n")
    assert "logs.watches is missing and has no default" in error_of(tmp_path, "[logs]\n")
    with pytest.raises(JobError, match=r"nowhere.toml: no such job file"):
        load_job(str(tmp_path / "nowhere.toml"))
    with pytest.raises(JobError, match="cannot be read"):
        load_job(str(tmp_path))


def test_rules_need_what_they_are_about(tmp_path: Path) -> None:
    message = error_of(tmp_path, ALONE + '[index]\nonly = "age_days < 1"\n')
    assert "index.only = 'age_days < 1' needs a catalogue" in message
    message = error_of(tmp_path, ALONE + "[neighbours]\nmax_share_per_channel = 0.25\n")
    assert "neighbours.max_share_per_channel = 0.25 needs the channels in the catalogue" in message
    message = error_of(tmp_path, ALONE + "[neighbours]\nexclude_days = 90\n[storage]\nkeep_days = 60\n")
    assert "neighbours.exclude_days = 90 exceeds storage.keep_days (60)" in message
    message = error_of(tmp_path, ALONE + "[storage]\nkeep_days = 4\n")
    assert "storage.keep_days must be 0 (all days) or at least window_days + holdout_days (29), but is 4" in message
    text = ALONE + 'videos = "v.csv"\nhidden = "h.csv"\n[neighbours]\nmax_share_per_channel = 0.25\nexclude_days = 60\n'
    job = job_of(tmp_path, text + "[storage]\nkeep_days = 60\n")
    assert (job.neighbours.max_share_per_channel, job.neighbours.exclude_days) == (0.25, 60)
    assert job.logs.hidden == str(tmp_path / "h.csv")


def test_a_byte_order_mark_is_no_part_of_a_job(tmp_path: Path) -> None:
    assert job_of(tmp_path, f"\ufeff{ALONE}").logs.watches == "/logs/watches"


@pytest.mark.parametrize("name", ["logs [prod]", "run?", "a*b", "{date}"])
def test_the_folder_of_a_job_is_no_part_of_a_pattern(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    job = job_of(folder, '[logs]\nwatches = "w-*.csv"\n[privacy]\nforget = "f.csv"\n')
    assert job.storage.root == str(folder / "runs")
    assert raw_files.literal_prefix(job.logs.watches) == f"{folder}/" and job.logs.watches.endswith("/w-*.csv")
    for given in (job.logs.watches, job.privacy.forget):
        assert given is not None and given.startswith(paths.escape_pattern(str(folder)))


@pytest.mark.parametrize(
    ("watches", "root", "refused"),
    [
        ("data", "data/runs", "lies within logs.watches"),
        ("data", "data", "lies within logs.watches"),
        (".", "runs", "lies within logs.watches"),
        ("data/*", "data/runs", "lies within logs.watches"),
        ("data/**/*.parquet", "data/a/runs", "lies within logs.watches"),
        ("link", "data/runs", "lies within logs.watches"),
        ("s3://b/data", "s3://b/data/runs", "lies within logs.watches"),
        ("runs/store/w.csv", "runs", "lies within storage.root"),
        ("s3://b/runs/nights/{date}", "s3://b/runs", "lies within storage.root"),
        ("data/*.csv", "data/runs", ""),
        ("data", "data-runs", ""),
        ("data", "data/_runs", ""),
        ("logs", ".", ""),
        ("s3://b/data", "s3://b/database", ""),
        ("s3://b/data", "data/runs", ""),
    ],
)
def test_a_root_within_the_logs_is_refused(tmp_path: Path, watches: str, root: str, refused: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    text = f'[logs]\nwatches = "{watches}"\n[storage]\nroot = "{root}"\n'
    if refused:
        message = error_of(tmp_path, text)
        assert refused in message and "storage.root" in message and "logs.watches" in message
    else:
        assert job_of(tmp_path, text).storage.root.endswith(root.strip("."))


@pytest.mark.parametrize(
    ("columns", "refused"),
    [
        ('user_id = "id"\nvideo_id = "id"', "user_id and video_id of watches are read from the same column"),
        (
            'completed = "w"\nwatch_seconds = "w"',
            "completed and watch_seconds of watches are read from the same column",
        ),
        ('watch_seconds = "completed"', "completed and watch_seconds of watches are read from the same column"),
        ('[logs.columns.watches]\ntime = "user_id"', "user_id and time of watches are read from the same column"),
        ('[logs.columns.impressions]\npage_id = "time"', ""),
        ('device = "country"', ""),
        ('time = "date"\n[logs.columns.videos]\nupload_time = "date"', ""),
        ('user_id = "video_id"\nvideo_id = "user_id"', ""),
    ],
)
def test_two_values_of_a_row_need_two_columns(tmp_path: Path, columns: str, refused: str) -> None:
    text = f'{ALONE}impressions = "/logs/i"\nvideos = "/logs/v"\n[logs.columns]\n{columns}\n'
    if refused:
        assert f"logs.columns: {refused}" in error_of(tmp_path, text)
    else:
        job_of(tmp_path, text)


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        ('["row"]', "'row' is reserved"),
        ('["user_id"]', "'user_id' is reserved"),
        ('["reason"]', "'reason' is reserved"),
        ('["plan", "birth_year"]', "'birth_year' is reserved"),
        ('["watches"]', "'watches' is reserved"),
        ('["plan", "plan"]', "'plan' is given twice"),
        ('[""]', "a name is empty"),
    ],
)
def test_a_category_of_users_has_a_name_of_its_own(tmp_path: Path, names: str, refused: str) -> None:
    assert refused in error_of(tmp_path, f"{ALONE}[examples]\nuser_categories = {names}\n")
    assert job_of(tmp_path, f'{ALONE}[examples]\nuser_categories = ["plan", "language"]\n')


def test_the_list_of_users_to_forget_may_have_a_column_of_another_name(tmp_path: Path) -> None:
    job = job_of(tmp_path, f'{ALONE}[logs.columns]\nuser_id = "uid"\n[logs.columns.forget]\nuser_id = "member"\n')
    assert job.logs.renamed("forget") == {"user_id": "member"} and job.logs.renamed("watches") == {"user_id": "uid"}
    message = error_of(tmp_path, f'{ALONE}[logs.columns.forget]\nvideo_id = "v"\n')
    assert "unknown setting logs.columns.forget.video_id; did you mean logs.columns.forget.user_id?" in message


def test_a_root_of_an_unknown_file_system_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('[logs]\nwatches = "w"\n[storage]\nroot = "moon://far/away"\n')
    with pytest.raises(JobError, match=r"storage.root = 'moon://far/away', .*Unable to get filesystem"):
        load_job(str(path))
