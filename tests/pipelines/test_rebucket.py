"""A store written anew for another bucket count: the same events, and nights go on."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from commands import watchnext
from nights import DATE
from stores import PATHS, SHOWN, below, daily, day_of_watches, events, ingested, newest, write_day

from pipelines import ingest, rebucket
from pipelines.base import snapshot_store
from transforms.core import files
from transforms.core.digests import bucket_of

TOMORROW = DATE + dt.timedelta(days=1)


@pytest.mark.parametrize("buckets", [8, 32])
def test_the_store_is_that_of_a_new_one_with_as_many_buckets(tmp_path: Path, buckets: int) -> None:
    logs = f"{PATHS}\n{SHOWN}"
    job = daily(tmp_path, "[storage]\nbuckets = 16\n", logs=logs)
    of = ingested(job)
    before = newest(of)
    done = rebucket.run(of, buckets)
    assert (done.number, done.buckets) == (2, buckets) and newest(of) == done
    fresh = ingested(daily(tmp_path / "fresh", f"[storage]\nbuckets = {buckets}\n", logs=logs))
    assert done.rows("impressions") == 3 * done.rows("watches")
    assert newest(fresh).digest == done.digest and done.taken == before.taken and done.accounts == before.accounts
    assert rebucket.run(of, buckets) == done
    assert of.ingested.snapshot == before and ingest.plan(of).is_done(of), "the night stays as it was"


def test_nights_go_on_and_old_files_go_when_nothing_refers_to_them(tmp_path: Path) -> None:
    job = daily(tmp_path)
    of = ingested(job)
    old = below(of)
    rebucket.run(of, 16)
    write_day(tmp_path, DATE.isoformat(), day_of_watches(DATE.isoformat()))
    after = ingested(job, TOMORROW)
    assert newest(after).buckets == 16 and events(after).height == 90 and after.ingested.buckets()[15].bucket == 15
    for file in newest(after).files:
        users = files.read_parquet(f"{after.root.store}/{file.file.name}")["user_id"]
        assert {bucket_of(user, 16) for user in users} == {file.bucket}
    assert old <= below(of), "the first night refers to them"
    write_day(tmp_path, DATE.isoformat(), day_of_watches(DATE.isoformat(), mark="late"))
    (tmp_path / "runs" / "nights" / str(DATE) / "catalogue" / "COMPLETED").unlink()
    ingested(job, TOMORROW)
    assert not old & below(of)


def test_a_stop_before_the_snapshot_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = daily(tmp_path)
    of = ingested(job)
    before = newest(of)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshot_store, "commit", stop)
    with pytest.raises(KeyboardInterrupt):
        rebucket.run(of, 16)
    monkeypatch.undo()
    assert newest(of) == before
    assert rebucket.run(of, 16).number == 2


def test_the_command(tmp_path: Path) -> None:
    job = daily(tmp_path)
    before = watchnext("rebucket", job, "16", "--date", DATE)
    assert before.code == 1 and "there is no store in" in before.message
    ingested(job)
    wrong, done = (watchnext("rebucket", job, buckets, "--date", DATE) for buckets in (12, 16))
    assert wrong.code == 2 and "buckets must be a power of two from 8 to 4,096, but is 12" in wrong.message
    assert done.code == 0 and done.message.startswith("the store has 16 buckets, 96 events, ")
