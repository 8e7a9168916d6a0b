"""Logs and ROOT in object stores: an S3-compatible server and one of Google's protocol in this process, reached as any
other one is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from nights import (
    DATE,
    RANKING,
    contents,
    lists,
    night,
    nightly,
    records,
    rooted,
    simulated,
    start_python,
    wait_for,
    with_impressions,
)
from stores import newest

from pipelines import examples, ingest, vocabulary
from pipelines.base import lock, manifest, snapshot_store
from pipelines.config.beam_options import pipeline_options
from pipelines.config.jobs import OptionError
from pipelines.lookup import lookup
from pipelines.night import sink_protocol, store_cleanup
from pipelines.night.stage import STAGES
from transforms.core import conditional_files, files, object_stores
from transforms.core.parquet_writer import ParquetFrameWriter

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: pip install 'watchnext[aws]'")
moto_server = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'watchnext[dev]'")

emulator = pytest.importorskip("gcp_storage_emulator.server", reason="pip install 'watchnext[dev]'")

BUCKET = "s3://watchnext-tests"
GS_BUCKET = "gs://watchnext-tests"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The server's address. Keys and address are in the environment, where all processes of a night find them."""
    running = moto_server.ThreadedMotoServer("127.0.0.1", 0)
    running.start()
    address = "http://{}:{}".format(*running.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "of-nobody",
            "AWS_SECRET_ACCESS_KEY": "of-nobody",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        pipeline_options(None, [])
        yield address
    running.stop()


@pytest.fixture(scope="module")
def google() -> Iterator[None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = emulator.create_server("127.0.0.1", port, True, default_bucket=GS_BUCKET.removeprefix("gs://"))
    running.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        yield
    running.stop()


@pytest.fixture(params=["s3", pytest.param("gs", marks=pytest.mark.slow)])  # the emulator starts in 20 s
def folder(request: pytest.FixtureRequest) -> Iterator[str]:
    """A folder of this test alone, of both stores in turn."""
    request.getfixturevalue("server" if request.param == "s3" else "google")
    if request.param == "gs":
        pipeline_options(None, ["--no_auth"])
    yield f"{BUCKET if request.param == 's3' else GS_BUCKET}/{request.node.originalname}"
    pipeline_options(None, [])


def test_files_are_written_replaced_listed_and_removed(folder: str) -> None:
    assert not files.is_local(folder)
    assert files.list_files(folder) == []
    entry = files.write_parquet(pl.DataFrame({"n": [1, 2]}), folder, "a/one.parquet")
    assert files.file_entry(folder, "a/one.parquet").digest == entry.digest
    files.replace_file(f"{folder}/b/two", b"old")
    files.replace_file(f"{folder}/b/two", b"new")
    assert files.read_bytes(f"{folder}/b/two") == b"new"
    assert files.list_files(folder) == [f"{folder}/a/one.parquet", f"{folder}/b/two"]
    assert files.list_folders(folder) == ["a", "b"]
    assert [found.name for found in files.list_entries(folder, "b")] == ["b/two"]
    assert files.read_parquets([f"{folder}/a/one.parquet"] * 2, ["n"])["n"].to_list() == [1, 2, 1, 2]
    files.remove_files([f"{folder}/b/two", f"{folder}/b/never"])
    assert (files.exists(f"{folder}/b/two"), files.exists(f"{folder}/a/one.parquet")) == (False, True)


def test_local_copies_of_files_and_folders(folder: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"2")
    entries = files.upload_all(tmp_path, f"{folder}/model")
    assert [(entry.name, entry.bytes) for entry in entries] == [("below/one", 1), ("two", 1)]
    copy = Path(files.local_copy(f"{folder}/model"))
    assert (copy.name, (copy / "below/one").read_bytes(), (copy / "two").read_bytes()) == ("model", b"1", b"2")
    with files.temporary_local_copy(f"{folder}/model/two") as local:
        assert (Path(local).name, Path(local).read_bytes()) == ("two", b"2")
    assert not Path(local).exists()


def test_one_run_at_a_time(folder: str) -> None:
    path = f"{folder}/LOCK"
    with lock.hold(path):
        assert files.exists(path)
        token = os.environ.pop(lock.TOKEN_VARIABLE)  # as another run sees it
        with pytest.raises(lock.LockError, match=f"process {os.getpid()} on"), lock.hold(path):
            pass
        os.environ[lock.TOKEN_VARIABLE] = token
    assert not files.exists(path)


@pytest.mark.parametrize(("host", "silent"), [("this", 0.0), ("another", 1e6)])
def test_the_lock_of_a_dead_run_is_taken_over(folder: str, host: str, silent: float) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    name = socket.gethostname() if host == "this" else host
    found = {"host": name, "pid": gone.pid, "token": "gone", "beat": time.time() - silent}
    files.replace_file(f"{folder}/LOCK", json.dumps(found).encode())
    with lock.hold(f"{folder}/LOCK"):
        assert lock.describe_holder(f"{folder}/LOCK") is not None


@pytest.fixture
def calls(server: str) -> Iterator[list[str]]:
    """The operations that are asked of S3."""
    found: list[str] = []
    client = object_stores.s3_client(BUCKET)

    def record(model: Any, **_rest: Any) -> None:
        found.append(model.name)

    client.meta.events.register("before-call.s3", record)
    yield found
    client.meta.events.unregister("before-call.s3", record)


def test_folders_are_listed_without_what_is_in_them(calls: list[str]) -> None:
    folder = f"{BUCKET}/nights[1]"
    for date in ("2026-11-20", "2026-11-21"):
        for n in range(5):
            files.replace_file(f"{folder}/{date}/below/{n}", b"x")
    files.replace_file(f"{folder}/file", b"x")
    calls.clear()
    assert files.list_folders(folder) == files.list_folders(f"{folder}/") == ["2026-11-20", "2026-11-21"]
    assert files.list_folders(f"{folder}/none") == [] and calls == ["ListObjectsV2"] * 3


def test_what_is_uploaded_is_not_read_back(calls: list[str], tmp_path: Path) -> None:
    folder, frame = f"{BUCKET}/uploads", pl.DataFrame({"n": range(1000)})
    (tmp_path / "one").write_bytes(b"1" * 3_000_000)
    with ParquetFrameWriter(folder, "parts.parquet") as parts:
        parts.write(frame)
    entries = [parts.entry(), files.write_parquet(frame, folder, "two"), files.upload(tmp_path / "one", folder, "one")]
    assert {name for name in calls if name in ("GetObject", "HeadObject")} == set(), calls
    found = [files.file_entry(folder, entry.name) for entry in entries]
    assert [(one.bytes, one.digest) for one in found] == [(one.bytes, one.digest) for one in entries]
    assert [entry.rows for entry in entries] == [1000, 1000, 0]


def test_a_write_counts_only_while_the_file_is_as_it_was_read(server: str) -> None:
    path = f"{BUCKET}/conditional/LOCK"
    assert conditional_files.read(path) is None
    assert conditional_files.write(path, b"mine", None)
    assert not conditional_files.write(path, b"theirs", None), "it exists by now"
    found = conditional_files.read(path)
    assert found is not None and found.content == b"mine"
    assert conditional_files.write(path, b"renewed", found.version)
    assert not conditional_files.write(path, b"late", found.version), "it was read before it was renewed"
    assert files.read_bytes(path) == b"renewed"
    assert conditional_files.write(path, b"renewed", found.version), "an answer that was lost: the content is there"
    files.remove_files([path])
    assert not conditional_files.write(path, b"late", found.version) and not files.exists(path)


def test_of_two_runs_that_find_no_lock_in_a_bucket_one_takes_it(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{BUCKET}/race/LOCK"
    with lock.hold(path):
        monkeypatch.delenv(lock.TOKEN_VARIABLE)
        monkeypatch.setattr(conditional_files, "read", lambda _path: None)  # as the other saw it a moment ago
        before = files.read_bytes(path)
        with pytest.raises(lock.LockError, match="at the same moment"), lock.hold(path):
            pass
        monkeypatch.undo()
        assert files.read_bytes(path) == before


def test_the_address_may_be_a_beam_option(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"{BUCKET}/address"
    files.replace_file(f"{folder}/here", b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    pipeline_options(None, [f"--s3_endpoint_url={server}"])
    assert files.read_bytes(f"{folder}/here") == b"x"
    with pytest.raises(OptionError, match="did you mean s3_endpoint_url"):
        pipeline_options(None, [f"--s3_endpoint={server}"])
    monkeypatch.undo()
    pipeline_options(None, [])


def remote_job(local: Path, base: str) -> Path:
    """A job with the logs of a local one, and its ROOT, in the store."""
    for path in sorted(local.parent.rglob("*.parquet")):
        files.upload(path, base, path.relative_to(local.parent).as_posix())
    job = local.parent / "remote.toml"
    job.write_text(rooted(local, f"{base}/runs").replace(f'"{local.parent}/', f'"{base}/'))
    return job


@pytest.mark.slow
def test_the_first_stages_in_a_bucket_are_those_of_local_disks(server: str, tmp_path: Path) -> None:
    local = simulated(tmp_path / "logs")
    there, here = night(remote_job(local, f"{BUCKET}/stages")), night(local)
    for of in (there, here):
        for stage in (ingest, vocabulary):
            stage.run(of)
    assert there.ingested.snapshot.digest == here.ingested.snapshot.digest
    assert contents(there, "vocabulary") == contents(here, "vocabulary")


def newest_checkpoint(folder: str) -> bool:
    return any(path.endswith("/checkpoint") for path in files.list_files(f"{folder}/checkpoints"))


@pytest.mark.slow
def test_a_night_whose_training_was_killed_is_that_of_local_disks(
    server: str, tmp_path: Path, without_plots: None
) -> None:
    local = with_impressions(simulated(tmp_path / "logs", f"{RANKING}[storage]\nkeep_examples = true\n"))
    job = remote_job(local, f"{BUCKET}/night")
    of = night(job)
    for stage in (ingest, vocabulary, examples):
        stage.run(of)
    with start_python("-m", "pipelines.nightly", job, "--date", DATE, start_new_session=True) as running:
        wait_for(lambda: newest_checkpoint(of.folder("train")), running, seconds=1200)
        os.killpg(running.pid, signal.SIGKILL)
    assert manifest.load(of.folder("train")) is None

    ended = nightly(job)
    assert ended.returncode == 0, ended.stderr
    assert "published: 2026-11-21" in ended.stderr
    assert "ran train, index, neighbours, ranking, evaluation, publish" in ended.stderr

    assert nightly(local).returncode == 0
    here = night(local)
    assert newest(of).digest == newest(here).digest
    for compared in ("vocabulary", "examples", "train", "neighbours", "ranking"):  # without curves: names have the time
        remote, here_too = ({n for n in contents(one, compared) if "tfevents" not in n} for one in (of, here))
        assert remote == here_too, compared
    assert contents(of, "vocabulary") == contents(here, "vocabulary")
    with files.temporary_local_copy(of.folder("examples")) as copy:
        assert records(of, copy) == records(here)
    assert lists(of).equals(lists(here)) and lists(of, "ranking").equals(lists(here, "ranking"))
    assert not lists(of, "ranking").equals(lists(of)) and sink_protocol.served_stage(of) == "ranking"
    assert of.require("ranking").counts["holdout"] == here.require("ranking").counts["holdout"] is not None
    user = lists(here)["user_id"][0]
    assert lookup(of.job, user, 5, watches=3, why=True) == lookup(here.job, user, 5, watches=3, why=True)
    assert not files.exists(of.root.lock)
    assert all(manifest.load(of.folder(stage)) for stage in STAGES)
    store_cleanup.sweep(of)
    assert snapshot_store.latest(of.root.snapshots) is not None
