"""Tables of events of any data set, and lists of events without times."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from pipelines.datasets.data_set import (
    QUARTER_HOUR,
    TIME,
    DataSet,
    Frames,
    Request,
    Source,
    SourceFile,
    from_epoch,
    number,
)
from pipelines.datasets.tables import Block, DataSetError, Separated, read_table, without_compression
from transforms.logs.columns import RawColumns
from transforms.logs.parsing import CompletionRule
from transforms.logs.readers import LOG_ENDING

_TSV = Separated(separator="\t")
_END = dt.datetime(2026, 9, 1, tzinfo=dt.UTC)  # of lists of events
_MOST_BACK = 2600  # quarters of an hour, so that a list ends within four weeks
_FEWEST = 3  # events of a user of which some are held out
_DEFAULTS = {"completed": "completed", "watch_seconds": "watch_seconds", "video_seconds": "video_seconds"}


def _is_tsv(path: Path) -> bool:
    return without_compression(path).suffix.lower() in (".tsv", ".tab")


def _locate(data_set: DataSet, path: Path) -> Source:
    """Return the file, or all tables below the folder."""
    found = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    tables = [entry for entry in found if _is_tsv(entry) or LOG_ENDING.search(entry.name)]
    if not tables:
        raise DataSetError(f"{path} has no table of events: a name must end in {data_set.files[0].name}")
    return Source({str(entry): entry for entry in tables})


def _watches(source: Source, request: Request) -> Frames:
    columns = request.columns
    if columns.rating and request.completed_from is None:
        raise DataSetError("--rating needs --completed-from: the least rating that counts as a completed watch")
    for path in source.files.values():
        for rows in source.rows(_blocks(path, request)):
            yield _events(rows, request)


def _blocks(path: Path, request: Request) -> Iterator[Block]:
    given = request.columns
    wanted = {"user_id": given.user, "video_id": given.video, "time": given.time}
    others = dict(_DEFAULTS)
    for ours in ("rating", *_DEFAULTS):
        if theirs := getattr(given, ours):
            wanted[ours] = theirs
            others.pop(ours, None)
    try:
        yield from read_table(path, wanted, optional=others, layout=_TSV if _is_tsv(path) else None)
    except DataSetError as error:
        options = (
            "name your columns with --user, --video, --time, --rating, --completed" if "column" in str(error) else ""
        )
        raise DataSetError("; ".join(filter(None, [str(error), options]))) from error


def _events(rows: pl.DataFrame, request: Request) -> pl.DataFrame:
    raw, unit = RawColumns(rows), request.columns.time_unit
    time = from_epoch(pl.lit(rows["time"]), unit) if unit else raw.time(request.columns.time_zone).cast(TIME)
    names = [name for name in ("watch_seconds", "video_seconds") if name in rows.columns]
    read = rows.select("user_id", "video_id", time.alias("time"), *(raw.number(name) for name in names))
    return read.with_columns(completed=_completed(rows, read, raw, request))


def _completed(rows: pl.DataFrame, read: pl.DataFrame, raw: RawColumns, request: Request) -> pl.Expr:
    if "rating" in rows.columns:
        return pl.lit(rows.select(number("rating") >= request.completed_from).to_series())
    found = raw.boolean("completed") if "completed" in rows.columns else pl.lit(None, pl.Boolean)
    if "watch_seconds" in read.columns:
        length = pl.col("video_seconds") if "video_seconds" in read.columns else pl.lit(None, pl.Float32)
        rule = CompletionRule() if request.completed_from is None else CompletionRule(fraction=request.completed_from)
        return pl.coalesce(found, rule.is_met(length), False)
    return found if "completed" in rows.columns else pl.lit(True)


def _locate_lists(data_set: DataSet, path: Path) -> Source:
    if not path.is_file():
        raise DataSetError(f"{path} is a folder; give the file with one user per line ({data_set.files[0].name})")
    return Source({data_set.files[0].name: path})


def _lists(source: Source, request: Request) -> Frames:
    """Yield the events of lists. The user of line n is `u` and n, from 0; the video is `v` and its number.

    The events of a user are a quarter of an hour apart. The last one that is not held out is a quarter of an hour
    before 2026-09-01.
    """
    (path,) = source.files.values()
    first = 0
    for block in read_table(path, {"line": "line"}, layout=Separated(separator="\n", columns=("line",))):
        lists = block.rows.select(
            user_id=pl.format("u{}", pl.int_range(first, first + pl.len())),
            video_id=pl.col("line").str.extract_all(r"\S+").list.slice(1),
        )
        first += lists.height
        count = pl.col("video_id").list.len().cast(pl.Int64)
        held_out = pl.min_horizontal(pl.lit(request.held_out), (count - _FEWEST + 1).clip(lower_bound=0))
        back = pl.int_ranges(count - held_out, -held_out, -1)
        rows = lists.with_columns(back=back).explode("video_id", "back").drop_nulls()
        time = pl.lit(_END) - QUARTER_HOUR * pl.col("back").clip(upper_bound=_MOST_BACK)
        yield rows.select(
            "user_id", pl.format("v{}", "video_id").alias("video_id"), time=time.cast(TIME), completed=True
        )


DATA_SETS = (
    DataSet(
        name="events",
        title="a table of events",
        page="your own source",
        licence="yours",
        size="any",
        files=(SourceFile(names=(".csv, .tsv, .jsonl or .parquet (text also with .gz, .bz2 or .zst)",)),),
        completed="as the columns `completed`, `watch_seconds` or the rating say; else every event",
        measure="rating, or share of the length",
        takes_columns=True,
        locate=_locate,
        watches=_watches,
    ),
    DataSet(
        name="sequences",
        title="lists of events, one user per line",
        page="https://github.com/RUCAIBox/CIKM2020-S3Rec (data/CATEGORY.txt)",
        licence="that of the data set behind it",
        size="1 MB",
        files=(SourceFile(names=("CATEGORY.txt: user item item ...",)),),
        completed="every event",
        exclude="watched",
        has_times=False,
        locate=_locate_lists,
        watches=_lists,
    ),
)
