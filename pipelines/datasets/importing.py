"""Write the log tables of a data set: `import_data_set`."""

from __future__ import annotations

import datetime as dt
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipelines.datasets.data_set import DataSet, Frames, MissingFileError, Request, Source
from pipelines.datasets.day_files import PIECE_ROWS, DayFiles
from pipelines.datasets.job_text import Imported, job_text
from pipelines.datasets.splits import NoSplit, Split, TimeSplit
from pipelines.datasets.tables import DataSetError
from transforms.core import files
from transforms.core.parquet_writer import ParquetFrameWriter
from transforms.logs.columns import parse_ids
from transforms.logs.plausible import FIRST_TIME

MAX_LEFT_OUT = 0.05  # share of rows that cannot be read, above which the files are not those expected
_SCRATCH = ".import"
_OWN = ("part", "wanted")  # columns that only the split reads
Report = Callable[[int], object]  # is called with the number of rows read so far


@dataclass(frozen=True, kw_only=True)
class Result:
    """What `import_data_set` wrote."""

    imported: Imported
    truths: dict[str, int]  # rows of each truth table
    left_out: Counter[str]  # rows that are not in the logs, by reason

    @property
    def watches(self) -> int:
        return sum(self.imported.days.values())


def import_data_set(
    data_set: DataSet,
    path: Path,
    out: Path,
    *,
    request: Request | None = None,
    split: Split | None = None,
    report: Report | None = None,
) -> Result:
    """Write the tables of a data set and a job file to the folder `out`, which must be new or empty.

    Raises DataSetError if files are missing or are not those of the data set, LogError if a file is damaged, and
    FileExistsError if `out` is not empty. After an error `out` is as it was.
    """
    source = data_set.find(path)
    existed = _check_new(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        return _import(data_set, source, out, request or Request(), split or NoSplit(), report)
    except BaseException:
        for entry in out.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not existed:
            out.rmdir()
        raise


def _check_new(out: Path) -> bool:
    """Return whether the folder exists. Raises FileExistsError if it is a file or not empty."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; give a new folder as OUT")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; give a new folder as OUT")
    return out.exists()


def _import(
    data_set: DataSet, source: Source, out: Path, request: Request, split: Split, report: Report | None
) -> Result:
    zone = data_set.zone(request.columns)
    checked = _Checked(data_set, source, zone)
    scratch = out / _SCRATCH
    day_files, truth_files = DayFiles(scratch / "watches", time_zone=zone), _TruthFiles(scratch / "truth")
    for piece in _pieces(checked.frames(data_set.watches(source, request), report)):
        logs, truths = split.divide(piece)
        day_files.add(logs.drop(_OWN, strict=False))
        truth_files.add(truths)
    checked.check(at_end=True)
    if not checked.rows:
        raise DataSetError(f"there are no rows in {', '.join(map(str, source.files.values()))}")
    rows = day_files.write(out / "watches", split.cutoffs())
    if not rows:
        raise DataSetError("no watch is left in the logs; choose another --split")
    pairs = truth_files.write(out, split.truth())
    date = split.first if isinstance(split, TimeSplit) else max(rows) + dt.timedelta(days=1)
    imported = Imported(
        data_set=data_set,
        days=rows,
        time_zone=zone,
        completed=_completed(data_set, request),
        has_videos=_write_table(data_set.videos, source, out, "videos", "video_id"),
        has_users=_write_table(data_set.users, source, out, "users", "user_id"),
        is_split=type(split) is not NoSplit,
        date=date,
    )
    shutil.rmtree(scratch, ignore_errors=True)
    files.replace_file(str(out / "job.toml"), job_text(imported).encode())
    return Result(imported=imported, truths=pairs, left_out=checked.left_out)


def _completed(data_set: DataSet, request: Request) -> str:
    """Return in words which watches are completed."""
    if request.completed_from in (None, data_set.completed_from):
        return data_set.completed
    return f"a {data_set.measure} of at least {request.completed_from:g}"


@dataclass
class _Checked:
    """Convert ids, and leave out rows without an id, a time or a decision; count them."""

    data_set: DataSet
    source: Source
    time_zone: str
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    _checked_rows: int = 0

    def frames(self, watches: Frames, report: Report | None) -> Frames:
        for frame in watches:
            yield self._valid(frame)
            if report:
                report(self.rows)
            if self.rows - self._checked_rows > PIECE_ROWS:
                self.check(at_end=False)

    def _valid(self, frame: pl.DataFrame) -> pl.DataFrame:
        self.rows += frame.height
        ids = [parse_ids(frame[name]).alias(name) for name in ("user_id", "video_id")]
        frame = frame.with_columns(*ids)
        latest = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        last_day = self.data_set.last_day or dt.date.max
        reasons = {
            "no user": pl.col("user_id").is_null(),
            "no item": pl.col("video_id").is_null(),
            "no time, or one that cannot be read": pl.col("time").is_null(),
            "a time before 1990": pl.col("time") < FIRST_TIME,
            "a time in the future": pl.lit(self.data_set.has_times) & (pl.col("time") > latest),
            "no rating, or one that cannot be read": pl.col("completed").is_null(),
            f"a time after {last_day}": pl.col("time").dt.convert_time_zone(self.time_zone).dt.date() > last_day,
        }
        reason = pl.coalesce(pl.when(mask).then(pl.lit(text)) for text, mask in reasons.items())
        frame = frame.with_columns(reason=reason)
        bad = frame.filter(pl.col("reason").is_not_null())["reason"]
        self.left_out.update(dict(bad.value_counts().iter_rows()))
        return frame.filter(pl.col("reason").is_null()).drop("reason")

    def check(self, *, at_end: bool) -> None:
        """Raise DataSetError if too many rows are left out."""
        self._checked_rows = self.rows
        if at_end:
            self.left_out.update(+self.source.broken)
            self.rows += self.source.broken.total()
        reasons = {
            reason: rows for reason, rows in self.left_out.most_common() if not reason.startswith("a time after")
        }
        if sum(reasons.values()) > MAX_LEFT_OUT * self.rows:
            listed = ", ".join(f"{rows:,} have {reason}" for reason, rows in reasons.items() if rows)
            raise DataSetError(
                f"of {self.rows:,} rows, {listed}: is this {self.data_set.title}, and the time in its published unit? "
                + ("(--time-unit)" if self.data_set.takes_columns else self.data_set.where())
            )


def _pieces(frames: Frames) -> Iterator[pl.DataFrame]:
    """Join frames to pieces of at least `PIECE_ROWS` rows, and a last one."""
    waiting: list[pl.DataFrame] = []
    rows = 0
    for frame in frames:
        waiting.append(frame)
        rows += frame.height
        if rows >= PIECE_ROWS:
            yield pl.concat(waiting, how="diagonal")  # files of a folder may have different columns
            waiting, rows = [], 0
    if waiting:
        yield pl.concat(waiting, how="diagonal")


class _TruthFiles:
    """Collect the pairs of the truth tables, and write them without repetitions."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._pieces: dict[str, int] = {}

    def add(self, truths: dict[str, pl.DataFrame]) -> None:
        for name, rows in truths.items():
            number = self._pieces.get(name, 0)
            pairs = rows.select("user_id", "video_id").unique()
            files.write_parquet(pairs, str(self._scratch / name), f"{number:05d}.parquet")
            self._pieces[name] = number + 1

    def write(self, out: Path, last: pl.DataFrame | None) -> dict[str, int]:
        """Write the truth tables, and `truth.parquet` of `last` if it is given. Return their rows."""
        if last is not None:
            files.write_parquet(last, str(out), "truth.parquet")
            return {"truth": last.height}
        rows = {}
        for name in self._pieces:
            paths = sorted(map(str, (self._scratch / name).iterdir()))
            pairs = pl.scan_parquet(paths, glob=False).unique().sort("user_id", "video_id").collect(engine="streaming")
            if pairs.height:
                files.write_parquet(pairs, str(out), f"{name}.parquet")
                rows[name] = pairs.height
        return rows


def _write_table(read: Callable[[Source], Frames] | None, source: Source, out: Path, name: str, key: str) -> bool:
    """Write a table of videos or users. Return whether the data set has one."""
    if read is None:
        return False
    path, written = out / f"{name}.parquet", 0
    try:
        with ParquetFrameWriter(str(out), path.name) as writer:
            for frame in read(source):
                valid = frame.with_columns(parse_ids(frame[key]).alias(key)).filter(pl.col(key).is_not_null())
                writer.write(valid)
                written += valid.height
    except MissingFileError:
        return False
    if not written:
        path.unlink(missing_ok=True)
    return written > 0
