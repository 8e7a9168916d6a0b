"""The state of a training, from which the next night's training starts: named rows, and the state of the optimizers.

    write_state(step, vocabularies, shape, "model/state-1a2b")
    state = SavedState.read("runs/nights/2026-11-20/model/state-1a2b")
    state.tables["videos"].rows  # float [1 + videos, dimension], memory-mapped

    state.json                             format version, the model's shape, the names of the dense variables
    TABLE.rows.npy, TABLE.accumulator.npy  float32 [1 + rows, dimension] and [1 + rows]; row 0 is zeros
    VOCABULARY.names.parquet               name, count: of rows from 1; several tables may share a file
    dense.npz                              the tower's variables and Adam's moments, in the tower's order

This is not a checkpoint, whose keys follow the attributes of the program that wrote it, and which is read as a whole.
From these files only the rows that are needed are read, a few megabytes at a time.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.errors import TrainingError
from trainer.examples import Vocabulary
from trainer.optimizer import Adam, RowwiseAdagrad
from transforms.core.tensorflow_import import tf

FORMAT_VERSION = 1
ROWS_AT_ONCE = 65_536
Floats = npt.NDArray[np.float32]


class Step(Protocol):
    """A training step: its optimizers, which hold the tables and all other variables, and its number."""

    @property
    def adagrad(self) -> RowwiseAdagrad: ...
    @property
    def adam(self) -> Adam: ...
    @property
    def steps(self) -> tf.Variable: ...


@dataclass(frozen=True, kw_only=True)
class SavedTable:
    """A table of an earlier training."""

    rows: Floats  # [1 + rows, dimension]
    accumulators: Floats  # [1 + rows]
    names: pa.Array  # [named rows] string; rows without names come after those with names


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """The state of an earlier training. The tables are memory-mapped."""

    shape: dict[str, Any]  # see `warm_start.model_shape`
    tables: dict[str, SavedTable]
    dense: dict[str, npt.NDArray[Any]]  # steps, adam_steps, and value_0, first_0, second_0, value_1, ...

    @classmethod
    def read(cls, folder: str) -> SavedState:
        """Read a folder. Raises TrainingError if it holds no training state of this format."""
        if not tf.io.gfile.exists(f"{folder}/state.json"):
            raise TrainingError(f"{folder}/state.json does not exist: there is no training state to start from")
        with _local_copy(folder) as local:  # a mapped file stays readable after it is deleted
            header = json.loads((local / "state.json").read_text(encoding="utf-8"))
            if header["format_version"] != FORMAT_VERSION:
                raise TrainingError(
                    f"{folder} has format_version {header['format_version']}, but this is {FORMAT_VERSION}: train once "
                    "without it (warm_start = false in [training])"
                )
            with np.load(local / "dense.npz") as arrays:
                dense = dict(arrays)
            return cls(
                shape=header["shape"], tables={name: _table(local, name) for name in header["tables"]}, dense=dense
            )


def read_shape(folder: str) -> dict[str, Any] | None:
    """Return the shape of the model in a folder; None if it holds no training state of this format."""
    path = f"{folder}/state.json"
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "rb") as file:
        header = json.loads(file.read())
    return dict(header["shape"]) if header["format_version"] == FORMAT_VERSION else None


def table_vocabulary(table: str) -> str:
    """Return the vocabulary of a table's rows: watches, output vectors and biases all have that of the videos."""
    return "videos" if table in ("watches", "biases") else table


def write_state(step: Step, vocabularies: Mapping[str, Vocabulary], shape: Mapping[str, object], folder: str) -> None:
    """Write to a new folder the dense variables of a step, and each table whose vocabulary has names."""
    tf.io.gfile.makedirs(folder)
    tables = {name: table for name, table in step.adagrad.tables.items() if table_vocabulary(name) in vocabularies}
    for name, table in tables.items():
        _write_rows(f"{folder}/{name}.rows.npy", table.weights)
        _write_rows(f"{folder}/{name}.accumulator.npy", step.adagrad.accumulators[name])
    for name, vocabulary in vocabularies.items():
        content = io.BytesIO()
        pq.write_table(pa.table({"name": vocabulary.names, "count": vocabulary.counts}), content, compression="zstd")
        _write(f"{folder}/{name}.names.parquet", content.getvalue())
    arrays = io.BytesIO()
    np.savez(arrays, **{name: variable.numpy() for name, variable in dense_variables(step).items()})
    _write(f"{folder}/dense.npz", arrays.getvalue())
    header = {"format_version": FORMAT_VERSION, "shape": shape, "tables": sorted(tables)}
    _write(f"{folder}/state.json", json.dumps(header, indent=1, ensure_ascii=False).encode())


def dense_variables(step: Step) -> dict[str, tf.Variable]:
    """Return every variable that a step updates as a whole, by its name in `dense.npz`."""
    adam = step.adam
    variables_by_name = {"steps": step.steps, "adam_steps": adam.steps}
    for kind, variables in (("value", adam.targets), ("first", adam.first), ("second", adam.second)):
        variables_by_name |= {f"{kind}_{number}": variable for number, variable in enumerate(variables)}
    return variables_by_name


def _write_rows(path: str, variable: tf.Variable) -> None:
    """Write a variable as an .npy file, block by block: a table may take half of the memory."""
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(variable.shape)}
    with tf.io.gfile.GFile(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, variable.shape[0], ROWS_AT_ONCE):
            file.write(variable[start : start + ROWS_AT_ONCE].numpy().astype("<f4").tobytes())


def _write(path: str, content: bytes) -> None:
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content)


def _table(folder: Path, name: str) -> SavedTable:
    names = pq.read_table(folder / f"{table_vocabulary(name)}.names.parquet")["name"]
    return SavedTable(
        rows=np.load(folder / f"{name}.rows.npy", mmap_mode="r"),
        accumulators=np.load(folder / f"{name}.accumulator.npy", mmap_mode="r"),
        names=names.combine_chunks().cast(pa.string()),
    )


@contextlib.contextmanager
def _local_copy(folder: str) -> Iterator[Path]:
    """Yield a local path of a folder: the folder itself, or a copy of a remote one."""
    if Path(folder).is_dir():
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="watchnext-") as scratch:
        for name in tf.io.gfile.listdir(folder):
            tf.io.gfile.copy(f"{folder}/{name}", f"{scratch}/{name}")
        yield Path(scratch)
