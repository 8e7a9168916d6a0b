"""Select the earlier nights whose lists and vectors give stage ranking its features from candidate generation.

The features of an impression come from the newest of these nights that is not after the day of the impression. The
model of that night learned only from events before its date, so not from the outcome of the impression. The nights are
fixed in the stage's manifest: a complete night stays complete if these nights change later.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from pipelines.base import manifest, paths
from pipelines.base.manifest import Manifest
from pipelines.night import artifacts, publication_file
from pipelines.night.night import Night
from pipelines.night.outputs import RankingOutputs, TrainOutputs
from transforms.core.files import FileEntry
from transforms.ranking.generator_features import GeneratorNight

_VECTORS = "../user_vectors/"


def generators(night: Night) -> dict[str, str]:
    """Return date -> digest of the lists of each night, in order: the fixed nights, or `newest` if none are fixed."""
    done = manifest.load_outputs(night.folder(publication_file.RANKING), RankingOutputs)
    if done and done.ranked and done.ranked.generators is not None:
        fixed = done.ranked.generators
        return {date: found.digest if (found := _lists(night, date)) else digest for date, digest in fixed.items()}
    return newest(night)


def newest(night: Night) -> dict[str, str]:
    """Return the nights within the window and the newest night before it, as `generators` does."""
    withdrawn = publication_file.withdrawn(night.root)
    dates = [date for date in paths.nights(night.root) if date < night.date and date.isoformat() not in withdrawn]
    found = {
        date: lists for date in dates if (lists := _lists(night, date.isoformat())) and _match_model(night, date, lists)
    }
    before = [date for date in found if replace(night, date=date).dates.end <= night.dates.start]
    return {date.isoformat(): found[date].digest for date in found if date not in before[:-1]}


def _lists(night: Night, date: str) -> Manifest | None:
    found = manifest.load(night.root.stage(dt.date.fromisoformat(date), publication_file.NEIGHBOURS))
    return found if found and found.named(_VECTORS) else None


def _match_model(night: Night, date: dt.date, lists: Manifest) -> bool:
    """Return whether the lists of a night were computed with its current model."""
    model = manifest.load(night.root.stage(date, "train"))
    return model is not None and lists.inputs.get("train") == model.digest


def of_bucket(night: Night, date: str, bucket: int, buckets: int) -> GeneratorNight:
    """Return the files of a night for the users of one bucket, out of `buckets`.

    Bucket counts are powers of two: users of bucket b of one count are in the buckets of the other that are equal to b
    modulo the smaller count.
    """
    generator = replace(night, date=dt.date.fromisoformat(date))
    listed = generator.require(publication_file.NEIGHBOURS)
    own = publication_file.own(listed)
    smaller = min(len(own), buckets)

    def within(entries: list[FileEntry]) -> tuple[str, ...]:
        mine = [entry for entry in entries if paths.shard_index(entry.name) % smaller == bucket % smaller]
        return tuple(manifest.entry_paths(mine, generator.folder(publication_file.NEIGHBOURS)))

    return GeneratorNight(
        start=generator.dates.end,
        lists=within(own),
        vectors=within(listed.named(_VECTORS)),
        videos=paths.join(generator.folder("train"), artifacts.VIDEO_VECTORS),
        trends=generator.outputs(TrainOutputs).trends,
    )
