"""However the work is cut up, the bytes are the same: 1 worker or 8, raw files in any order and of any size."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from nights import DATE, night, simulated, write_job

from pipelines import examples, ingest, vocabulary
from pipelines.base import manifest
from pipelines.night.night import Night

LOGS = 'watches = "watches"\nsearches = "searches"\nusers = "users.parquet"\nvideos = "videos.parquet"\n'
SETTINGS = (
    "[examples]\nwindow_days = 5\nholdout_users = 0.2\nper_user = 4\nwatch_vocabulary = 40\n[storage]\nbuckets = 8\n"
)
EIGHT_WORKERS = ("--direct_num_workers=8", "--direct_running_mode=multi_threading")
THREE_STAGES = ("ingest", "vocabulary", "examples")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five days of logs, a file a day, some rows twice."""
    folder = tmp_path_factory.mktemp("logs")
    simulated(folder)
    for table in ("watches", "searches"):
        first, second = sorted((folder / table).iterdir())[:2]
        twice = pl.concat([pl.read_parquet(second), pl.read_parquet(first)[::9], pl.read_parquet(second)[::7]])
        twice.write_parquet(second)
    return folder


def three_stages(folder: Path, *flags: str, more: str = "") -> Night:
    of = Night(night(write_job(folder, f"{LOGS}{more}", SETTINGS)).job, DATE, flags=flags)
    for stage in (ingest, vocabulary, examples):
        stage.run(of)
    return of


def digests(of: Night) -> dict[str, str]:
    """Digests of all files that the stages left, by day and bucket; not of TFT's graph, never twice the same."""
    found = {f"store/{file.table}/{file.day}/{file.bucket}": file.file.digest for file in of.ingested.snapshot.files}
    assert len(found) == len(of.ingested.snapshot.files), "a day and bucket has several files"
    for stage in THREE_STAGES:
        done = of.require(stage)
        named = {manifest.logical_name(entry.name, done.attempt): entry.digest for entry in done.files}
        found |= {f"{stage}/{name}": digest for name, digest in named.items() if "transform_fn" not in name}
    return found


@pytest.fixture(scope="module")
def undisturbed(logs: Path) -> dict[str, str]:
    """What one worker makes of the logs as they are."""
    found = digests(three_stages(logs))
    shutil.rmtree(logs / "runs")
    kinds = ["store/watches/", "store/searches/", "ingest/users/", "ingest/videos", "vocabulary/videos"]
    kinds += ["vocabulary/search_tokens", "examples/label_counts", "examples/spec"]
    kinds += [f"examples/{split}/" for split in ("train", "holdout", "serving")]
    assert all(any(name.startswith(kind) for name in found) for kind in kinds), sorted(found)
    return found


def shuffled(logs: Path, to: Path, seed: int) -> Path:
    """The same rows in another order, in seven files a table instead of five, under names in no order of theirs."""
    for table in ("watches", "searches"):
        rows = pl.concat([pl.read_parquet(path) for path in sorted((logs / table).iterdir())])
        rows = rows.sample(fraction=1.0, shuffle=True, seed=seed)
        (to / table).mkdir(parents=True)
        for part in range(7):
            rows[part::7].write_parquet(to / table / f"{(part * 5 + seed) % 7}.parquet")
    for table in ("users", "videos"):
        rows = pl.read_parquet(logs / f"{table}.parquet")
        rows.sample(fraction=1.0, shuffle=True, seed=seed).write_parquet(to / f"{table}.parquet")
    return to


def test_shuffled_files_give_the_same_bytes(logs: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    assert digests(three_stages(shuffled(logs, tmp_path / "other", seed=3))) == undisturbed


@pytest.mark.slow
def test_many_workers(logs: Path, undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In threads: eight processes would each import TensorFlow. Beam 2.77 empties the buffers of workers in threads by
    a timer, even in the middle of an element; less than 0 switches the timer off."""
    monkeypatch.setattr(worker_handlers, "DATA_BUFFER_TIME_LIMIT_MS", -1)
    folder = shuffled(logs, tmp_path / "other", seed=4)
    assert digests(three_stages(folder, *EIGHT_WORKERS)) == undisturbed


@pytest.mark.slow
def test_another_row_gives_other_bytes(logs: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """The digests above see a single event: one watch more changes its day and its bucket, and the records there."""
    folder = shuffled(logs, tmp_path / "other", seed=5)
    path = next((folder / "watches").iterdir())
    rows = pl.read_parquet(path)
    pl.concat([rows, rows[:1].with_columns(pl.col("time").dt.offset_by("1s"))]).write_parquet(path)
    found = digests(three_stages(folder))
    changed = {name.split("/")[0] for name, digest in found.items() if undisturbed.get(name) != digest}
    assert {"store", "examples"} <= changed <= {"store", "vocabulary", "examples"}
