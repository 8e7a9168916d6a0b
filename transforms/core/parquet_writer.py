"""Write a Parquet file frame by frame on any Beam file system, with only one frame in memory.

with ParquetFrameWriter(folder, "00000-of-00008-1a2b.parquet") as writer:
    for frame in frames:
        writer.write(frame)
writer.entry()
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


class ParquetFrameWriter:
    """Write at least one frame, each as a row group. The same frames always give the same bytes."""

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
        """Append a frame. All frames must have the same schema."""
        table = frame.to_arrow()
        if self._writer is None:
            self._writer = pa_parquet.ParquetWriter(
                self._local,
                table.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=_dictionary_columns(table),
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
        """Return the file's manifest entry. Call it after the `with` block."""
        return replace(self._uploaded or files.file_entry(self._folder, self._name), rows=self._rows)


def _dictionary_columns(table: pa.Table) -> list[str]:
    """Return the Parquet names of the columns to dictionary-encode: all but floats, whose values rarely repeat."""
    columns = []
    for field in table.schema:
        nested = pa.types.is_large_list(field.type)
        if not pa.types.is_floating(field.type.value_type if nested else field.type):
            columns.append(f"{field.name}.list.element" if nested else field.name)
    return columns
