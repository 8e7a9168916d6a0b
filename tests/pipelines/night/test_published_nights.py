"""Which night's lists were served before a night, and which of their files a bucket's users are in."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, commit, night, published_night

from pipelines import publish
from pipelines.base import manifest, paths, published_lists, snapshot_store
from pipelines.night.night import Night
from pipelines.night.published_nights import published_before, served_buckets
from transforms.core import files
from transforms.core.digests import bucket_of

pytestmark = pytest.mark.usefixtures("without_plots")

USERS = [f"u{n}" for n in range(60)]
LISTS = pl.DataFrame({"user_id": USERS, "video_ids": [["v"]] * 60, "scores": [[1.0]] * 60})


def days(n: int) -> dt.date:
    return DATE + dt.timedelta(days=n)


def tonight(job: Path, buckets: int = 8) -> Night:
    """A night whose ingest is done, with a file of watches of each bucket on the last day and one of another day."""
    of = night(job)
    found = []
    for day in (days(-1), days(-5)):
        for bucket in range(buckets):
            entry = files.FileEntry(name=f"watches/{day}/{bucket}", rows=1, bytes=1, digest="d")
            found.append(snapshot_store.StoreFile(table="watches", day=day.isoformat(), bucket=bucket, file=entry))
    snapshot_store.commit(of.root.snapshots, snapshot_store.Snapshot(buckets=buckets, number=9, files=found))
    commit(of, "ingest", counts={"snapshot": 9})
    return of


def test_it_is_the_newest_that_was_published(job: Path) -> None:
    assert published_before(night(job)) is None
    for n in (-4, -2):
        published_night(job, LISTS, date=days(n))
    published_night(job, LISTS, date=days(-1), publish=False)
    published_night(job, LISTS, date=days(0))
    found = published_before(night(job))
    assert found is not None
    assert found.about() == {
        "date": days(-2).isoformat(),
        "start": f"{days(-1)}T00:00:00+00:00",
        "end": f"{DATE}T00:00:00+00:00",
    }


def test_one_that_was_withdrawn_is_not_measured_unless_it_was_before(job: Path) -> None:
    published_night(job, LISTS, date=days(-2))
    of = published_night(job, LISTS, date=days(-1))
    before = published_before(night(job))
    Path(of.root.withdrawn).write_text(json.dumps([days(-1).isoformat()]))
    now = published_before(night(job))
    assert before is not None and before.date == days(-1) and now is not None and now.date == days(-2)
    commit(night(job), "evaluation", inputs={"published_before": before.fingerprint})
    assert published_before(night(job)) == before, "it was withdrawn after the day"


def test_a_night_that_ran_again_after_it_was_served_was_served_all_the_same(job: Path) -> None:
    of = published_night(job, LISTS, date=days(-1))
    published_night(job, LISTS, date=days(0))
    publish.run(published_night(job, LISTS[:30], date=days(-1), publish=False))
    assert not of.require("publish").figures["published"]
    found = published_before(night(job))
    assert found is not None and found.date == days(-1)


def test_one_that_a_later_night_kept_from_being_served_does_not_count(job: Path) -> None:
    published_night(job, LISTS, date=days(3))
    published_night(job, LISTS, date=days(-1))
    assert published_before(night(job)) is None


def test_another_publication_is_another(job: Path) -> None:
    of = published_night(job, LISTS, date=days(-1))
    before = published_before(night(job))
    done = of.require("publish")
    manifest.commit(of.folder("publish"), replace(done, fingerprint="of other lists"))
    after = published_before(night(job))
    assert before is not None and after is not None and before.fingerprint != after.fingerprint


@pytest.mark.parametrize("buckets", [8, 16])
def test_users_are_in_the_files_given_for_their_bucket(job: Path, buckets: int) -> None:
    published_night(job, LISTS, date=days(-1))
    of = tonight(job, buckets)
    before = published_before(of)
    assert before is not None
    served = served_buckets(of, before)
    assert [one.files.bucket for one in served] == list(range(buckets))
    for user in USERS:
        one = served[bucket_of(user, buckets)]
        assert user in {name for path in one.lists for name in pl.read_parquet(path)["user_id"]}
    assert all(len(one.lists) == 1 for one in served)
    day = [paths.join(of.root.store, f"watches/{days(-1)}/{bucket}") for bucket in range(buckets)]
    assert [one.files.watches for one in served] == [(path,) for path in day]  # not those of other days


def test_fewer_buckets_than_before_have_several_files(job: Path) -> None:
    of = published_night(job, LISTS, date=days(-1))
    halves, half = of.require("neighbours"), [pl.DataFrame(schema=LISTS.schema)] * 16
    for user in LISTS.iter_slices(1):
        half[bucket_of(user["user_id"][0], 16)] = pl.concat([half[bucket_of(user["user_id"][0], 16)], user])
    names = [paths.shard(bucket, 16, "bb", "parquet") for bucket in range(16)]
    entries = [files.write_parquet(rows, of.folder("neighbours"), name) for name, rows in zip(names, half, strict=True)]
    manifest.commit(of.folder("neighbours"), replace(halves, files=entries, attempt="bb"))
    snapshot_store.commit(of.root.snapshots, snapshot_store.Snapshot(buckets=16, number=1))
    publish.run(night(job, days(-1)))
    now = tonight(job)
    before = published_before(now)
    assert before is not None
    for one in served_buckets(now, before):
        found = {name for path in one.lists for name in pl.read_parquet(path)["user_id"]}
        assert found == {user for user in USERS if bucket_of(user, 8) == one.files.bucket}


def test_lists_that_were_dropped_are_not_measured(job: Path) -> None:
    of = published_night(job, LISTS, date=days(-1))
    files.remove_files(published_lists.paths_of_night(of.root, of.date))
    before = published_before(night(job))
    assert before is not None and served_buckets(tonight(job), before) == []
