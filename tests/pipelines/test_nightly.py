"""Whole nights, run as users run them: what they leave, what a kill does to them, and what mistakes are told."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
import two_nights
from nights import (
    DATE,
    children,
    commits,
    completed_videos,
    contents,
    lists,
    night,
    nightly,
    nightly_process,
    published_json,
    records,
    rooted,
    simulated,
    start_python,
    wait_for,
    write_job,
)
from raw_features import as_inputs, raw_features
from serving_reader import Reader

from pipelines import examples, neighbours, publish, train
from pipelines.base import lock, manifest, paths
from pipelines.base.manifest import NAME
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import TrainOutputs
from pipelines.night.stage import STAGES
from pipelines.runs import dry_run
from transforms.core.digests import bucket_of
from transforms.core.tensorflow_import import tf
from transforms.logs.event_window import BucketFiles
from transforms.search.neighbours import WriteNeighbours
from transforms.search.user_limits import BucketRecords

# A night that was killed and one that was not differ by the order in which TensorFlow's threads add up.
SCORE_TOLERANCE = 1e-4
UNAVAILABLE = 5


def make(folder: Path) -> None:
    """Simulate logs with some videos taken down, and run their night in this process."""
    job = simulated(folder, "[storage]\nkeep_examples = true\n")
    videos = pl.read_parquet(folder / "videos.parquet")
    taken_down = pl.int_range(pl.len()) < UNAVAILABLE
    videos.with_columns(available=~taken_down).write_parquet(folder / "videos.parquet")
    done = nightly(job)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stderr)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Night:
    """A night that nothing happened to."""
    return night(two_nights.made_once(tmp_path_factory, worker_id, "whole-night", make) / "job.toml")


def of_window(job: Path, table: str) -> pl.DataFrame:
    """The raw rows of a table; all of them lie in the window."""
    return pl.concat([pl.read_parquet(path) for path in sorted((job.parent / table).glob("*.parquet"))])


def test_every_user_with_a_watch_or_a_search_is_served_once_in_the_file_of_their_bucket(undisturbed: Night) -> None:
    job = Path(undisturbed.root.path).parent / "job.toml"
    found = lists(undisturbed)
    active = {str(user) for table in ("watches", "searches") for user in of_window(job, table)["user_id"]}
    assert found["user_id"].to_list() == sorted(active)
    buckets = undisturbed.ingested.snapshot.buckets
    assert found["bucket"].to_list() == [bucket_of(user, buckets) for user in found["user_id"]]
    assert found.select("user_id", "video_ids", "scores").schema == {
        "user_id": pl.String,
        "video_ids": pl.List(pl.String),
        "scores": pl.List(pl.Float32),
    }


def test_every_list_is_that_of_the_contract(undisturbed: Night) -> None:
    job, k = Path(undisturbed.root.path).parent / "job.toml", undisturbed.job.neighbours.k
    catalogue = pl.read_parquet(job.parent / "videos.parquet")
    available = set(catalogue.filter("available")["video_id"].cast(pl.String))
    known = set(pl.read_parquet(f"{undisturbed.folder('vocabulary')}/videos.parquet")["token"])
    candidates, completed, lengths = available & known, completed_videos(job, of_window(job, "watches")), set()
    assert len(known - available) > 0, "no video of the vocabulary was taken down: the test would show nothing"
    for user, videos, scores in lists(undisturbed).select("user_id", "video_ids", "scores").iter_rows():
        left = candidates - completed.get(user, set())
        assert len(videos) == len(scores) == min(k, len(left)), user
        assert len(set(videos)) == len(videos) and set(videos) <= left, user
        assert scores == sorted(scores, reverse=True), user
        lengths.add(len(videos))
    assert k in lengths and min(lengths) < k, "both full and short lists are to be tried"


def test_the_tower_called_with_what_the_logs_say_gives_the_vectors_of_the_night(undisturbed: Night) -> None:
    """Online and batch must agree: ids, tokens and categories as a server has them -> `user_vectors`."""
    job, folder = Path(undisturbed.root.path).parent / "job.toml", undisturbed.folder("neighbours")
    written = pl.concat([pl.read_parquet(path) for path in Path(f"{folder}/../user_vectors").glob("*.parquet")])
    vectors, users = dict(written.iter_rows()), raw_features(job)
    assert sorted(vectors) == sorted(users) == lists(undisturbed)["user_id"].to_list()
    tower = tf.saved_model.load(paths.join(undisturbed.folder("train"), undisturbed.outputs(TrainOutputs).tower))
    names = tower.signatures["raw"].structured_input_signature[1]
    assert {"watches", "tokens", "country", "device", "signed_in", "gender", "birth_year", "year"} == set(names)
    inputs = as_inputs(list(users.values()), DATE, list(names))
    found = tower.signatures["raw"](**{name: tf.constant(of, names[name].dtype) for name, of in inputs.items()})
    np.testing.assert_allclose(found["vector"], [vectors[user] for user in users], rtol=0, atol=1e-5)
    assert len(np.unique(written["vector"].list.to_array(len(written["vector"][0])).to_numpy().round(4), axis=0)) > 100


def test_a_reader_that_knows_nothing_of_watchnext_finds_everything_a_server_needs(undisturbed: Night) -> None:
    reader, catalogue = Reader(undisturbed.root.path), pl.read_parquet(undisturbed.ingested.catalogue() or "")
    shown = {}
    for user, videos, scores in lists(undisturbed).select("user_id", "video_ids", "scores").iter_rows():
        assert reader.list_of(user) == (videos, scores)
        shown[user] = np.array(reader.vector_of(user))
    path = f"{undisturbed.folder('train')}/video_vectors.parquet"
    vectors = dict(pl.read_parquet(path, columns=["video_id", "vector"]).rows())
    for user, vector in shown.items():
        videos, scores = reader.list_of(user) or ([], [])
        np.testing.assert_allclose(scores, [vector @ vectors[video] for video in videos], rtol=0, atol=1e-4)
    overall, german = reader.default_list(None), reader.default_list("DE")
    assert overall is not None and german is not None and len(overall[0]) == undisturbed.job.neighbours.k
    assert reader.default_list("no such country") == overall != german
    available = set(catalogue.filter("available")["video_id"]) & vectors.keys()
    assert set(overall[0]) <= available
    for video in available:
        near, cosines = reader.similar_to(video) or ([], [])
        assert len(near) == undisturbed.job.neighbours.similar and video not in near and set(near) <= available
        assert cosines == sorted(cosines, reverse=True)


def test_a_user_without_a_history_gets_the_default_list_of_the_country(undisturbed: Night, tmp_path: Path) -> None:
    """The records of nobody, searched for as if they were users': that they are those of such users is tested with
    stage examples."""
    (entry,) = undisturbed.require("examples").named("defaults-")
    records = BucketRecords(files=BucketFiles(bucket=0), records=f"{undisturbed.folder('examples')}/{entry.name}")
    write = WriteNeighbours(neighbours.search_inputs(undisturbed), str(tmp_path / "n"), "lists")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create([records]) | write
    found = pl.read_parquet(tmp_path / "n" / "lists").with_columns(pl.col("user_id").replace("", None))
    (path,) = Path(undisturbed.root.night(DATE)).glob("defaults/*.parquet")
    defaults = pl.read_parquet(path)
    assert defaults.equals(found.rename({"user_id": "country"}))
    assert defaults["country"].null_count() == 1 and {"DE", "US"} <= set(defaults["country"])
    assert defaults["video_ids"].list.len().unique().to_list() == [undisturbed.job.neighbours.k]
    assert defaults["scores"].n_unique() > 1, "countries must matter"


def test_the_night_is_published_with_its_report(undisturbed: Night) -> None:
    served = published_json(undisturbed.root)
    assert served["date"] == DATE.isoformat() and served["users"] == lists(undisturbed).height
    report = Path(undisturbed.root.report(undisturbed.date))
    assert report.stat().st_size > 10_000 and "recall@" in report.read_text(encoding="utf-8")


def test_lists_stay_in_the_order_of_their_scores_without_impressions(undisturbed: Night) -> None:
    reason = "no impressions (logs.impressions): lists stay in the neighbours' order"
    assert reason in (Path(undisturbed.root.path).parent / "printed.txt").read_text()
    assert undisturbed.require("ranking").counts == {"why_not": reason, "notes": [reason]}
    assert published_json(undisturbed.root)["stage"] == "neighbours"


def copied(of: Night, folder: Path) -> Path:
    """The job file of a copy of a night's root."""
    return two_nights.copy(Path(of.root.path).parent, folder)


def test_a_second_run_does_nothing_and_says_so(undisturbed: Night, tmp_path: Path) -> None:
    job = copied(undisturbed, tmp_path)
    before = commits(undisturbed)
    done = nightly(job)
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == "night 2026-11-21: nothing to do, every stage is complete"
    assert commits(night(job)) == before


def test_only_and_from_run_a_part(undisturbed: Night, tmp_path: Path) -> None:
    job = copied(undisturbed, tmp_path / "copy")
    done = nightly(job, "--from", "evaluation")
    assert [line.split()[:2] for line in done.stderr.splitlines()[:-1]] == [
        ["[1/2]", "evaluation"],
        ["[2/2]", "publish"],
    ]
    other = tmp_path / "job.toml"
    other.write_text(rooted(Path(undisturbed.root.path).parent / "job.toml", str(tmp_path / "runs")))
    assert nightly(other, "--only", "ingest").returncode == 0
    assert list(commits(night(other))) == ["ingest"]
    done = nightly(other, "--from", "examples")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "stage vocabulary is not complete" in done.stderr and "run without --only and --from" in done.stderr


def test_a_published_night_is_complete_without_its_training_records(undisturbed: Night, tmp_path: Path) -> None:
    """They are dropped after publishing: only a training that is to be done anew needs them, and then they are made."""
    shutil.copytree(undisturbed.root.path, tmp_path / "runs")
    text = rooted(Path(undisturbed.root.path).parent / "job.toml", str(tmp_path / "runs"))
    job = tmp_path / "job.toml"
    job.write_text(text.replace("keep_examples = true", "keep_examples = false"))
    publish.run(night(job))
    assert not (tmp_path / "runs" / "nights" / DATE.isoformat() / "examples" / "train").exists()
    assert {one.state for one in dry_run.outlooks(night(job), STAGES)} == {"complete"}
    job.write_text(job.read_text().replace("epochs = 1", "epochs = 2"))
    found = {one.stage: one.why for one in dry_run.outlooks(night(job), STAGES) if one.state == "would run"}
    assert list(found) == ["examples", "train"] and "the training records were dropped" in found["examples"]
    with pytest.raises(StageError, match=f"training records of {DATE} were dropped after publishing: run --from"):
        train.run(night(job))
    of = night(job)
    examples.run(of)
    assert records(of) == records(undisturbed)


def at_work(of: Night, stage: str) -> bool:
    """Whether a stage has begun to write and has not committed; train: whether it has written a checkpoint."""
    folder = Path(of.folder(stage))
    started = folder / "checkpoints" if stage == "train" else folder
    return any(path.is_file() and path.name != NAME for path in started.rglob("*"))


# stage -> who is killed, and when: as its process starts, or once it has begun to write.
KILLS = {
    "ingest": ("group", "writing"),
    "vocabulary": ("stage", "starting"),
    "examples": ("group", "writing"),
    "train": ("stage", "writing"),
    "index": ("group", "starting"),
    "neighbours": ("nightly", "writing"),
    "ranking": ("stage", "starting"),
    "evaluation": ("group", "writing"),
    "publish": ("stage", "starting"),
}


def kill_in(of: Night, job: Path, stage: str) -> str:
    """Start a night, kill it in a stage; what it had written to the display."""
    who, when = KILLS[stage]
    with start_python("-m", "pipelines.nightly", job, "--date", DATE, start_new_session=True) as process:
        wait_for(lambda: process_of(process.pid, stage), process, seconds=120)
        pid = process_of(process.pid, stage)
        if when == "writing":
            wait_for(lambda: at_work(of, stage), process)
        if who == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(pid if who == "stage" else process.pid, signal.SIGKILL)
        return process.communicate(timeout=60)[1]


def process_of(pid: int, stage: str) -> int:
    """The id of the process that a nightly runs a stage in, 0 before there is one."""
    return next((child for child, line in children(pid).items() if f"pipelines.{stage}" in line), 0)


@pytest.mark.slow
def test_a_night_killed_in_every_stage_has_the_result_of_an_undisturbed_one(undisturbed: Night, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(rooted(Path(undisturbed.root.path).parent / "job.toml", str(tmp_path / "runs")))
    of, before = night(job), dict[str, bytes]()
    for done, stage in enumerate(STAGES):
        message = kill_in(of, job, stage)
        skipped = [line.split()[1] for line in message.splitlines() if line.endswith("already complete")]
        assert skipped == list(STAGES[: max(done - 1, 0)]), message
        after = commits(of)
        assert list(after) == list(STAGES[:done]), f"the kill in {stage} came too late: {message}"
        assert before.items() <= after.items(), "a stage that was complete was run again"
        assert ("was killed by signal 9; nothing was published" in message) == (KILLS[stage][0] == "stage"), message
        assert not published_json(of.root)
        before = after
    done_now = nightly(job)
    assert done_now.returncode == 0, done_now.stderr
    assert before.items() <= commits(of).items()
    for stage in ("ingest", "vocabulary", "examples"):
        assert contents(of, stage) == contents(undisturbed, stage)
    assert records(of) == records(undisturbed)
    assert same_lists(of, undisturbed)


def test_a_night_killed_in_two_stages(undisturbed: Night, tmp_path: Path, without_plots: None) -> None:
    """The same from a copy of the night. Stage ingest is completed in this process, publish by a process."""
    job = copied(undisturbed, tmp_path)
    of = night(job)
    Path(of.root.published).unlink()
    killed = ("ingest", "publish")
    for stage in killed:
        manifest.revoke(of.folder(stage))
    for stage in STAGES:
        if stage in killed:
            before = commits(of)
            message = kill_in(of, job, stage)
            assert before.items() <= commits(of).items(), "a stage that was complete was run again"
            assert stage not in commits(of), f"the kill in {stage} came too late: {message}"
            assert not published_json(of.root)
            done = nightly_process(job) if stage == STAGES[-1] else nightly(job, "--only", stage)
            assert done.returncode == 0, (stage, done.stderr)
    assert list(commits(of)) == list(STAGES) and published_json(of.root)["date"] == DATE.isoformat()
    for stage in ("ingest", "vocabulary", "examples"):
        assert contents(of, stage) == contents(undisturbed, stage)
    assert same_lists(of, undisturbed)


def same_lists(one: Night, other: Night) -> bool:
    ours, theirs = lists(one), lists(other)
    np.testing.assert_allclose(ours["scores"].explode(), theirs["scores"].explode(), rtol=0, atol=SCORE_TOLERANCE)
    return ours.drop("scores").equals(theirs.drop("scores"))


def test_a_wrong_setting_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    done = nightly_process(write_job(tmp_path, 'watches = "w"', "[neighbours]\nkk = 3\n"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"watchnext: {tmp_path}/job.toml: unknown setting neighbours.kk; did you mean neighbours.k?\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runer=FlinkRunner"], "runer; did you mean runner?"),
        ([], "w/{date}.csv': no log files found on a day from 2026-10-24 to"),
    ],
)
def test_a_wrong_option_or_path_is_one_message_and_code_2(tmp_path: Path, options: list[str], message: str) -> None:
    done = nightly(write_job(tmp_path, 'watches = "w/{date}.csv"'), *options)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and message in done.stderr


def test_a_truncated_file_is_named_and_nothing_is_published(tmp_path: Path) -> None:
    job = simulated(tmp_path)
    path = tmp_path / "watches" / "2026-11-18.parquet"
    path.write_bytes(path.read_bytes()[:2000])
    done = nightly(job)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"{path}: not a complete parquet file" in done.stderr and "nothing was published" in done.stderr
    assert not published_json(night(job).root) and commits(night(job)) == {}
    shutil.rmtree(tmp_path / "runs")


def test_two_nights_at_the_same_time_are_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"')
    with lock.hold(night(job).root.lock):
        done = nightly_process(job)
    assert done.returncode == 1 and f"process {os.getpid()} on" in done.stderr
    of = night(job)
    assert not any(Path(path).exists() for path in (of.root.index, of.root.outcome(of.date), of.root.report(of.date)))
