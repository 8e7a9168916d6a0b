"""Project video vectors to their first two principal components, to show which videos are similar to the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_GROUPS = 7  # groups with a colour each
REST = "the rest"


@dataclass(frozen=True, kw_only=True)
class VideoMap:
    """The projection of videos to two dimensions, and their groups."""

    places: NDArray[np.float64]  # [videos, 2]
    groups: Sequence[str]  # of each video
    by: str  # the meaning of groups, such as "language"
    kept: float  # share of the variance in the two dimensions


def video_map(vectors: NDArray[Any], groups: Sequence[str], *, by: str) -> VideoMap | None:
    """Project vectors [videos, dimension] to two dimensions; None for fewer than three videos.

    groups: the group of each video; all except the `MAX_GROUPS` most frequent become `REST`. The signs of the axes are
    chosen so that the largest absolute value is positive, and equal vectors give equal maps.
    """
    if len(vectors) < 3 or vectors.shape[1] < 2:
        return None
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0, dtype=np.float64)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    places = left[:, :2] * lengths[:2]
    signs = np.sign(places[np.argmax(np.abs(places), axis=0), [0, 1]])
    variance = float((lengths**2).sum())
    kept = float((lengths[:2] ** 2).sum() / variance) if variance else 0.0
    frequent = sorted(Counter(groups).items(), key=lambda group: (-group[1], group[0]))[:MAX_GROUPS]
    named = {name for name, _count in frequent}
    return VideoMap(places=places * signs, groups=[g if g in named else REST for g in groups], by=by, kept=kept)
