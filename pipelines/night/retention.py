"""Remove files after a night is published: its training records, and most files of nights beyond `keep_nights`.

The ranker's training records of nights that the next night may learn again remain, see `ranking_chain`.

The manifests, the figures and the report of an older night remain, which is enough for the report's trend; the report
loses its section of some users, also beyond `keep_days`. Its manifests record that the files were dropped, so all its
stages run when the night is run again. The published night itself, the lists that are served or were served before, and
the models that later nights continue from always remain.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from pipelines.base import manifest, paths, published_lists
from pipelines.night import publication_file, ranking_chain, warm_start_base
from pipelines.night.night import Night
from transforms.core import files
from transforms.report.page import without_users

# stage -> name prefix of files that only this night reads, and of those that nights of its chain of rankers read too
TRAINING = {"examples": "train/", "ranking": "examples/"}
HELD_OUT = {"ranking": "examples/holdout/"}
# Older nights whose reports are read; those of even older ones were changed when they were among these.
REPORTS = 14
# What is removed from each stage of an older night: stage -> prefix of file names. Stage publish lists no files.
# Ingest is dropped last, so its mark means everything is gone.
_OLDER = {stage: "" for stage in reversed(paths.FOLDERS) if stage not in ("evaluation", "publish")}
_DROPPED = {"evaluation": "lists/", **_OLDER}


def apply(night: Night, published: dt.date | None) -> None:
    """Remove files that no later night needs. published: the date of the served night."""
    settings, root = night.job.storage, night.root
    done = {night.date, *_served(root, published)}
    if not settings.keep_examples:
        chain = ranking_chain.needed_records(night) if night.job.ranking.warm_start else set()
        for date in done:
            for stage, beginning in (TRAINING | (HELD_OUT if date in chain else {})).items():
                _drop(root, date, stage, beginning)
        for date in set(paths.nights(root)) - done - chain:  # of a chain that ended
            if _dropped(root, date) == HELD_OUT["ranking"]:
                _drop(root, date, "ranking", TRAINING["ranking"])
    stay, nights = {*done, *_warm_start_bases(night)}, paths.nights(root)
    older = nights[: -settings.keep_nights] if settings.keep_nights else []
    first = night.date - dt.timedelta(days=settings.keep_days) if settings.keep_days else dt.date.min
    for date in [date for date in nights if date in older or date <= first][-REPORTS:]:
        files.rewrite_text(root.report(date), without_users)
    for date in older:
        ingest = manifest.record(root.stage(date, "ingest"))
        if date not in stay and (ingest is None or ingest.dropped is None):
            files.remove_files(published_lists.paths_of_night(root, date))  # first: what they name is kept otherwise
            files.remove_files(files.list_files(root.rejects(date)))
            for stage, beginning in _DROPPED.items():
                _drop(root, date, stage, beginning)


def _served(root: paths.Root, published: dt.date | None) -> set[dt.date]:
    """Return the published night, the night that was served before it, and the default target of a rollback."""
    if published is None:
        return set()
    entry = publication_file.read_if_valid(root)
    before = [dt.date.fromisoformat(entry.before.date)] if entry and entry.before else []
    back = publication_file.newest_publication(root, published)
    return {published, *before, *([back] if back else [])}


def _warm_start_bases(night: Night) -> set[dt.date]:
    """Return the nights whose models later nights continue from: the next night, and those in training."""
    nights = [replace(night, date=date) for date in paths.nights(night.root)]
    in_training = [one for one in nights if files.exists(paths.join(one.folder("train"), warm_start_base.PENDING))]
    next_night = replace(night, date=max(*(one.date for one in nights), night.date) + dt.timedelta(days=1))
    found = [warm_start_base.newest(next_night), *map(warm_start_base.of_night, in_training)]
    ranker = ranking_chain.newest(next_night) if night.job.ranking.warm_start else None
    return {dt.date.fromisoformat(of.date) for of in (*found, ranker) if of}


def _dropped(root: paths.Root, date: dt.date) -> str | None:
    """Return what was removed of a night's ranking: a prefix of file names; None: nothing, or it never completed."""
    found = manifest.record(root.stage(date, "ranking"))
    return found.dropped if found else None


def _drop(root: paths.Root, date: dt.date, stage: str, beginning: str) -> None:
    """Remove the files of a stage whose names have a prefix, after its manifest records it. If the stage never
    completed, remove all its files."""
    folder = root.stage(date, stage)
    found = manifest.record(folder)
    if found is None or (found.dropped is not None and beginning.startswith(found.dropped)):  # recorded before
        manifest.sweep(folder, found, paths.EXTRA_FOLDERS.get(stage, ()))
    else:
        manifest.commit(folder, replace(found, dropped=beginning))
