"""What a night's ranker goes on from: which night, what is new, what may be learned again, reasons for a cold start.

Nights are manifests and a store without data: the digests of its files say what was ingested.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from nights import DATE, commit, night, write_job

from pipelines.base import manifest, snapshot_store
from pipelines.base.snapshot_store import Snapshot, StoreFile
from pipelines.night import ranking_chain, retention
from pipelines.night.night import Night
from pipelines.night.outputs import RankedLists, RankingOutputs
from pipelines.night.ranking_chain import Chain
from transforms.core import files
from transforms.core.files import FileEntry

JOB = "[examples]\nwindow_days = 4\nholdout_users = 0.5\n"


@pytest.fixture
def of(tmp_path: Path) -> Night:
    return night(write_job(tmp_path, 'watches = "w"\nimpressions = "i"', JOB))


def before(of: Night, past: int) -> Night:
    return Night(of.job, DATE - dt.timedelta(days=past))


def day(past: int) -> str:
    return (DATE - dt.timedelta(days=past)).isoformat()


def ingested(of: Night, versions: dict[int, str] | None = None) -> Night:
    """Commit the ingest of a night whose store has a file for each of the ten days before it. versions: contents of
    the days so many days before DATE, "a" of the others."""
    listed = []
    for past in range(1, 11):
        date, content = of.date - dt.timedelta(days=past), (versions or {}).get(past + (DATE - of.date).days, "a")
        entry = FileEntry(name=f"impressions/{date}/0-{content}", rows=1, bytes=1, digest=content)
        listed.append(StoreFile(table="impressions", day=date.isoformat(), bucket=0, file=entry))
    number = 1 + len(snapshot_store.list_snapshots(of.root.snapshots))
    path = snapshot_store.path_of(of.root.snapshots, number)
    snapshot = Snapshot(buckets=8, number=number, files=listed)
    files.replace_file(path, json.dumps(manifest.asdict(snapshot)).encode())
    commit(of, "ingest", outputs={"format_version": 1, "snapshot": number, "rows": {}, "tables": None, "rejects": {}})
    return Night(of.job, of.date)


def ranked(of: Night, *, days: Sequence[int], chain: Chain | None = None, keep: bool = True) -> None:
    """Commit the ranking of a night that wrote the impressions of the days so many days before DATE."""
    chain = ranking_chain.open_chain(of) if chain is None else chain
    written = {day(past): 10 for past in days}
    output = ranking_chain.to_output(
        of, chain, state="training/state-aa", written=written, covered={"videos": 0.8}, longest_seconds=9.0
    )
    lists = RankedLists(neighbours_attempt="aa", ranker="training/ranker-aa", generators={}, chain=output)
    names = ["0-aa.parquet", "examples/spec.json", "examples/train/0-aa", "examples/holdout/0-aa"]
    entries = [files.write_bytes(of.folder("ranking"), name, 1, of.date.isoformat().encode()) for name in names]
    settings = {
        "ranking": of.job.ranking.model_dump(mode="json"),
        "examples": of.job.examples.model_dump(mode="json", include={"search_history"}),
    }
    outputs = RankingOutputs(ranked=lists).model_dump(mode="json")
    commit(of, "ranking", entries if keep else entries[:1], outputs=outputs, attempt="aa", settings=settings)


def three_nights(of: Night) -> Night:
    """Return DATE's night after the ranking of the two nights before it: a cold one of four days, and a warm one."""
    ranked(ingested(before(of, 2)), days=range(3, 7))
    ranked(ingested(before(of, 1)), days=[2])
    return ingested(of)


def valid(chain: Chain) -> dict[str, list[str]]:
    return {date: sorted(records.days) for date, records in chain.records.items()}


def test_new_are_the_last_day_and_those_who_were_held_out_on_the_day_before(of: Night) -> None:
    chain = ranking_chain.open_chain(three_nights(of))
    assert chain.earlier == day(1) and chain.why == ""
    assert chain.written.days == {dt.date.fromisoformat(day(past)) for past in (2, 3, 4)}
    assert chain.written.holdout == before(of, 1).holdout
    assert valid(chain) == {day(2): [day(4), day(3)], day(1): [day(2)]}, "two of the four days are out of the window"
    assert chain.first_new(of) == before(of, 1).holdout.start == before(of, 2).dates.end
    assert chain.before is not None and chain.before.began == day(2)


def test_days_without_events_are_not_new(of: Night) -> None:
    """The logs begin within the window: only the days since then are read."""
    three_nights(of)
    path = snapshot_store.path_of(of.root.snapshots, 3)
    snapshot = snapshot_store.load(path)
    stored = [file for file in snapshot.files if file.day >= day(3)]
    files.replace_file(path, json.dumps(manifest.asdict(replace(snapshot, files=stored))).encode())
    chain = ranking_chain.open_chain(Night(of.job, of.date))
    assert chain.earlier == day(1) and [str(one) for one in chain.new_days] == [day(1)]
    assert chain.first_new(of) == before(of, 2).dates.end


def test_the_first_night_is_cold_without_a_reason(of: Night) -> None:
    chain = ranking_chain.open_chain(ingested(of))
    assert (chain.earlier, chain.why, chain.considered, valid(chain)) == (None, "", None, {})
    assert chain.first_new(of) == of.dates.start


def test_a_day_that_was_ingested_again_is_written_anew(of: Night) -> None:
    three_nights(of)
    chain = ranking_chain.open_chain(ingested(of, {3: "b"}))
    assert chain.earlier == day(1)
    assert valid(chain) == {day(2): [day(4)], day(1): [day(2)]}
    assert dt.date.fromisoformat(day(3)) not in chain.written.days
    assert chain.first_new(of) == before(of, 3).dates.end, "the start of the day"
    ranked(ingested(of, {3: "b"}), days=[1, 3], chain=chain)
    later = ranking_chain.open_chain(ingested(before(of, -1), {3: "b"}))
    assert valid(later) == {day(1): [day(2)], day(0): [day(3), day(1)]}


@pytest.mark.parametrize(
    ("settings", "versions", "message"),
    [
        ({"ranking": {"hidden": [8]}}, {}, "hidden is [8], but was [256] in the ranker of"),
        ({"ranking": {"powers": False}}, {}, "powers is False, but was True in the ranker of"),
        ({"ranking": {"positive_weights": "equal"}}, {}, "positive_weights is equal, but was exact in the ranker"),
        ({"examples": {"search_history": 7}}, {}, "search_history is 7, but was 50 in the ranker of"),
        ({"logs": {"time_zone": "Asia/Tokyo"}}, {}, "the time zone is Asia/Tokyo, but was UTC"),
        ({}, {2: "b", 3: "b", 4: "b"}, "the events of 3 of 4 days were ingested again, or users were forgotten"),
        ({"examples": {"holdout_days": 3, "holdout_users": 0.6}}, {}, "users are held out whose impressions"),
        ({"examples": {"holdout_days": 3, "seed": 5}}, {}, "users are held out whose impressions"),
    ],
)
def test_reasons_for_a_cold_start(
    of: Night, settings: dict[str, dict[str, object]], versions: dict[int, str], message: str
) -> None:
    three_nights(of)
    tables = {table: getattr(of.job, table).model_copy(update=changed) for table, changed in settings.items()}
    changed = replace(ingested(of, versions), job=of.job.model_copy(update=tables))
    chain = ranking_chain.open_chain(changed)
    assert chain.earlier is None and chain.why.startswith(f"cold start of the ranker: {message}")
    assert chain.considered is not None and valid(chain) == {} and chain.first_new(of) == of.dates.start


def test_a_night_without_its_records_or_a_withdrawn_one_is_passed_over(of: Night) -> None:
    now = three_nights(of)
    assert ranking_chain.open_chain(now).earlier == day(1)
    Path(of.root.withdrawn).write_text(json.dumps([day(1)]))
    assert ranking_chain.open_chain(now).earlier == day(2)
    ranked(before(of, 2), days=range(3, 7), chain=Chain(), keep=False)
    done = before(of, 2).require("ranking")
    manifest.commit(before(of, 2).folder("ranking"), replace(done, dropped="examples/"))
    assert ranking_chain.open_chain(now).earlier is None


def test_a_damaged_night_is_passed_over(of: Night) -> None:
    now = three_nights(of)
    Path(before(of, 1).folder("ranking"), manifest.NAME).write_text("{")
    assert ranking_chain.open_chain(now).earlier == day(2) and ranking_chain.needed_records(now) == {before(of, 2).date}


def test_changed_records_of_the_chain_are_not_learned_again(of: Night) -> None:
    now = three_nights(of)
    ranked(before(of, 2), days=[3], chain=Chain())
    chain = ranking_chain.open_chain(now)
    assert chain.earlier == day(1) and valid(chain) == {day(1): [day(2)]}


def test_a_complete_night_keeps_what_it_went_on_from(of: Night) -> None:
    now = three_nights(of)
    first = ranking_chain.earlier_ranker(now)
    assert first is not None and list(first.replayed) == [day(2), day(1)]
    ranked(now, days=[1])
    assert ranking_chain.earlier_ranker(now) == first, "its plan is the same after it is complete"
    manifest.revoke(before(of, 2).folder("ranking"))
    assert ranking_chain.earlier_ranker(now) == first, "by the digests that were pinned"
    ranked(before(of, 1), days=[2, 1], chain=Chain())
    changed = ranking_chain.earlier_ranker(now)
    assert changed is not None and changed.digest != first.digest and changed.date == first.date
    off = of.job.model_copy(update={"ranking": of.job.ranking.model_copy(update={"warm_start": False})})
    assert ranking_chain.earlier_ranker(replace(now, job=off)) is None


def left(of: Night) -> set[str]:
    folder = of.folder("ranking")
    return {
        path.removeprefix(f"{folder}/examples/").split("/")[0]
        for path in files.list_files(folder)
        if "examples" in path
    }


def test_records_stay_as_long_as_the_next_night_may_learn_them_again(of: Night) -> None:
    now = three_nights(of)
    ranked(now, days=[1])
    for past in (2, 1, 0):
        retention.apply(before(of, past), before(of, past).date)
    assert [left(before(of, past)) for past in (2, 1, 0)] == [{"train", "spec.json"}] * 3, "the holdout is gone"
    ranked(now, days=range(1, 5), chain=Chain())
    retention.apply(now, now.date)
    assert [left(before(of, past)) for past in (2, 1, 0)] == [set(), set(), {"train", "spec.json"}], "a new chain began"
    retention.apply(now, now.date)
    assert left(now) == {"train", "spec.json"}
    for past in (2, 1, 0):
        found = manifest.record(before(of, past).folder("ranking"))
        assert found is not None
        assert list(manifest.find_damage(before(of, past).folder("ranking"), found)) == []


def test_the_ranker_to_go_on_from_stays_beyond_the_kept_nights(tmp_path: Path) -> None:
    of = night(write_job(tmp_path, 'watches = "w"\nimpressions = "i"', f"{JOB}[storage]\nkeep_nights = 1\n"))
    ranked(ingested(before(of, 3)), days=range(4, 8))
    for past in (2, 1, 0):  # nights that never came to ranking
        ingested(before(of, past))
    retention.apply(of, DATE)
    assert left(before(of, 3)) == {"train", "spec.json", "holdout"}
    assert ranking_chain.newest(of) is not None
