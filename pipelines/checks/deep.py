"""Doctor's check of every file that counts, with `--deep`: it exists, and its content is what was written."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.checks.findings import Asked, Finding, ok, problem

NAME = "files"


def files(asked: Asked) -> Iterator[Finding]:
    """A finding for each damaged or missing file that a stage's manifest or the newest snapshot of the store names."""
    damaged, looked = 0, 0
    for found in (*_stages(asked), *_store(asked)):
        if isinstance(found, Finding):
            damaged += 1
            yield found
        else:
            looked += found
    if not damaged:
        yield ok(NAME, f"{looked:,} files that count are what was written")


def _stages(asked: Asked) -> Iterator[Finding | int]:
    """Findings, and how many files were read, of every stage of every night."""
    from pipelines import kept, manifest, paths

    night = asked.night
    for date in kept.nights(night.root):
        for stage in paths.FOLDERS:
            folder = night.root.stage(date, stage)
            again = f"watchnext nightly {asked.job} --date {date}"
            try:
                found = manifest.load(folder)
            except manifest.ManifestError as error:
                yield problem(NAME, str(error), f"{again} makes the stage anew")
                continue
            if found is not None:
                for what in manifest.damage(folder, found, deep=True):
                    yield problem(NAME, what, f"{again} --from {stage} makes the stage's files anew")
                yield len(found.present)


def _store(asked: Asked) -> Iterator[Finding | int]:
    """Findings, and how many files were read, of the newest snapshot of the store."""
    from pipelines import store
    from pipelines.manifest import ManifestError

    night = asked.night
    try:
        newest = store.latest(night.root.snapshots)
    except ManifestError as error:
        yield problem(NAME, str(error), "restore it, or begin with an empty store: the raw files are read again")
        return
    if newest is None:
        return
    for file in newest.files:
        if what := store.damage(night.root.store, file):
            yield problem(NAME, what, f"watchnext nightly {asked.job} --reingest {file.day} reads its day again")
    yield len(newest.files)
