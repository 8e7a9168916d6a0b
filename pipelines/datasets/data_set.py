"""What the importer knows of a data set: its files, its licence, and functions that read its tables."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipelines.datasets.tables import COMPRESSIONS, Block, DataSetError

Frames = Iterator[pl.DataFrame]

TIME = pl.Datetime("ms", "UTC")
QUARTER_HOUR = dt.timedelta(minutes=15)  # between events whose times are not published
_MERGED_ROWS = 1_000_000
_DEPTH = 4  # folders below PATH in which files are looked for
_ARCHIVES = {".zip": "unzip", ".tar": "tar xf", ".tar.gz": "tar xf", ".tgz": "tar xf"}


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A published file: its name, or names if it was published under several; a name may include its folder."""

    names: tuple[str, ...]
    required: bool = True

    @property
    def name(self) -> str:
        return self.names[0]


def required(*names: str) -> SourceFile:
    return SourceFile(names=names)


def optional(*names: str) -> SourceFile:
    return SourceFile(names=names, required=False)


@dataclass(frozen=True, kw_only=True)
class EventColumns:
    """The columns of a table of events (`events`)."""

    user: str = "user_id"
    video: str = "video_id"
    time: str = "time"
    rating: str | None = None
    completed: str | None = None
    watch_seconds: str | None = None
    video_seconds: str | None = None
    time_unit: str | None = None  # s, ms, us or ns; None: seconds or milliseconds by size, or ISO 8601
    time_zone: str = "UTC"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the tables are read for.

    completed_from: the least value of the data set's measure that counts as a completed watch.
    held_out: the number of last events of each user that the split leaves out; only data sets without times use it.
    """

    completed_from: float | None = None
    held_out: int = 0
    columns: EventColumns = field(default_factory=EventColumns)


class MissingFileError(Exception):
    """An optional file of a data set was not found."""


@dataclass(frozen=True)
class Source:
    """The files of a data set that were found, by their published names; and rows of them that are not rows."""

    files: Mapping[str, Path]
    broken: Counter[str] = field(default_factory=Counter)

    def __getitem__(self, name: str) -> Path:
        """Return the path of a file. Raises MissingFileError."""
        if name not in self.files:
            raise MissingFileError(name)
        return self.files[name]

    def get(self, name: str) -> Path | None:
        return self.files.get(name)

    def rows(self, blocks: Iterable[Block]) -> Frames:
        """Yield the rows of blocks, and count those that have a wrong number of values."""
        for block in blocks:
            self.broken["a wrong number of values"] += block.broken
            yield block.rows


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A public data set.

    watches: yields frames with `user_id`, `video_id` (of any type that is an id), `time` (`TIME`) and `completed`;
    optional `watch_seconds`, `video_seconds` and further columns; `part` ("train", "validation" or "test") if the
    publisher splits the data, and `wanted` if other watches than the completed ones are the truth of that split.
    videos, users: yield frames of these tables.
    completed_from: the default of the measure; None if there is none.
    measure: what `completed_from` bounds; None if the option has no meaning.
    """

    name: str
    title: str
    page: str
    licence: str
    size: str
    files: tuple[SourceFile, ...]
    completed: str
    watches: Callable[[Source, Request], Frames]
    videos: Callable[[Source], Frames] | None = None
    users: Callable[[Source], Frames] | None = None
    measure: str | None = None
    completed_from: float | None = None
    time_zone: str = "UTC"
    last_day: dt.date | None = None  # later events are errors of the publisher's logs
    user_categories: tuple[str, ...] = ()
    exclude: str = "completed"  # of the job's [neighbours]
    has_bursts: bool = False  # whether people enter hundreds of events in one sitting
    is_split: bool = False  # whether the publisher splits the data
    has_times: bool = True  # false: the order of events is published, and the reader makes the times
    takes_columns: bool = False  # whether `EventColumns` apply
    locate: Callable[[DataSet, Path], Source] | None = None  # instead of `find_files`

    def zone(self, columns: EventColumns) -> str:
        """Return the time zone in which days begin."""
        return columns.time_zone if self.takes_columns else self.time_zone

    def find(self, path: Path) -> Source:
        """Return the files below `path`. Raises DataSetError that names the missing files and where to get them."""
        if not path.exists():
            raise DataSetError(f"{path} does not exist; {self.where()}")
        return self.locate(self, path) if self.locate else find_files(self, path)

    def where(self) -> str:
        """Return where to get the data set."""
        return f"get {self.title} from {self.page} ({self.size}; licence: {self.licence})"


def find_files(data_set: DataSet, path: Path) -> Source:
    """Return the files of a data set in a folder or in folders below it, also if they are compressed."""
    if path.is_file():
        raise DataSetError(f"{path} is a file; {_archive_hint(path)}PATH is the folder of the unpacked files")
    found: dict[str, Path] = {}
    missing: list[str] = []
    for file in data_set.files:
        matches = _matches(path, file)
        if len(matches) > 1:
            raise DataSetError(
                f"{path} has several files {file.name}: {', '.join(map(str, matches))}; give the folder of one of them"
            )
        if matches:
            found[file.name] = matches[0]
        elif file.required:
            missing.append(file.name)
    if missing:
        archives = [entry for entry in sorted(path.iterdir()) if _archive_hint(entry)]
        hint = f"{_archive_hint(archives[0])}or " if archives else ""
        raise DataSetError(f"{path} lacks {', '.join(missing)}; {hint}{data_set.where()}")
    return Source(found)


def _matches(path: Path, file: SourceFile) -> list[Path]:
    """Return the files that have one of the names of a file; those of the nearest folder, under the first name."""
    for name in file.names:
        for depth in range(_DEPTH):
            for ending in ("", *COMPRESSIONS):
                pattern = "*/" * depth + _literal(name + ending)
                if found := sorted(entry for entry in path.glob(pattern) if entry.is_file()):
                    return found
    return []


def _literal(name: str) -> str:
    return name.replace("[", "[[]")


def _archive_hint(path: Path) -> str:
    """Return how to unpack an archive; empty if the path is not an archive."""
    command = next((command for ending, command in _ARCHIVES.items() if path.name.lower().endswith(ending)), None)
    return f"unpack it first ({command} {path.name}); " if command and path.is_file() else ""


class FirstRows:
    """Collect the first row of each value of a column from many frames."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._frames: list[pl.DataFrame] = []
        self._rows = self._distinct = 0

    def add(self, frame: pl.DataFrame) -> None:
        self._frames.append(frame)
        self._rows += frame.height
        if self._rows > 2 * self._distinct + _MERGED_ROWS:  # so that each row is merged a few times only
            self._frames = [self.frame()]
            self._rows = self._distinct = self._frames[0].height

    def frame(self) -> pl.DataFrame:
        """Return the rows, in the order in which they came, without those that lack a value."""
        return pl.concat(self._frames).drop_nulls(self._key).unique(self._key, keep="first", maintain_order=True)


def from_epoch(values: pl.Expr, unit: str = "s") -> pl.Expr:
    """Convert epoch numbers, or their text, to `TIME`. unit: s, ms, us or ns. Unreadable values become null."""
    milliseconds = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}[unit]
    number = (values.cast(pl.Float64, strict=False) * milliseconds).round()
    usable = number.is_finite() & (number.abs() < 1e14)
    return pl.when(usable).then(number).cast(pl.Int64).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def number(name: str) -> pl.Expr:
    """Return a column of text or numbers as Float64; unreadable values become null."""
    return pl.col(name).cast(pl.Float64, strict=False)


def seconds_of(name: str) -> pl.Expr:
    """Return a column of milliseconds as seconds."""
    return (number(name) / 1000).cast(pl.Float32)
