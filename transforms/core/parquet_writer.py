"""Parquet files written a frame at a time, on any Beam file system: what is in memory is one frame.

with ParquetParts(folder, "00000-of-00008-1a2b.parquet") as lists:
    for frame in frames:
        lists.write(frame)
lists.entry()
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from transforms.core import files
from transforms.core.files import FileEntry


class ParquetParts:
    """One file, a row group a frame; the same frames always give the same bytes. At least one frame is needed."""

    def __init__(self, folder: str, name: str) -> None:
        self._folder, self._name, self._rows = folder, name, 0
        self._writer: pa_parquet.ParquetWriter | None = None
        self._uploaded: FileEntry | None = None

    def __enter__(self) -> Self:
        path = files.join(self._folder, self._name)
        self._scratch = None if files.is_local(path) else tempfile.TemporaryDirectory()
        self._local = Path(path) if self._scratch is None else Path(self._scratch.name) / "parts.parquet"
        self._local.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, frame: pl.DataFrame) -> None:
        """Append a frame; all of them have the same schema."""
        table = frame.to_arrow()
        if self._writer is None:
            self._writer = pa_parquet.ParquetWriter(
                self._local, table.schema, compression="zstd", compression_level=1, use_dictionary=_repeating(table)
            )
        self._writer.write_table(table)
        self._rows += frame.height

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
            if self._scratch is not None and kind is None:
                self._uploaded = files.upload(self._local, self._folder, self._name)
        finally:
            if self._scratch is not None:
                self._scratch.cleanup()

    def entry(self) -> FileEntry:
        """The entry for the manifest, once the file is whole."""
        return replace(self._uploaded or files.entry_of(self._folder, self._name), rows=self._rows)


def _repeating(table: pa.Table) -> list[str]:
    """The columns, by Parquet's names, that a dictionary makes smaller: scores and vectors hardly repeat."""
    found = []
    for field in table.schema:
        nested = pa.types.is_large_list(field.type)
        if not pa.types.is_floating(field.type.value_type if nested else field.type):
            found.append(f"{field.name}.list.element" if nested else field.name)
    return found
