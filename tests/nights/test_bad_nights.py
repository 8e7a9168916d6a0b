"""Nights that were made bad on purpose: a gate stops each of them, by name, and what was served before stays."""

from __future__ import annotations

import datetime as dt
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, TINY, gate_results, night, nightly, published_json, write_job
from two_nights import copy

from pipelines import examples, ingest, publish, simulate, vocabulary
from pipelines.base import manifest
from pipelines.night import publication_file
from pipelines.night.errors import GateError
from pipelines.night.night import Night
from pipelines.night.outputs import TrainOutputs
from pipelines.serving import publication
from transforms.core import files
from transforms.core.tensorflow_import import tf

FIRST = DATE - dt.timedelta(days=1)
LEARNS = """\
[examples]
window_days = 10
holdout_users = 1.0
[model]
dimension = 32
hidden = [64]
negatives = 100
[training]
epochs = 6
batch_size = 256
warm_start = false
[neighbours]
k = 20
"""


@pytest.fixture
def made(ranked_nights: Path, tmp_path: Path) -> Night:
    """A night for a test to spoil: complete but for its publication, and the night before it is served."""
    job = copy(ranked_nights, tmp_path)
    first, second = night(job, FIRST), night(job)
    assert gate_results(second).status == "passed"
    publication.serve(first)
    manifest.revoke(second.folder("publish"))
    return second


def stopped_by(of: Night, gate: str, message: str) -> None:
    """Publishing fails for this gate alone, and the night before is served as it was."""
    before = published_json(of.root)
    with pytest.raises(GateError, match=rf"gate {gate}: .*{message}.* the night of {FIRST} is served meanwhile$"):
        publish.run(of)
    assert [gate.name for gate in gate_results(of).in_state("failed")] == [gate]
    assert published_json(of.root) == before and before and before["date"] == FIRST.isoformat()


def test_the_night_as_it_was_is_published(made: Night) -> None:
    publish.run(made)
    assert published_json(made.root)["date"] == DATE.isoformat()


def test_a_stale_index_is_stopped(made: Night) -> None:
    """The index of the night before, and lists as they came from it."""
    shutil.rmtree(made.folder("index"))
    shutil.copytree(night(_job(made), FIRST).folder("index"), made.folder("index"))
    stopped_by(made, "same night", "stage index was done with another model than the night's")


def test_yesterday_s_tower_with_today_s_vectors_is_stopped(made: Night) -> None:
    first = night(_job(made), FIRST)
    today, yesterday = (f"{of.folder('train')}/{of.outputs(TrainOutputs).tower}" for of in (made, first))
    shutil.rmtree(today)
    shutil.copytree(yesterday, today)
    stopped_by(made, "same night", rf"/model/tower-\w+/.* is not the file that the training of {DATE} wrote")


def test_the_same_list_for_everyone_is_stopped(made: Night) -> None:
    folder, listed = made.folder("ranking"), made.require("ranking")
    rows = {entry.name: files.read_parquet(f"{folder}/{entry.name}") for entry in publication_file.own(listed)}
    same = next(lists["video_ids"][0] for lists in rows.values() if lists.height)
    for name, lists in rows.items():
        alike = pl.Series([same] * lists.height, dtype=pl.List(pl.String))
        lists.with_columns(video_ids=alike).write_parquet(f"{folder}/{name}")
    entries = [
        replace(files.file_entry(folder, entry.name), rows=entry.rows) if entry.name in rows else entry
        for entry in listed.files
    ]
    manifest.commit(folder, replace(listed, files=entries))
    stopped_by(made, "sameness", r"two users' lists is 1\.000")


@pytest.mark.slow
@pytest.mark.usefixtures("without_plots")
def test_a_model_of_shuffled_labels_is_stopped(tmp_path: Path) -> None:
    """A night whose labels are shuffled, after one that learned something: popular videos stay popular, and histories
    do not predict labels. Some hundred held-out users are needed for a statistically significant difference."""
    size = ["--users", "1600", "--videos", "300", "--days", "11", "--last-day", str(FIRST)]
    assert simulate.main([str(tmp_path), *size]) == 0
    tables = "\n".join(f'{table} = "{table}/{{date}}.parquet"' for table in ("watches", "searches"))
    job = write_job(tmp_path, f'{tables}\nvideos = "videos.parquet"\nusers = "users.parquet"', LEARNS)
    done = nightly(job, "--date", str(FIRST))
    assert done.returncode == 0, done.stderr
    of = night(job)
    for stage in (ingest, vocabulary, examples):
        stage.run(of)
    deal_out_labels(of)
    done = nightly(job, "--from", "train")
    assert done.returncode == 3 and "gate recall: " in done.stderr, done.stderr
    failed = [gate.name for gate in gate_results(of).in_state("failed")]
    assert "recall" in failed and set(failed) <= {"recall", "most popular", "item to item", "stayed"}
    assert published_json(of.root)["date"] == str(FIRST)


@pytest.mark.slow
@pytest.mark.usefixtures("without_plots")
def test_a_harmful_ranker_is_stopped(tmp_path: Path) -> None:
    """Of the videos shown, the rarely completed ones are watched longest, so that the ranker puts them first. The lists
    to serve, in the order of expected seconds alone, then have fewer of the completed videos in front than the
    neighbours, and the night is not published."""
    size = ["--users", "300", "--videos", "60", "--days", "5", "--last-day", str(FIRST)]
    assert simulate.main([str(tmp_path), *size]) == 0
    watched = pl.concat(pl.read_parquet(path) for path in (tmp_path / "watches").iterdir())["video_id"].value_counts()
    rare = watched.filter(pl.col("count") < pl.col("count").median())["video_id"]
    for path in (tmp_path / "impressions").iterdir():
        shown = pl.read_parquet(path).with_columns(clicked=pl.col("video_id").is_in(rare.implode()))
        seconds = pl.when("clicked").then(900.0).otherwise(0.0)
        shown.with_columns(watch_seconds=seconds.cast(shown.schema["watch_seconds"])).write_parquet(path)
    tables = "\n".join(f'{table} = "{table}/{{date}}.parquet"' for table in ("watches", "searches", "impressions"))
    gates = "[gates]\nitem_to_item = false\nmost_popular = false\nranking = false\n"
    gates += "max_calibration_error = 0\nmax_decile_error = 0\n"  # the seconds of these clicks exceed the lengths
    ranker = "[ranking]\ncandidates = 30\norder_weight = 0\n"
    settings = f"[examples]\nwindow_days = 5\nholdout_users = 1.0\n{TINY}{ranker}{gates}"
    job = write_job(tmp_path, f'{tables}\nvideos = "videos.parquet"\nusers = "users.parquet"', settings)
    done = nightly(job)
    assert done.returncode == 3 and "gate ranking recall: recall@10 in the neighbours' order is " in done.stderr
    of = night(job)
    assert [gate.name for gate in gate_results(of).in_state("failed")] == ["ranking recall"]
    metrics = json.loads(Path(of.folder("evaluation"), "metrics.json").read_bytes())
    recalls = {system: measured["figures"]["recall@10"] for system, measured in metrics["systems"].items()}
    assert metrics["served_system"] == "ranking" and recalls["ranking"] < 0.9 * recalls["neighbours"]
    assert metrics["differences"]["neighbours"]["recall@10"]["high"] < 0
    assert not Path(of.root.published).exists()


def deal_out_labels(of: Night) -> None:
    """Every training example gets the label of another one, drawn at random."""
    folder, listed = of.folder("examples"), of.require("examples")
    records = {
        entry.name: [
            tf.train.Example.FromString(record.numpy())
            for record in tf.data.TFRecordDataset(f"{folder}/{entry.name}", "GZIP")
        ]
        for entry in listed.named("train/")
    }
    lists = [record.features.feature["label"].int64_list.value for found in records.values() for record in found]
    labels = [label for own in lists for label in own]
    random.Random(1).shuffle(labels)
    dealt = iter(labels)
    for own in lists:
        own[:] = [next(dealt) for _ in own]
    for name, found in records.items():
        with tf.io.TFRecordWriter(f"{folder}/{name}", "GZIP") as file:
            for record in found:
                file.write(record.SerializeToString())
    entries = [replace(files.file_entry(folder, entry.name), rows=entry.rows) for entry in listed.files]
    manifest.commit(folder, replace(listed, files=entries))


def _job(of: Night) -> Path:
    return Path(of.root.path).parent / "job.toml"
