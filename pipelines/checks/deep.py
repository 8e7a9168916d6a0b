"""Doctor's check of all current files, with `--deep`: they exist and their digests are correct."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.base import manifest, paths, snapshot_store
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, ok, problem
from pipelines.night import publication_file
from pipelines.night.errors import StageError

NAME = "files"


def files(request: DoctorRequest) -> Iterator[Finding]:
    """Yield a finding for each damaged or missing file of a manifest, the newest snapshot, or `published.json`."""
    damaged, checked = 0, 0
    for found in (*_stages(request), *_published(request), *_store(request)):
        if isinstance(found, Finding):
            damaged += 1
            yield found
        else:
            checked += found
    if not damaged:
        yield ok(NAME, f"all {checked:,} files are undamaged")


def _stages(request: DoctorRequest) -> Iterator[Finding | int]:
    """Yield findings and numbers of checked files, for all stages of all nights."""
    night = request.night
    for date in paths.nights(night.root):
        for stage in paths.FOLDERS:
            folder = night.root.stage(date, stage)
            command = f"watchnext nightly {request.job} --date {date}"
            try:
                found = manifest.load(folder)
            except manifest.ManifestError as error:
                yield problem(NAME, str(error), f"{command} runs the stage again")
                continue
            if found is not None:
                for damage in manifest.find_damage(folder, found, deep=True):
                    yield problem(NAME, damage, f"{command} --from {stage} writes the stage's files again")
                yield len(found.present)


def _published(request: DoctorRequest) -> Iterator[Finding | int]:
    """Yield findings and the number of checked files, for served files that no manifest lists."""
    root = request.night.root
    try:
        lists = publication_file.served(root)
    except StageError as error:
        yield problem(
            NAME, str(error), f"watchnext nightly {request.job} restores it, or watchnext rollback {request.job}"
        )
        return
    if lists is None:
        return
    listed = {
        path
        for stage in paths.FOLDERS
        if (found := manifest.load_readable(folder := root.stage(lists.date, stage)))
        for path in manifest.entry_paths(found.present, folder)
    }
    own = [entry for entry in lists.entries if paths.join(root.path, entry.name) not in listed]
    for entry in own:
        if damage := manifest.difference(root.path, entry):
            command = f"watchnext nightly {request.job} --date {lists.date} --force neighbours"
            yield problem(NAME, damage, f"{command} computes the lists again and publishes them")
    yield len(own)


def _store(request: DoctorRequest) -> Iterator[Finding | int]:
    """Yield findings and the number of checked files, for the newest snapshot of the store."""
    night = request.night
    try:
        newest = snapshot_store.latest(night.root.snapshots)
    except manifest.ManifestError as error:
        yield problem(
            NAME, str(error), snapshot_store.REBUILD.replace("JOB.toml", f"{request.job} --date {night.date}")
        )
        return
    if newest is None:
        return
    command = f"watchnext nightly {request.job} --date {max(newest.date, f'{night.date}')}"
    for file in newest.files:
        if damage := manifest.difference(night.root.store, file.file):
            yield problem(NAME, damage, f"{command} --reingest {file.day} reads its day again")
    yield len(newest.files)
