"""Parquet files written frame by frame: all rows, the same bytes each time, on any file system."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow.parquet as pa_parquet
import pytest

from transforms.core import files
from transforms.core.parquet_writer import ParquetFrameWriter

FRAMES = [
    pl.DataFrame(
        {"user_id": [f"{n}a", f"{n}b"], "video_ids": [["x", "y"], []], "scores": [[0.5, -1.0], []]},
        schema={"user_id": pl.String, "video_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)},
    )
    for n in range(3)
]


def written(folder: Path, name: str) -> files.FileEntry:
    with ParquetFrameWriter(str(folder), name) as parts:
        for frame in FRAMES:
            parts.write(frame)
    return parts.entry()


@pytest.mark.parametrize("remote", [False, True])
def test_file_contains_the_rows_of_all_frames(remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if remote:  # a remote file is written to a local temporary file first
        monkeypatch.setattr(files, "is_local", lambda path: False)
    entry = written(tmp_path, "a/one.parquet")
    path = tmp_path / "a" / "one.parquet"
    whole = pl.read_parquet(path)
    assert whole.equals(pl.concat(FRAMES)) and whole.schema == FRAMES[0].schema
    assert (entry.name, entry.rows, entry.bytes) == ("a/one.parquet", 6, path.stat().st_size)
    assert entry.digest == written(tmp_path, "again.parquet").digest
    assert pa_parquet.read_metadata(path).num_row_groups == len(FRAMES)
    assert [one.name for one in (tmp_path / "a").iterdir()] == ["one.parquet"]


def test_error_in_the_block_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half"), ParquetFrameWriter(str(tmp_path), "one.parquet") as parts:
        parts.write(FRAMES[0])
        raise ValueError("half")


def test_ids_are_dictionary_encoded_and_scores_are_not(tmp_path: Path) -> None:
    written(tmp_path, "one.parquet")
    columns = pa_parquet.read_metadata(tmp_path / "one.parquet").row_group(0).to_dict()["columns"]
    assert {one["path_in_schema"].split(".")[0]: one["has_dictionary_page"] for one in columns} == {
        "user_id": True,
        "video_ids": True,
        "scores": False,
    }
