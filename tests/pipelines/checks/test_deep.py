"""`watchnext doctor --deep`: files whose content is not what was written, and the command for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import watchnext
from damage import flip_bit
from nights import DATE
from stores import DAYS, daily, ingested, newest

from pipelines import doctor
from pipelines.base import manifest
from pipelines.base.published_lists import PublishedLists
from pipelines.checks import deep
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.night import publication_file
from pipelines.night.night import Night
from transforms.core import files


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return daily(tmp_path)


@pytest.fixture
def of(job: Path) -> Night:
    return ingested(job)


def test_all_files_are_read_and_found_whole(job: Path, of: Night) -> None:
    (found,) = deep.files(DoctorRequest(job=str(job), date=DATE))
    count = len(newest(of).files) + len(of.require("ingest").files)
    assert (found.state, found.what) == ("ok", f"all {count} files are undamaged")


def test_each_damaged_file_is_named_with_the_command_that_repairs_it(job: Path, of: Night) -> None:
    watches = [file for file in newest(of).files if file.table == "watches"]
    flipped, lost = (Path(of.root.store, next(f.file.name for f in watches if f.day == day)) for day in DAYS[:2])
    flip_bit(flipped)
    lost.unlink()
    users, other = manifest.entry_paths(of.require("ingest").named("users/"), of.folder("ingest"))[:2]
    flip_bit(Path(users))
    Path(other).write_bytes(b"")
    found = {finding.what: finding.fix for finding in deep.files(DoctorRequest(job=str(job), date=DATE))}
    again = f"watchnext nightly {job} --date {DATE}"
    night, nightly = f"{again} --from ingest", f"{again} --reingest"
    size = next(entry.bytes for entry in of.require("ingest").files if other.endswith(entry.name))
    again = f"{night} writes the stage's files again"
    assert found == {
        f"{users} is not the file that stage ingest wrote: its digest differs": again,
        f"{other} has 0 bytes, but stage ingest wrote {size:,}": f"{night} writes the stage's files again",
        f"{flipped} is not the file that was written: its digest differs": f"{nightly} {DAYS[0]} reads its day again",
        f"{lost} is missing": f"{nightly} {DAYS[1]} reads its day again",
    }


def test_a_manifest_that_cannot_be_read_is_one_of_them(job: Path, of: Night) -> None:
    Path(of.folder("ingest"), "COMPLETED").write_text('{"format')
    (found,) = (finding for finding in deep.files(DoctorRequest(job=str(job), date=DATE)) if finding.state == "problem")
    assert "COMPLETED cannot be read" in found.what and f"nightly {job} --date {DATE}" in found.fix


def test_without_an_ingest_there_is_nothing_to_read(job: Path) -> None:
    (found,) = deep.files(DoctorRequest(job=str(job), date=DATE))
    assert found.what == "all 0 files are undamaged"


def test_only_deep_reads_the_files(job: Path, of: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", doctor.CHECKS[2:4])
    assert "files are undamaged" not in watchnext("doctor", job, "--date", DATE).message
    flip_bit(Path(of.root.store, newest(of).files[0].file.name))
    done = watchnext("doctor", job, "--date", DATE, "--deep")
    assert done.code == 1 and "digest" in done.message


def test_a_damaged_file_that_is_only_served_is_named(job: Path, of: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = files.write_bytes(of.root.path, f"nights/{DATE}/neighbours/00000-of-00001-aa.parquet", 1, b"lists")
    served = PublishedLists(
        date=DATE, stage="neighbours", buckets=1, users=1, attempt="a", neighbours="d", lists=(entry,)
    )
    monkeypatch.setattr(publication_file, "served", lambda _root: served)
    (whole,) = deep.files(DoctorRequest(job=str(job), date=DATE))
    assert whole.state == "ok"
    path = Path(of.root.path, entry.name)
    path.write_bytes(b"lost?")
    (found,) = (finding for finding in deep.files(DoctorRequest(job=str(job), date=DATE)) if finding.state == "problem")
    assert found.what == f"{path} is not the file that was written: its digest differs"
    assert f"watchnext nightly {job} --date {DATE} --force neighbours" in found.fix
