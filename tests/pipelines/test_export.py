"""`watchnext export`: the same rows in every format, in a file that is whole or absent."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import run_here
from nights import DATE, night, published_night, write_job

from pipelines import export
from transforms.core import files

LISTS = pl.DataFrame(
    {
        "user_id": ["ann", 'b"o\\b', "cleo"],
        "video_ids": [["v1", 'v"2\\'], ["v,2"], []],
        "scores": [[2.5, -0.1], [0.25], []],
    },
    schema_overrides={"video_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)},
)
VECTORS = pl.DataFrame(
    {"user_id": ["ann", "cleo"], "vector": [[0.5, 1.0], [-1.5, 1.0]]},
    schema_overrides={"vector": pl.List(pl.Float32)},
)
TITLES = pl.DataFrame({"video_id": ["v1", "v2"], "title": ["One, two", "Zwei"], "video_seconds": [60.0, None]})
EXPECTED = {row["user_id"]: row for row in LISTS.to_dicts()}
LONG = [("ann", 1, "v1", 2.5), ("ann", 2, 'v"2\\', pytest.approx(-0.1)), ('b"o\\b', 1, "v,2", 0.25)]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = write_job(tmp_path, 'watches = "w"')
    of = night(path)
    vectors = pl.DataFrame(
        {"id": [2, 1], "video_id": ["v2", "v1"], "label_count": [3, 7], "vector": [[0.0, 1.0], [1.0, 0.0]]},
        schema_overrides={"vector": pl.List(pl.Float32)},
    )
    from nights import commit

    commit(of, "train", [files.write_parquet(vectors, of.folder("train"), "video_vectors.parquet")])
    published_night(path, LISTS, vectors=VECTORS, titles=TITLES)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of an exported file, read without the code of export."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return pl.read_parquet(content).to_dicts()
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in content.decode().splitlines()]
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    return [{key: json.loads(text) if text.startswith("[") else text for key, text in row.items()} for row in rows]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_every_format_has_the_same_lists(name: str, job: Path, tmp_path: Path) -> None:
    done = run_here("export", job, tmp_path / name)
    assert (done.returncode, done.stdout) == (0, "") and f"3 rows of lists, the night of {DATE}" in done.stderr
    found = {row["user_id"]: row for row in rows_of(tmp_path / name)}
    assert found.keys() == EXPECTED.keys()
    for user, row in found.items():
        assert row["video_ids"] == EXPECTED[user]["video_ids"]
        assert row["scores"] == pytest.approx(EXPECTED[user]["scores"])
    assert [path.name for path in tmp_path.glob("a.*")] == [name]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_the_long_form_has_a_row_for_each_user_and_video(form: str, job: Path, tmp_path: Path) -> None:
    out = tmp_path / f"long.{form}"
    assert run_here("export", job, out, "--long", "--format", form).returncode == 0
    found = sorted((r["user_id"], int(r["position"]), r["video_id"], float(r["score"])) for r in rows_of(out))
    assert found == sorted(LONG, key=lambda row: row[:2])


def test_vectors_and_videos(job: Path, tmp_path: Path) -> None:
    assert run_here("export", job, tmp_path / "v.jsonl", "--table", "vectors").returncode == 0
    assert sorted(rows_of(tmp_path / "v.jsonl"), key=lambda row: row["user_id"]) == VECTORS.to_dicts()
    assert run_here("export", job, tmp_path / "w.parquet", "--table", "videos").returncode == 0
    found = pl.read_parquet(tmp_path / "w.parquet")
    assert found.columns == ["video_id", "label_count", "title", "video_seconds", "vector"]
    assert found.select("video_id", "label_count", "title").rows() == [("v1", 7, "One, two"), ("v2", 3, "Zwei")]


def test_ranked_lists_have_expected_seconds(ranked_nights: Path, tmp_path: Path) -> None:
    job = ranked_nights / "job.toml"
    assert run_here("export", job, tmp_path / "a.parquet").returncode == 0
    assert run_here("export", job, tmp_path / "b.parquet", "--long").returncode == 0
    lists, long = pl.read_parquet(tmp_path / "a.parquet"), pl.read_parquet(tmp_path / "b.parquet")
    assert lists.columns == ["user_id", "video_ids", "scores", "expected_seconds"]
    assert long.columns == ["user_id", "position", "video_id", "score", "expected_seconds"]
    again = long.group_by("user_id", maintain_order=True).agg("video_id", "score", "expected_seconds")
    names = {"video_id": "video_ids", "score": "scores"}
    assert again.rename(names).equals(lists.filter(pl.col("video_ids").list.len() > 0))


def test_an_existing_file_is_replaced_only_if_asked(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("mine")
    done = run_here("export", job, out)
    assert done.returncode == 2 and "exists; name another file, or add --overwrite" in done.stderr
    assert out.read_text() == "mine"
    assert run_here("export", job, out, "--overwrite").returncode == 0 and len(rows_of(out)) == 3


def mistakes(tmp_path: Path) -> list[tuple[list[object], str]]:
    return [
        ([tmp_path / "lists"], "add --format csv, jsonl or parquet"),
        ([tmp_path / "no" / "a.csv"], "does not exist; make it first"),
        ([tmp_path], "is a folder; name a file"),
        ([tmp_path / "a.parquet.gz", "--format", "parquet"], "leave out .gz"),
        (["s3://bucket/a.csv"], "write a local file"),
        ([tmp_path / "a.csv", "--long", "--table", "videos"], "--long is for lists"),
        ([tmp_path / "a.csv", "--format", "xlsx"], "invalid choice: 'xlsx'"),
    ]


@pytest.mark.parametrize("number", range(7))
def test_a_wrong_argument_is_named(number: int, job: Path, tmp_path: Path) -> None:
    arguments, message = mistakes(tmp_path)[number]
    if number == 2:
        arguments = [tmp_path, "--format", "csv"]
    done = run_here("export", job, *arguments)
    assert done.returncode == 2 and message in done.stderr


def test_no_night_yet_and_an_unknown_date(job: Path, tmp_path: Path) -> None:
    done = run_here("export", job, tmp_path / "a.csv", "--date", "2026-01-01")
    assert done.returncode == 1 and f"complete nights: {DATE}" in done.stderr
    empty = write_job(tmp_path / "empty", 'watches = "w"')
    done = run_here("export", empty, tmp_path / "a.csv")
    assert done.returncode == 1 and "nothing is published in" in done.stderr
    assert not (tmp_path / "a.csv").exists()


def _largest_list(job: Path) -> Path:
    return max(Path(night(job).folder("neighbours")).glob("*.parquet"), key=lambda path: pl.read_parquet(path).height)


def test_a_damaged_file_leaves_no_export(job: Path, tmp_path: Path) -> None:
    damaged = _largest_list(job)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    done = run_here("export", job, tmp_path / "a.csv")
    assert done.returncode == 1 and "cannot be read" in done.stderr and str(damaged) in done.stderr
    assert not list(tmp_path.glob("a.csv*"))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_full_disk_leaves_no_file_and_keeps_the_old_one(
    form: str, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "_csv", full)
    monkeypatch.setattr(export.ParquetFrameWriter, "write", full)
    out = tmp_path / f"a.{form}"
    out.write_text("old")
    done = run_here("export", job, out, "--overwrite")
    assert done.returncode == 1 and "no space left on device: free some space" in done.stderr
    assert out.read_text() == "old" and [path.name for path in tmp_path.glob("a.*")] == [out.name]


def test_dropped_vectors_are_named(job: Path, tmp_path: Path) -> None:
    (Path(night(job).folder("train")) / "video_vectors.parquet").unlink()
    done = run_here("export", job, tmp_path / "a.csv", "--table", "videos")
    assert done.returncode == 1 and "the vectors of the night of" in done.stderr and "were dropped" in done.stderr
