"""The counts of days that a night takes over from an earlier one equal those that it would count."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from nights import DATE, night
from two_nights import copy

from pipelines import ranking
from pipelines.base import manifest
from pipelines.night import outcome_files
from pipelines.night.night import Night
from pipelines.night.outputs import RankingOutputs
from pipelines.night.ranking_chain import Chain
from transforms.core.files import FileEntry
from transforms.ranking.outcomes import day_of_file

FIRST, NEWEST = DATE - dt.timedelta(days=1), DATE - dt.timedelta(days=1)


def taken_over(of: Night, folder: Path) -> dict[dt.date, FileEntry]:
    return outcome_files.take_over(of, outcome_files.fingerprints(of), str(folder))


def test_a_night_counts_only_the_newest_day(ranked_nights: Path, tmp_path: Path) -> None:
    of = night(ranked_nights / "job.toml")
    wanted = outcome_files.fingerprints(of)
    assert NEWEST in wanted and len(wanted) > 2
    found = taken_over(of, tmp_path)
    assert set(found) == set(wanted) - {NEWEST}
    listed = {entry.name: entry for entry in of.require("ranking").named("outcomes/")}
    assert {entry.name: entry for entry in found.values()}.items() <= listed.items()
    assert [day_of_file(path) for path in outcome_files.paths_of(of)] == sorted(wanted) == list(wanted)
    assert {path.rsplit("/", 1)[-1] for path in outcome_files.paths_of(of)} == {name[9:] for name in listed}
    assert of.outputs(RankingOutputs).outcomes == {str(day): digest for day, digest in wanted.items()}


def test_days_taken_over_equal_days_counted_anew(
    ranked_nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = night(ranked_nights / "job.toml")
    monkeypatch.setattr(outcome_files, "take_over", lambda *_: {})
    anew = set(ranking.count_impressions(of, {}, Chain(), str(tmp_path), "aa").outcomes)
    assert anew == set(of.require("ranking").named("outcomes/"))


def test_days_with_other_events_or_settings_are_counted(ranked_nights: Path, tmp_path: Path) -> None:
    of = night(copy(ranked_nights, tmp_path))
    for changed in ({"completed_seconds": 7.0}, {"completed_fraction": 0.9}, {"time_zone": "Asia/Tokyo"}):
        other = replace(of, job=of.job.model_copy(update={"logs": of.job.logs.model_copy(update=changed)}))
        assert taken_over(other, tmp_path / "other") == {}, changed
    oldest = min(outcome_files.fingerprints(of))
    stored = next(f for f in of.ingested.snapshot.files if f.table == "watches" and f.day == str(oldest))
    stored_again = replace(stored, file=replace(stored.file, digest="another"))
    ingested = of.ingested
    ingested.__dict__["snapshot"] = ingested.snapshot.with_changes([stored.file.name], [stored_again])
    of.__dict__["ingested"] = ingested
    found = taken_over(of, tmp_path / "events")
    assert oldest not in found and len(found) == len(outcome_files.fingerprints(of)) - 2


def test_a_missing_or_damaged_file_is_not_taken_over(ranked_nights: Path, tmp_path: Path) -> None:
    of = night(copy(ranked_nights, tmp_path))
    first = Path(of.root.stage(FIRST, "ranking"))
    damaged, missing, *_ = sorted(first.glob("outcomes/*.parquet"))
    damaged.write_bytes(damaged.read_bytes() + b"x")
    missing.unlink()
    found = taken_over(of, tmp_path / "found")
    assert not {day_of_file(str(path)) for path in (damaged, missing)} & set(found)
    assert len(found) == len(outcome_files.fingerprints(of)) - 3


def test_without_an_earlier_night_all_days_are_counted(ranked_nights: Path, tmp_path: Path) -> None:
    of = night(copy(ranked_nights, tmp_path))
    shutil.rmtree(of.root.night(FIRST))
    assert taken_over(of, tmp_path / "none") == {}
    done = manifest.load(of.folder("ranking"))
    assert done is not None and done.named("outcomes/")
