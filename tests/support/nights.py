"""Small jobs, logs and nights for the tests of the pipelines."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import run_here, stages_in_process

from pipelines import publish as publish_stage
from pipelines import simulate
from pipelines.base import manifest, paths, snapshot_store
from pipelines.config.jobs import load_job
from pipelines.night import night_results, publication_file
from pipelines.night.night import Night
from pipelines.night.night_results import GateResults
from pipelines.night.stage import STAGES
from transforms.core import files
from transforms.core.digests import bucket_of
from transforms.core.files import FileEntry

DATE = dt.date(2026, 11, 21)
REPOSITORY = Path(__file__).parents[2]
DATAFLOW = (  # options of a person who has a project there
    "--runner=DataflowRunner",
    "--project=my-project",
    "--region=europe-west1",
    "--temp_location=gs://my-bucket/temp",
    "--sdk_container_image=europe-docker.pkg.dev/my-project/watchnext/worker:1",
)

EVENTS = ("watches", "searches", "impressions")
BASELINES = ("most popular", "item to item")  # that gates compare lists with

# A model that trains in a second: the paper's settings, but small.
TINY = """\
[model]
preset = "paper"
dimension = 8
hidden = [16]
negatives = 32
[training]
epochs = 1
batch_size = 128
checkpoint_steps = 2
[neighbours]
k = 30
similar = 5
"""
# A model that trains in a second need not be as good as item-to-item lists.
GATES = "[gates]\nitem_to_item = false\n"
# For logs with impressions.
RANKING = f"[ranking]\ncandidates = 12\nepochs = 1\nhidden = [8]\n{GATES}ranking = false\nmax_ranking_loss = 1\n"
DEFAULTS = pl.DataFrame(
    {"country": [None, "SE"], "video_ids": [["v9", "v8"], ["v1"]], "scores": [[2.0, 1.0], [0.5]]},
    schema_overrides={"scores": pl.List(pl.Float32)},
)


def write_job(folder: Path, logs: str, more: str = "") -> Path:
    """A job file with these lines in `[logs]`; its ROOT is `runs` beside it."""
    job = folder / "job.toml"
    job.parent.mkdir(parents=True, exist_ok=True)
    job.write_text(f"[logs]\n{logs}\n{more}", encoding="utf-8")
    return job


def night(job: Path, date: dt.date = DATE) -> Night:
    """The night of a job file."""
    return Night(load_job(str(job)), date)


def simulated(folder: Path, more: str = "") -> Path:
    """Five days of logs of 120 users and 60 videos, and a job file with a tiny model for the night after them.

    more: further lines of the job file; if they have a table `[gates]`, it must begin with `GATES`."""
    last = (DATE - dt.timedelta(days=1)).isoformat()
    size = ["--users", "120", "--videos", "60", "--days", "5", "--last-day", last]
    assert simulate.main([str(folder), *size]) == 0
    logs = 'watches = "watches/{date}.parquet"\nsearches = "searches/{date}.parquet"\n'
    logs += 'videos = "videos.parquet"\nusers = "users.parquet"'
    gates = "" if GATES in more else GATES
    return write_job(folder, logs, f"[examples]\nwindow_days = 5\nholdout_users = 0.2\n{TINY}{gates}{more}")


def with_impressions(job: Path) -> Path:
    """The job file, its logs with those of what was shown beside it."""
    job.write_text(job.read_text().replace("[logs]\n", '[logs]\nimpressions = "impressions/{date}.parquet"\n', 1))
    return job


def watch_rows(count: int = 40, days: int = 4, users: int = 7, videos: int = 5) -> pl.DataFrame:
    """Watches of the days before DATE, no two alike, each user and video often."""
    first = dt.datetime.combine(DATE, dt.time(), dt.UTC) - dt.timedelta(days=days)
    at = pl.int_range(count, eager=True)
    end, step = first + dt.timedelta(days=days), f"{days * 86_400 // count}s"
    time = pl.datetime_range(first, end, step, closed="left", eager=True)
    return pl.DataFrame(
        {"user_id": (at % users).cast(pl.String) + "u", "video_id": (at % videos).cast(pl.String) + "v"}
    ).with_columns(time=time.head(count).dt.cast_time_unit("us"), watch_seconds=(at * 7 % 50).cast(pl.Float64))


def published_night(
    job: Path,
    rows: pl.DataFrame,
    *,
    titles: pl.DataFrame | None = None,
    vectors: pl.DataFrame | None = None,
    defaults: pl.DataFrame | None = None,
    similar: pl.DataFrame | None = None,
    date: dt.date = DATE,
    publish: bool = True,
    attempt: str = "aa",
) -> Night:
    """A night with these lists, vectors of the same users, and lists of similar videos, 8 buckets, as its stages would
    have left it; published, if wanted. Lists of another `attempt` have files of their own."""
    of = night(job, date)
    snapshot_store.commit(of.root.snapshots, snapshot_store.Snapshot(buckets=8, number=1))
    if titles is not None and "video_seconds" not in titles.columns:
        titles = titles.with_columns(video_seconds=pl.lit(None, pl.Float64))
    catalogue = [files.write_parquet(titles, of.folder("ingest"), "videos-aa.parquet")] if titles is not None else []
    commit(of, "ingest", catalogue, counts={"snapshot": 1}, attempt="aa")
    buckets = [bucket_of(user, 8) for user in rows["user_id"]]
    parts = {bucket: rows.filter(pl.Series(buckets) == bucket) for bucket in range(8)}
    names = [paths.shard(bucket, 8, attempt, "parquet") for bucket in range(8)]
    listed = [files.write_parquet(parts[n], of.folder("neighbours"), name) for n, name in enumerate(names)]
    given = vectors if vectors is not None else rows.clear()
    near = similar if similar is not None else rows.clear().rename({"user_id": "video_id"})
    parts_of = {
        "similar": [near, *[near.clear()] * 7],
        "user_vectors": [given.join(parts[n], "user_id", "semi") for n in parts],
    }
    beside = [
        files.write_parquet(part, of.folder("neighbours"), f"../{folder}/{name}")
        for folder, frames in parts_of.items()
        for name, part in zip(names, frames, strict=True)
    ]
    if defaults is not None:
        name = f"../defaults/00000-of-00001-{attempt}.parquet"
        beside.append(files.write_parquet(defaults, of.folder("neighbours"), name))
    commit(of, "neighbours", [*listed, *beside], counts={"users": rows.height}, attempt=attempt)
    commit(of, "evaluation", attempt="aa")
    if publish:
        publish_stage.run(of)
    return of


def gate_results(of: Night) -> GateResults:
    """Return the results of the gates of a night."""
    found = night_results.gates(of)
    assert found is not None
    return found


def completed_videos(job: Path, watches: pl.DataFrame) -> dict[str, set[str]]:
    """Return the videos that each user of raw watches completed, in plain Python, by the rule of the documentation."""
    seconds_of = dict(pl.read_parquet(job.parent / "videos.parquet").select("video_id", "video_seconds").iter_rows())
    found: dict[str, set[str]] = {}
    for row in watches.iter_rows(named=True):
        seconds = row.get("video_seconds") or seconds_of.get(row["video_id"])
        if row["watch_seconds"] >= (0.5 * seconds if seconds else 30):
            found.setdefault(str(row["user_id"]), set()).add(str(row["video_id"]))
    return found


def with_figures(of: Night, k: int, recalls: dict[int, float], ranked: dict[int, float] | None = None) -> Night:
    """The night, with figures of 90 held-out users: recall of its lists at some k, and of the baselines 0.1. ranked:
    recall of its lists as stage ranking orders them; the first 10 videos are compared."""

    def system(own: dict[int, float]) -> dict[str, Any]:
        shown = {f"recall@{cut}": value for cut, value in own.items()}
        near = {name: [value + n / 1_000 for n in range(-5, 6)] for name, value in shown.items()}
        intervals = {name: [value - 0.005, value + 0.005] for name, value in shown.items()}
        return {"figures": {"users": 90, **shown}, "intervals": intervals, "replicates": near}

    metrics: dict[str, Any] = {
        "format_version": 1,
        "k": k,
        "gate": f"recall@{k}",
        "holdout": {"start": "a", "end": "b", "users": 90},
        "systems": {"neighbours": system(recalls)} | {name: system(dict.fromkeys(recalls, 0.1)) for name in BASELINES},
        "beside": {system: {"value": 0.1, "low": 0.05, "high": 0.15} for system in BASELINES},
        "ann_loss": {"index": "exact"},
    }
    if ranked:
        metrics["systems"] = {"ranking": system(ranked)} | metrics["systems"]
        metrics |= {"served_system": "ranking", "ranking": {"cut": 10, "users": 90, "wanted_seconds": 0}}
    entry = files.write_bytes(of.folder("evaluation"), "metrics.json", 1, json.dumps(metrics).encode())
    counts = {"metrics": {"neighbours": {f"recall@{cut}": value for cut, value in recalls.items()}}}
    manifest.commit(of.folder("evaluation"), replace(of.require("evaluation"), files=[entry], counts=counts))
    return of


def commit(of: Night, stage: str, entries: Iterable[FileEntry] = (), **fields: Any) -> manifest.Manifest:
    """Commit a stage of a night with these files and further fields of its manifest. Return the manifest."""
    fields = {"date": of.date.isoformat(), "fingerprint": stage} | fields
    done = manifest.Manifest(stage=stage, files=sorted(entries, key=lambda entry: entry.name), **fields)
    manifest.commit(of.folder(stage), done)
    return done


def environment() -> dict[str, str]:
    """The environment of a command that a user starts: no bars, no lock of another run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WATCHNEXT_")}


def nightly(job: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `watchnext nightly` on DATE in this process, and its stages too: no process imports TensorFlow anew."""
    with stages_in_process():
        return run_here("nightly", job, "--date", DATE, *arguments)


@contextlib.contextmanager
def reports_without_plots() -> Iterator[None]:
    """Reports have no plots for as long as the block lasts; drawing them takes a third of the time of a small night."""
    from transforms.report import page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_plots", lambda _report: defaultdict(lambda: None))
        yield


def nightly_process(job: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m pipelines.nightly` on DATE, to its end: processes as users run them."""
    return run_python("-m", "pipelines.nightly", job, "--date", DATE, *arguments)


def run_python(*arguments: object, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a Python process in the environment of a user, to its end."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False, timeout=seconds
    )


@contextlib.contextmanager
def start_python(*arguments: object, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a Python process in the environment of a user, with pipes; kill it at the end of the block."""
    command, pipe = [sys.executable, *map(str, arguments)], subprocess.PIPE
    options: dict[str, Any] = {"cwd": REPOSITORY, "env": environment()}
    options |= dict.fromkeys(("stdin", "stdout", "stderr"), pipe) | more
    process: subprocess.Popen[str] = subprocess.Popen(command, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[str] | None = None, seconds: float = 60
) -> None:
    """Look again and again until the condition holds. Fails where the process ends before, or time runs out."""
    until = time.monotonic() + seconds
    while not condition():
        if process is not None:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)  # leaves the processor to the process that is waited for


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, even if its parent has not waited for it."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def children(pid: int) -> dict[int, str]:
    """Running child processes and their command lines."""
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid=,args="], capture_output=True, text=True, check=False)
    return {int(line.split(None, 1)[0]): line.split(None, 1)[1] for line in found.stdout.splitlines()}


def lists(of: Night, stage: str = publication_file.NEIGHBOURS) -> pl.DataFrame:
    """All users' lists of a night, as a stage left them, by user, with the bucket of the file each is in."""
    names = [entry.name for entry in publication_file.own(of.require(stage))]
    frames = [files.read_parquet(f"{of.folder(stage)}/{name}").with_columns(bucket=int(name[:5])) for name in names]
    return pl.concat(frames).sort("user_id")


def contents(of: Night, stage: str) -> dict[str, str]:
    """Digests of a stage's files by name, without the mark of the attempt; not what TensorFlow writes, never twice
    the same."""
    found = of.require(stage)
    named = {manifest.logical_name(entry.name, found.attempt): entry.digest for entry in found.files}
    return {name: digest for name, digest in named.items() if "tfrecord" not in name and "transform_fn" not in name}


def records(of: Night, folder: str | None = None) -> dict[str, list[bytes]]:
    """The records of a night's files of examples, by file; of copies in a local folder, where one is given. Their
    features are put in order, which is any in the file: it is that of a hash table."""
    from transforms.core.tensorflow_import import tf

    found, folder = of.require("examples"), folder or of.folder("examples")
    read = {}
    for entry in found.named(ending=".tfrecord.gz"):
        raw = tf.data.TFRecordDataset(f"{folder}/{entry.name}", compression_type="GZIP").as_numpy_iterator()
        examples = [tf.train.Example.FromString(record) for record in raw]
        name = manifest.logical_name(entry.name, found.attempt)
        read[name] = [example.SerializeToString(deterministic=True) for example in examples]
    return read


def published_json(root: paths.Root) -> dict[str, Any]:
    """Return the JSON content of `published.json`; an empty one if there is no such file."""
    path = Path(root.published)
    return dict(json.loads(path.read_text())) if path.exists() else {}


def commits(of: Night) -> dict[str, bytes]:
    """The manifests of the stages that are complete."""
    written = {stage: Path(of.folder(stage)) / manifest.NAME for stage in STAGES}
    return {stage: path.read_bytes() for stage, path in written.items() if path.exists()}


def rooted(job: Path, root: str) -> str:
    """The text of a job file with the same logs by their whole paths, and another ROOT."""
    text = job.read_text()
    for name in (*(f"{table}/{{date}}.parquet" for table in EVENTS), "videos.parquet", "users.parquet"):
        text = text.replace(f'"{name}"', f'"{job.parent}/{name}"')
    table = "[storage]\n"
    head, _, rest = text.partition(table)
    return f'{head}{table}root = "{root}"\n{rest}'
