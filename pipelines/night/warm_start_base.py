"""Which night's model a night goes on from: the newest before it that was trained and not withdrawn.

Fixed when the stage first starts, in a small file beside its checkpoints and then in its manifest: a night that was
killed goes on from the same model, and one that is complete stays so whatever becomes of nights before it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from pipelines.base import manifest, paths
from pipelines.night import night_list
from pipelines.night.outputs import TrainOutputs, WarmStartBase
from pipelines.night.publication_file import withdrawn as withdrawn
from pipelines.night.stage import Night
from transforms.core import files

PENDING = "checkpoints/earlier.json"  # below the stage's folder: kept with the checkpoints, gone with them


@dataclass(frozen=True)
class EarlierModel:
    """A night's trained model."""

    date: str
    digest: str  # of the manifest of its training


def of_night(night: Night) -> EarlierModel | None:
    """The model this night goes on from, as fixed; as it would be fixed now, where it is not. None: from nothing."""
    if not night.job.training.warm_start:
        return None
    fixed = _fixed(night)
    if fixed is None:
        return newest(night)
    if fixed.date is None:
        return None
    found = manifest.load(_folder(night, fixed.date))
    return EarlierModel(fixed.date, found.digest if found else fixed.digest)


def fix(night: Night) -> None:
    """Write down which model the night goes on from, before its training begins. What was fixed stays, unless that
    model is gone or its night was withdrawn."""
    if not night.job.training.warm_start:
        return
    found = of_night(night)
    if found and (found.date in withdrawn(night.root) or manifest.load(_folder(night, found.date)) is None):
        found = newest(night)
    content = to_output(found).model_dump_json(exclude_unset=True)
    files.replace_file(paths.join(night.folder("train"), PENDING), content.encode())


def to_output(found: EarlierModel | None) -> WarmStartBase:
    """Return what the manifest of stage train holds of the model."""
    return WarmStartBase(date=found.date, digest=found.digest) if found else WarmStartBase(date=None)


def newest(night: Night) -> EarlierModel | None:
    """The newest night before this one with a model, but for those that were withdrawn."""
    out = withdrawn(night.root)
    for date in reversed(night_list.nights(night.root)):
        if date < night.date and date.isoformat() not in out:
            found = manifest.load(night.root.stage(date, "train"))
            if found is not None:
                return EarlierModel(date.isoformat(), found.digest)
    return None


def _fixed(night: Night) -> WarmStartBase | None:
    """What an attempt that did not end wrote down, else what the one that did."""
    pending = paths.join(night.folder("train"), PENDING)
    if files.exists(pending):
        return WarmStartBase.model_validate_json(files.read_bytes(pending))
    done = manifest.load_outputs(night.folder("train"), TrainOutputs)
    return done.warm_start if done else None


def _folder(night: Night, date: str) -> str:
    return night.root.stage(dt.date.fromisoformat(date), "train")
