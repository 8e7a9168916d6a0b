"""What a training leaves for the next night's to start from: every row by its name, and the optimisers' state.

    write_state(step, names, shape, "model/state-1a2b")
    state = SavedState.read("runs/nights/2026-11-20/model/state-1a2b")
    state.tables["videos"].rows  # float [1 + videos, dimension], read from disk as it is asked for

    state.json                             format version, the model's shape, the names of the dense variables
    TABLE.rows.npy, TABLE.accumulator.npy  float32 [1 + rows, dimension] and [1 + rows]; row 0 is nobody's
    VOCABULARY.names.parquet               name, count: of the rows from 1 on; several tables may share one
    dense.npz                              the tower's variables and Adam's moments, in the tower's order

Files of its own and not a checkpoint: those are named after the attributes of the program that wrote them, and are read
whole. Of these only the rows that are wanted are read, a few megabytes at a time, whatever the size of a table.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.errors import TrainingError
from trainer.examples import Names
from trainer.step import TrainingStep
from transforms.core.tensorflow_import import tf

FORMAT_VERSION = 1
ROWS_AT_ONCE = 65_536
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SavedTable:
    """A table as an earlier training left it."""

    rows: Floats  # [1 + rows, dimension]
    accumulators: Floats  # [1 + rows]
    names: pa.Array  # [named rows] string; rows behind the named ones are known by their place alone


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """An earlier training's state. The tables are mapped, not read."""

    shape: dict[str, Any]  # see `warm_start.shape_of`
    tables: dict[str, SavedTable]
    dense: dict[str, npt.NDArray[Any]]  # steps, adam_steps, and value_0, first_0, second_0, value_1, ...

    @classmethod
    def read(cls, folder: str) -> SavedState:
        """Raises TrainingError for a folder that is no training state of this format."""
        if not tf.io.gfile.exists(f"{folder}/state.json"):
            raise TrainingError(f"{folder}/state.json does not exist: there is no training state to start from")
        with _local(folder) as local:  # what is mapped stays readable after its file is gone
            about = json.loads((local / "state.json").read_text(encoding="utf-8"))
            if about["format_version"] != FORMAT_VERSION:
                raise TrainingError(
                    f"{folder} has format_version {about['format_version']}, but this is {FORMAT_VERSION}: train once "
                    "without it (warm_start = false in [training])"
                )
            with np.load(local / "dense.npz") as arrays:
                dense = dict(arrays)
            return cls(
                shape=about["shape"], tables={name: _table(local, name) for name in about["tables"]}, dense=dense
            )


def vocabulary_of(table: str) -> str:
    """Whose names a table's rows have: watches, output vectors and biases are all of videos."""
    return "videos" if table in ("watches", "biases") else table


def write_state(step: TrainingStep, names: Mapping[str, Names], shape: Mapping[str, Any], folder: str) -> None:
    """Write what a step has learned to a new folder: the dense variables, and each table whose vocabulary has names."""
    tf.io.gfile.makedirs(folder)
    tables = {name: table for name, table in step.adagrad.tables.items() if vocabulary_of(name) in names}
    for name, table in tables.items():
        _write_rows(f"{folder}/{name}.rows.npy", table.weights)
        _write_rows(f"{folder}/{name}.accumulator.npy", step.adagrad.accumulators[name])
    for vocabulary, found in names.items():
        content = io.BytesIO()
        pq.write_table(pa.table({"name": found.names, "count": found.counts}), content, compression="zstd")
        _write(f"{folder}/{vocabulary}.names.parquet", content.getvalue())
    arrays = io.BytesIO()
    np.savez(arrays, **{name: variable.numpy() for name, variable in dense_of(step).items()})
    _write(f"{folder}/dense.npz", arrays.getvalue())
    about = {"format_version": FORMAT_VERSION, "shape": shape, "tables": sorted(tables)}
    _write(f"{folder}/state.json", json.dumps(about, indent=1, ensure_ascii=False).encode())


def dense_of(step: TrainingStep) -> dict[str, tf.Variable]:
    """Every variable that a step changes as a whole, by the name it is kept under."""
    adam = step.adam
    found = {"steps": step.steps, "adam_steps": adam.steps}
    for kind, variables in (("value", adam.targets), ("first", adam.first), ("second", adam.second)):
        found |= {f"{kind}_{number}": variable for number, variable in enumerate(variables)}
    return found


def _write_rows(path: str, variable: tf.Variable) -> None:
    """A variable as an .npy file, a part at a time: a table may be as large as half the memory."""
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(variable.shape)}
    with tf.io.gfile.GFile(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, variable.shape[0], ROWS_AT_ONCE):
            file.write(variable[start : start + ROWS_AT_ONCE].numpy().astype("<f4").tobytes())


def _write(path: str, content: bytes) -> None:
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content)


def _table(folder: Path, name: str) -> SavedTable:
    names = pq.read_table(folder / f"{vocabulary_of(name)}.names.parquet")["name"]
    return SavedTable(
        rows=np.load(folder / f"{name}.rows.npy", mmap_mode="r"),
        accumulators=np.load(folder / f"{name}.accumulator.npy", mmap_mode="r"),
        names=names.combine_chunks().cast(pa.string()),
    )


@contextlib.contextmanager
def _local(folder: str) -> Iterator[Path]:
    """A folder as a local one: itself, or a copy of a remote one."""
    if Path(folder).is_dir():
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="watchnext-") as scratch:
        for name in tf.io.gfile.listdir(folder):
            tf.io.gfile.copy(f"{folder}/{name}", f"{scratch}/{name}")
        yield Path(scratch)
