"""Video vectors in two dimensions, as a picture of what the model holds to be alike: their principal components."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_GROUPS = 7  # that are told apart by colour
REST = "the rest"


@dataclass(frozen=True, kw_only=True)
class VideoMap:
    """places: [videos, 2]; groups: of each video; by: what the groups are, such as "language"; kept: the share of the
    vectors' variance that two dimensions show."""

    places: NDArray[np.float64]
    groups: Sequence[str]
    by: str
    kept: float


def video_map(vectors: NDArray[Any], groups: Sequence[str], *, by: str) -> VideoMap | None:
    """vectors: [videos, dimension]; groups: of each video, all but the `MOST_GROUPS` most frequent become `REST`. The
    same vectors give the same picture: of each axis the largest value is positive. None of fewer than three videos."""
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
