"""Whole trainings of the trainer's tests: their vectors, and trainings that are killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest

import trainer.training


class Killed(BaseException):
    """Ends a training where a killed process would."""


@contextmanager
def killed_at(killed_step: int) -> Iterator[None]:
    """Kill the training within the block after a step. Fails if the training ends before."""

    def kill(_run: object, _loss: float, step: int) -> None:
        if step == killed_step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer.training._TrainingLoop, "_check", kill)
        yield


def read_vectors(path: object) -> np.ndarray:
    """Return the video vectors that a training wrote, [videos, dimension + 1]."""
    return np.array(pq.read_table(path)["vector"].to_pylist())
