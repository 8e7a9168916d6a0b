"""Select the model that a night's training continues from: that of the newest earlier night that was not withdrawn.

The choice is fixed when the stage first starts, in a small file next to its checkpoints and later in its manifest. An
interrupted training resumes from the same model, and a complete night stays complete if earlier nights change.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from pipelines.base import manifest, paths
from pipelines.night.night import Night
from pipelines.night.outputs import TrainOutputs, WarmStartBase
from pipelines.night.publication_file import withdrawn
from transforms.core import files

PENDING = "checkpoints/earlier.json"  # below the stage's folder: kept with the checkpoints, gone with them


@dataclass(frozen=True)
class EarlierModel:
    """A night's trained model."""

    date: str
    digest: str  # of the manifest of its training


def of_night(night: Night) -> EarlierModel | None:
    """Return the model that this night's training continues from: the fixed one, or `newest`. None: from scratch."""
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
    """Fix the model that the night's training continues from, before it begins. A fixed choice stays, unless that
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
    """Return the newest earlier night with a model that was not withdrawn; None if there is none."""
    withdrawn_dates = withdrawn(night.root)
    for date in reversed(paths.nights(night.root)):
        if date < night.date and date.isoformat() not in withdrawn_dates:
            found = manifest.load(night.root.stage(date, "train"))
            if found is not None:
                return EarlierModel(date.isoformat(), found.digest)
    return None


def _fixed(night: Night) -> WarmStartBase | None:
    """Return the base that an unfinished training fixed, or that of the completed one."""
    pending = paths.join(night.folder("train"), PENDING)
    if files.exists(pending):
        return WarmStartBase.model_validate_json(files.read_bytes(pending))
    done = manifest.load_outputs(night.folder("train"), TrainOutputs)
    return done.warm_start if done else None


def _folder(night: Night, date: str) -> str:
    return night.root.stage(dt.date.fromisoformat(date), "train")
