"""Write the published lists, user vectors or videos to one file, which appears only when it is complete.

watchnext export JOB.toml OUT [--format csv|jsonl|parquet] [--table lists|vectors|videos] [--long] [--date DATE]

    lists     user_id, video_ids, scores, and expected_seconds if the lists are ranked
    --long    user_id, position (from 1), video_id, score, and expected_seconds
    vectors   user_id, vector
    videos    video_id, label_count, the columns of the catalogue, vector

Files are read one user bucket at a time, so memory does not grow with the number of users. In CSV, lists and vectors
are JSON arrays in one cell.
"""

from __future__ import annotations

import gzip
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import polars as pl

from pipelines.base import command_lines, console, manifest, paths
from pipelines.config.job_reader import open_job
from pipelines.config.jobs import Job, JobError
from pipelines.night.errors import StageError, is_disk_full, run_command
from pipelines.night.night import Night
from pipelines.serving.served_lists import FileLists
from transforms.core import files
from transforms.core.digests import FRAME_ROWS, bucket_of
from transforms.core.files import FileEntry, VerifiedPath
from transforms.core.parquet_writer import ParquetFrameWriter

Format = Literal["csv", "jsonl", "parquet"]
Write = Callable[[pl.DataFrame], object]
_ENDING = re.compile(r"\.(?:(parquet)|(csv|jsonl|ndjson)(?:\.gz)?)$", re.IGNORECASE)
_LISTS = ("user_id", "video_ids", "scores", "expected_seconds")
_LONG = {"video_ids": "video_id", "scores": "score"}  # column of lists -> its name in the long form
_CATALOGUE = ("title", "channel", "language", "upload_time", "video_seconds", "available", "countries")

parser = command_lines.export


def tables(
    lists: FileLists, job: Job, table: str, *, long: bool, users: Collection[str] | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a table of published lists, in frames with the same columns, at least one.

    table: one of `command_lines.EXPORT_TABLES`; long: one row per user and video instead of one per user; users: the
    stored ids of those whose rows are yielded, None for all. Raises StageError if a file is missing or damaged.
    """
    if table == "videos":
        yield from _videos(lists, job)
        return
    columns = ["user_id", "vector"]
    if table == "lists":
        columns = [name for name in _LISTS if name != "expected_seconds" or lists.has_seconds]
    entries = lists.files.of("lists" if table == "lists" else "user_vectors")
    if not entries:  # vectors of a night without users
        yield pl.DataFrame(schema={"user_id": pl.String, "vector": pl.List(pl.Float32)})
    if users is not None:
        buckets = {bucket_of(user, lists.files.buckets) for user in users}
        entries = tuple(one for one in entries if paths.shard_index(one.name) in buckets) or entries[:1]
    for entry in entries:
        frame = lists.read(_path(lists, entry), columns)
        frame = frame if users is None else frame.filter(pl.col("user_id").is_in(list(users)))
        for part in frame.iter_slices(FRAME_ROWS // 64) if frame.height else [frame]:
            yield _long_form(part) if long else part


def _path(lists: FileLists, entry: FileEntry) -> str:
    """Return the path of a served file, whose digest is verified when it is read."""
    repair = f"run the night of {lists.date} again from the stage that wrote {{folder}}/"
    return VerifiedPath(paths.join(lists.root.path, entry.name), entry.digest, repair)


def _long_form(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row per user and video, in the order of the list, with `position` from 1."""
    lists = [name for name in rows.columns if name != "user_id"]
    some = rows.filter(pl.col("video_ids").list.len() > 0)
    positions = pl.int_ranges(1, pl.col("video_ids").list.len() + 1, dtype=pl.Int32)
    found = some.with_columns(positions.alias("position")).explode(["position", *lists])
    return found.select("user_id", "position", *(pl.col(name).alias(_LONG.get(name, name)) for name in lists))


def _videos(lists: FileLists, job: Job) -> Iterator[pl.DataFrame]:
    """Yield the videos of the model of these lists, most frequent first, with what the catalogue says of them."""
    entry = lists.files.video_vectors
    if entry is None or not files.exists(paths.join(lists.root.path, entry.name)):
        raise StageError(
            f"the vectors of the night of {lists.date} were dropped, because the night is older than "
            "storage.keep_nights: export the served night, or run this night again from train"
        )
    rows = lists.read(_path(lists, entry), ["id", "video_id", "label_count", "vector"])
    ingested = Night(job, lists.date).ingested
    path = ingested.catalogue() if manifest.load(lists.root.stage(lists.date, "ingest")) else None
    if path is not None:
        catalogue = lists.read(path, None)
        known = [name for name in _CATALOGUE if name in catalogue.columns]
        rows = rows.join(catalogue.select("video_id", *known), on="video_id", how="left", maintain_order="left")
    rows = rows.sort("id").drop("id")
    rows = rows.select([name for name in rows.columns if name != "vector"] + ["vector"])
    yield from rows.iter_slices(FRAME_ROWS // 16) if rows.height else [rows]


def write(out: str, form: Format, frames: Iterable[pl.DataFrame]) -> int:
    """Write frames to a new local file, whole or not at all, and return the number of rows.

    The rows are written to a temporary file in the same folder, which then replaces `out`. Raises StageError if the
    disk is full.
    """
    partial = f"{out}.{os.getpid()}.tmp"
    rows = 0
    try:
        with _opened(Path(partial), form, compressed=out.lower().endswith(".gz")) as write_frame:
            for frame in frames:
                write_frame(frame)
                rows += frame.height
        files.sync([partial], str(Path(out).absolute().parent))
        Path(partial).replace(out)
    except Exception as error:
        if is_disk_full(error):
            message = f"{out} was not written: no space left on device: free some space, and try again"
            raise StageError(message) from error
        raise
    finally:
        Path(partial).unlink(missing_ok=True)
    return rows


def _opened(path: Path, form: Format, *, compressed: bool) -> AbstractContextManager[Write]:
    if form == "parquet":
        return _parquet_file(path)
    return _text_file(path, _csv if form == "csv" else _json_lines, compressed=compressed)


@contextmanager
def _parquet_file(path: Path) -> Iterator[Write]:
    with ParquetFrameWriter(str(path.parent), path.name) as writer:
        yield writer.write


@contextmanager
def _text_file(
    path: Path, write_text: Callable[[pl.DataFrame, BinaryIO, bool], object], *, compressed: bool
) -> Iterator[Write]:
    """Open a text file. `write_text(frame, target, is_first)` writes the rows of a frame."""
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) if compressed else raw as target:
        first = True

        def write_frame(frame: pl.DataFrame) -> None:
            nonlocal first
            write_text(frame, target, first)  # type: ignore[arg-type]
            first = False

        yield write_frame


def _csv(frame: pl.DataFrame, target: BinaryIO, is_first: bool) -> None:
    nested = [_json_array(name, kind) for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
    target.write(frame.with_columns(nested).write_csv(include_header=is_first).encode())


def _json_array(name: str, kind: pl.List) -> pl.Expr:
    """Return a column of lists as JSON arrays. Ids contain no control characters."""
    value = pl.element().cast(pl.String)
    if kind.inner == pl.String:
        escaped = value.str.replace_all("\\", "\\\\", literal=True).str.replace_all('"', '\\"', literal=True)
        value = pl.concat_str(pl.lit('"'), escaped, pl.lit('"'))
    values = pl.col(name).list.eval(value.fill_null("null")).list.join(",")
    return pl.concat_str(pl.lit("["), values, pl.lit("]")).alias(name)


def _json_lines(frame: pl.DataFrame, target: BinaryIO, is_first: bool) -> None:
    target.write(frame.write_ndjson().encode())


def format_of(out: str, given: str | None) -> Format:
    """Return the format of a file: the given one, or else that of its ending. Raises JobError if neither is known."""
    ending = _ENDING.search(out)
    named = (ending[1] or ending[2]).lower().replace("ndjson", "jsonl") if ending else ""
    found = given or named
    if not found:
        raise JobError(f"OUT = {out!r}: add --format csv, jsonl or parquet, or an ending: .csv, .jsonl (.gz), .parquet")
    if found == "parquet" and out.lower().endswith(".gz"):
        raise JobError(f"OUT = {out!r}: Parquet is compressed by itself: leave out .gz")
    return found  # type: ignore[return-value]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file. Return 2 if it exists and --overwrite is not given."""
    args, flags = parser().parse_known_args(argv)
    if args.long and args.table != "lists":
        parser().error(f"--long is for lists, and cannot be used with --table {args.table}")

    def work() -> int:
        job, form = open_job(args.job, flags), format_of(args.out, args.format)
        _check_target(args.out, overwrite=args.overwrite)
        lists = FileLists.open(job) if args.date is None else FileLists.of_night(job, args.date)
        rows = write(args.out, form, tables(lists, job, args.table, long=args.long))
        text = f"{args.out}: {rows:,} rows of {args.table}, the night of {lists.date}"
        print(console.printable(text), file=sys.stderr)
        return 0

    return run_command(work)


def _check_target(out: str, *, overwrite: bool) -> None:
    """Raise JobError if the file to write exists, or its folder does not."""
    if "://" in out:
        raise JobError(f"OUT = {out!r}: write a local file, and copy it from there")
    if Path(out).is_dir():
        raise JobError(f"OUT = {out!r} is a folder; name a file")
    if Path(out).exists() and not overwrite:
        raise JobError(f"OUT = {out!r} exists; name another file, or add --overwrite")
    if not Path(out).absolute().parent.is_dir():
        raise JobError(f"OUT = {out!r}: the folder {Path(out).absolute().parent} does not exist; make it first")


if __name__ == "__main__":
    raise SystemExit(main())
