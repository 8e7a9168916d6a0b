"""Guess what the log files in a folder are: which files belong together, which table they are, and which columns.

    groups, skipped = find_groups("logs")
    guess = guess_table(groups[0])       # guess.table == "watches", guess.columns == {"user_id": "uid", ...}

A guess uses names and values: a column of times must hold times, a column of seconds must not hold milliseconds. What
names and values do not decide is a `question` or a `problem` of the guess.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from pipelines.base import raw_files
from pipelines.base.paths import escape_pattern
from pipelines.base.snapshot_store import TakenFile
from pipelines.checks.logs import OTHER_NAMES
from pipelines.config.settings import COLUMNS
from pipelines.logs.log_samples import estimate_rows
from transforms.core.days import local_date
from transforms.logs import schemas
from transforms.logs.columns import NULL_WORDS, RawColumns, parse_ids
from transforms.logs.plausible import FIRST_BIRTH_YEAR, FIRST_TIME, USUAL_SECONDS
from transforms.logs.readers import LogError, LogTable, column_names, partition_values, read_log

ABSENT = "(not in these logs)"  # the name of a column that must not be read
TABLES = {
    table.name: table
    for table in (schemas.WATCHES, schemas.SEARCHES, schemas.IMPRESSIONS, schemas.VIDEOS, schemas.USERS, schemas.HIDDEN)
}
# Words of paths that say which table a file is of, or that it is none.
_WORDS = {
    "searches": ("search", "quer"),
    "impressions": ("impression", "exposure", "slate", "shown", "recommended"),
    "hidden": ("hidden", "hide", "block", "dismiss"),
    "videos": ("video", "movie", "film", "item", "catalog", "content", "title", "metadata", "clip", "asset"),
    "users": ("user", "member", "customer", "account", "profile", "viewer", "subscriber", "people"),
    "watches": ("watch", "view", "play", "stream", "consum", "interaction", "event", "activity", "history"),
}
_NOT_LOGS = ("truth", "test", "sample", "samples", "backup", "archive", "tmp", "old")
# Names in addition to those that doctor knows, the most certain ones first.
_MORE_NAMES = {
    "user_id": ("userid", "viewer", "member", "customer", "user_uuid", "subscriber_id", "person_id", "device_id", "u"),
    "video_id": ("track_id", "clip_id", "film_id", "show_id", "program_id", "post_id", "i"),
    "time": ("event_timestamp", "eventtime", "occurred_at", "watched_at", "viewed_at", "searched_at", "started_at"),
    "completed": ("is_complete", "is_finished", "watched_to_end", "fully_watched", "full_view", "done"),
    "watch_seconds": (
        "watched",
        "view_time",
        "viewing_time",
        "watch_duration",
        "play_duration",
        "time_watched",
        "dwell",
    ),
    "video_seconds": ("video_length", "runtime", "content_length", "total_duration"),
    "query": ("keyword_text", "query_text", "search_text", "search_query_text"),
    "page_id": ("request_id", "slate_id", "pageview_id", "page_view_id", "list_id", "impression_id"),
    "clicked": ("click", "is_click", "is_clicked", "was_clicked"),
    "position": ("rank", "slot", "pos", "index"),
    "upload_time": ("created_at", "upload_dt", "upload_ts", "added_at"),
}
_OF_TABLE = {  # names that are certain only in these tables
    ("videos", "video_id"): ("id",),
    ("users", "user_id"): ("id",),
    ("searches", "time"): ("t",),
    ("watches", "time"): ("t",),
}
_LAST_TIMES = ("unix", "epoch", "utc", "server_time", "logged_at", "start_time", "at", "date", "day")
_MILLISECONDS = re.compile(r"(?:_|\b)(?:ms|msec|millis|milliseconds)$|Ms$|Millis$")
_OTHER_UNITS = re.compile(r"(?:_|\b)(?:min|mins|minutes|hours|hrs|pct|percent|ratio|frac|share)$", re.IGNORECASE)
_UNIT = re.compile(r"(?:_(?:ms|msec|millis|milliseconds|us|s|sec|secs|seconds|utc|unix)|Ms|Millis|Sec|Secs|Seconds)$")
_DATE = re.compile(r"(?<!\d)\d{4}-\d\d-\d\d(?!\d)")
_VARYING = re.compile(
    r"(?<![0-9A-Za-z])(?=[0-9a-f-]*\d)(?=[0-9a-f-]*[a-f])[0-9a-f]{6,}(?:-[0-9a-f]+)*(?![0-9A-Za-z])|\d+"
)
_OFFSET = re.compile(r"(Z|[+-]\d\d(:?\d\d)?)\s*$")
_SAMPLE_ROWS = 20_000
_NEWEST_ROWS = 2_000_000  # rows that are read to find the newest event
_MOSTLY = 0.9  # share of the values that must be valid; rejected rows are for doctor to report
_MANY_IDS = 0.5  # the same of ids, which may be missing
_ANY_DATES = (dt.date(2000, 1, 1), dt.date(2000, 1, 2))  # for patterns without {date}


@dataclass(frozen=True, kw_only=True)
class LogGroup:
    """Log files with the same columns, as one path of a job file names them."""

    pattern: str  # relative to the folder: a file, or a glob, perhaps with {date}
    files: tuple[TakenFile, ...]  # sorted by path
    days: tuple[str, ...] = ()  # of {date}, sorted
    columns: tuple[str, ...] = ()  # of the newest file, and the keys of its folders
    raw: pl.DataFrame = field(default_factory=pl.DataFrame)  # the first rows of the newest file
    rows: int = 0  # of all files, estimated
    error: str = ""  # why the newest file cannot be read

    @property
    def newest(self) -> str:
        return self.files[-1].path

    @property
    def missing_days(self) -> bool:
        """Return whether there are days without a file between the first and the last one."""
        if not self.days:
            return False
        first, last = dt.date.fromisoformat(self.days[0]), dt.date.fromisoformat(self.days[-1])
        return (last - first).days + 1 > len(self.days)


@dataclass(frozen=True, kw_only=True)
class TableGuess:
    """The table that a group of files probably is, and its columns."""

    table: str
    group: LogGroup
    columns: dict[str, str]  # our name -> the name in the files, or `ABSENT`
    lacking: tuple[str, ...] = ()  # our names of required columns that were not found
    problems: tuple[str, ...] = ()  # why columns that were found by name cannot be used
    question: str = ""  # our name and theirs, such as "watch_seconds=duration", if the values leave both meanings open
    certainty: int = 0

    @property
    def is_complete(self) -> bool:
        return not self.lacking and not self.question


def find_groups(folder: str, *, without: Sequence[str] = ()) -> tuple[list[LogGroup], tuple[str, ...]]:
    """Return the groups of log files below a folder, and the paths of files that are no log files.

    without: folders that are left out, such as the root of a job. Raises LogError if the folder contains no log file.
    """
    start, end = _ANY_DATES
    listed = raw_files.find("FOLDER", escape_pattern(folder), start=start, end=end)
    outside = [file for file in listed.files if not any(file.path.startswith(f"{top.rstrip('/')}/") for top in without)]
    by_pattern: dict[str, list[TakenFile]] = {}
    for file in outside:
        by_pattern.setdefault(_template(file.path[len(folder.rstrip("/")) + 1 :]), []).append(file)
    groups = [_group(folder, template, files) for template, files in sorted(by_pattern.items())]
    return groups, listed.skipped


def group_of_pattern(setting: str, pattern: str) -> LogGroup:
    """Return the files that a path, glob or path with `{date}` names. Raises LogError if there are none."""
    if "{date}" not in pattern:
        found = raw_files.find(setting, pattern, start=_ANY_DATES[0], end=_ANY_DATES[1])
        return _read(LogGroup(pattern=pattern, files=found.files))
    start, end = dt.date(1990, 1, 1), dt.date.today() + dt.timedelta(days=1)
    listed = raw_files.find(setting, pattern.replace("{date}", "*"), start=start, end=end)
    days = sorted({dates[-1] for file in listed.files if (dates := _DATE.findall(file.path))})
    if not days:
        raise LogError(f"{setting} = {pattern!r}: no file has a date such as 2026-11-21 in the place of {{date}}")
    return _read(LogGroup(pattern=pattern, files=listed.files, days=tuple(days)))


def _template(relative: str) -> str:
    """Return a path with its dates replaced by {date}, and with the parts that vary between files by wildcards."""
    *folders, name = relative.split("/")
    parts = []
    for folder in folders:
        key, equals, value = folder.partition("=")
        dated = _DATE.sub("{date}", folder)
        if dated != folder:
            parts.append(dated)
        else:
            parts.append(
                f"{escape_pattern(key)}=*" if equals and value else "*" if folder.isdigit() else escape_pattern(folder)
            )
    stem, dot, ending = name.partition(".")
    return "/".join([*parts, f"{_wildcards(stem)}{dot}{ending}"])


def _wildcards(stem: str) -> str:
    """Return the name of a file with {date}, and with * for its numbers and hexadecimal digits."""
    pieces = []
    for number, piece in enumerate(_DATE.split(stem)):
        pieces += ["{date}"] if number else []
        last = 0
        for varying in _VARYING.finditer(piece):
            # a digit first, so that the pattern does not match other names
            pieces += [escape_pattern(piece[last : varying.start()]), "[0-9]*" if varying[0].isdigit() else "*"]
            last = varying.end()
        pieces.append(escape_pattern(piece[last:]))
    return "".join(pieces)


def _group(folder: str, template: str, files: list[TakenFile]) -> LogGroup:
    files = sorted(files, key=lambda file: file.path)
    days = tuple(sorted({_DATE.findall(file.path)[-1] for file in files})) if "{date}" in template else ()
    pattern = template if len(files) > 1 or days else escape_pattern(files[0].path[len(folder.rstrip("/")) + 1 :])
    return _read(LogGroup(pattern=pattern, files=tuple(files), days=days))


def _read(group: LogGroup) -> LogGroup:
    """Return the group with its columns and first rows."""
    try:
        keys = partition_values(group.newest)
        names = list(dict.fromkeys([*column_names(group.newest), *keys]))
        return replace(
            group, columns=tuple(names), raw=_first_rows(group.newest, names), rows=estimate_rows(group.files)
        )
    except LogError as error:
        return replace(group, error=str(error))


def _first_rows(path: str, names: Iterable[str]) -> pl.DataFrame:
    """Return the first rows of a file, with the columns that have one value per row."""
    readable = list(names)
    while readable:
        try:
            frame = next(read_log(path, LogTable(name="", required=(), optional=tuple(readable)), {}), None)
            return frame.rows.head(_SAMPLE_ROWS) if frame else pl.DataFrame(schema=dict.fromkeys(readable, pl.String))
        except LogError as error:
            nested = [name for name in readable if f"{name!r}" in str(error) or f" {name} " in str(error)]
            if not nested:
                raise
            readable = [name for name in readable if name not in nested]
    return pl.DataFrame()


def guess_table(group: LogGroup, given: Mapping[str, Mapping[str, str]] | None = None) -> TableGuess | None:
    """Return the table that a group most probably is; None if it looks like none.

    given: columns that the user named, by table.
    """
    guesses = {table: guess_columns(group, table, (given or {}).get(table, {})) for table in TABLES}
    hinted, has = _hint(group.pattern), set(guesses["watches"].columns)
    chosen = ""
    if guesses["searches"].is_complete and ("video_id" not in has or hinted == "searches"):
        chosen = "searches"
    elif "clicked" in guesses["impressions"].columns and not guesses["impressions"].lacking:
        chosen = "impressions"
    elif {"user_id", "video_id"} <= has:
        chosen = "hidden" if hinted == "hidden" else "watches"
    elif not guesses["videos"].lacking and "user_id" not in has and hinted != "users":
        chosen = "videos"
    elif _describes_users(guesses["users"], hinted) and "video_id" not in has:
        chosen = "users"
    else:
        chosen = hinted
    if not chosen:
        return None
    guess = guesses[chosen]
    words = 2 * (hinted == chosen) + bool(group.days) + guess.is_complete
    others = {*re.split(r"[^a-z]+", group.pattern.lower())} & {*_NOT_LOGS}
    return replace(guess, certainty=words - 3 * bool(others))


def _describes_users(guess: TableGuess, hinted: str) -> bool:
    """Return whether a table may be that of the users: their ids alone say nothing."""
    known = [ours for ours, theirs in guess.columns.items() if theirs != ABSENT]
    return not guess.lacking and hinted not in ("searches", "videos") and (hinted == "users" or len(known) > 1)


def _hint(pattern: str) -> str:
    """Return the table that the words of a path name; those of the last folders and the file count first."""
    for part in reversed(pattern.lower().split("/")):
        for table, words in _WORDS.items():
            if any(word in part for word in words):
                return table
    return ""


def guess_columns(group: LogGroup, table: str, given: Mapping[str, str]) -> TableGuess:
    """Return the columns of a group as those of a table. given: our name -> theirs, named by the user."""
    log_table = TABLES[table]
    columns, problems = dict(given), list[str]()
    order = [*log_table.required, *log_table.any_of]
    for ours in (*order, *(name for name in log_table.optional if name not in order)):
        if ours in columns:
            continue
        found, why = _find(group, table, ours, used=set(columns.values()))
        problems += why
        if found:
            columns[ours] = found
        elif ours in group.columns:  # the column would be read, but holds something else
            columns[ours] = ABSENT
    question = ""
    if table in ("watches", "impressions") and not given.get("watch_seconds"):
        columns, question = _length_or_watch_time(group, columns)
    lacking = [ours for ours in log_table.required if columns.get(ours, ABSENT) == ABSENT]
    if not lacking and log_table.any_of and all(columns.get(ours, ABSENT) == ABSENT for ours in log_table.any_of):
        lacking = [] if question else list(log_table.any_of)
    if table == "impressions":
        columns, lacking = _own_page(columns, lacking)
    return TableGuess(
        table=table,
        group=group,
        columns=columns,
        lacking=tuple(lacking),
        problems=tuple(dict.fromkeys(problems)),
        question=question,
    )


def _own_page(columns: dict[str, str], lacking: list[str]) -> tuple[dict[str, str], list[str]]:
    """Let the time identify the page if impressions have no id of it: videos shown at the same time are a page."""
    if lacking == ["page_id"] and "clicked" in columns and "time" in columns:
        return columns | {"page_id": columns["time"]}, []
    return columns, lacking


def _find(group: LogGroup, table: str, ours: str, *, used: set[str]) -> tuple[str, list[str]]:
    """Return the column of a group that holds one of ours, and why columns with its name do not."""
    problems = []
    for theirs in _named(group.columns, table, ours):
        if theirs not in used:
            problem = _problem(group.raw, ours, theirs)
            if not problem:
                return theirs, []
            problems.append(f"{theirs} cannot be {ours}: {problem}")
    return "", problems


def _named(columns: Iterable[str], table: str, ours: str) -> Iterator[str]:
    """Yield the columns whose name means one of ours, the most certain ones first."""
    by_name: dict[str, list[str]] = {}
    for column in columns:
        for spelling in dict.fromkeys((_plain(column), _plain(_UNIT.sub("", column)))):
            by_name.setdefault(spelling, []).append(column)
    names = (ours, *_MORE_NAMES.get(ours, ()), *OTHER_NAMES.get(ours, ()), *_OF_TABLE.get((table, ours), ()))
    if ours == "time":  # a date without a time of day comes last
        names = (*(name for name in names if name not in _LAST_TIMES), *_LAST_TIMES)
    yield from dict.fromkeys(column for name in names for column in by_name.get(_plain(name), ()))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _problem(raw: pl.DataFrame, ours: str, theirs: str) -> str:
    """Return why a column does not hold values of one of ours; empty if it does, or if it has no values."""
    if theirs not in raw.columns:
        return "it has objects or lists, not one value per row"
    values = raw.select(pl.col(theirs).alias(ours))
    if values[ours].dtype == pl.String:
        values = values.filter(~pl.col(ours).is_in(NULL_WORDS))
    present = values[ours].count()
    if not present:
        return ""
    if ours in ("user_id", "video_id", "page_id"):
        return "" if parse_ids(values[ours]).count() >= _MANY_IDS * present else "its values are no ids"
    if ours in USUAL_SECONDS and _MILLISECONDS.search(theirs):
        return "it is in milliseconds: divide it by 1,000 where the logs are written"
    if ours in USUAL_SECONDS and _OTHER_UNITS.search(theirs):
        return "its name says that it is not in seconds"
    if ours not in _CHECKED:
        return ""
    read = values.select(*RawColumns(values).convert(ours))[ours].drop_nulls()
    if len(read) < _MOSTLY * present:
        return _CHECKED[ours]
    return _implausible(read, ours)


_CHECKED = {
    "time": "its values are no times: write ISO 8601, epoch seconds or epoch milliseconds",
    "upload_time": "its values are no times",
    "completed": "its values are not true and false, or 1 and 0",
    "clicked": "its values are not true and false, or 1 and 0",
    "available": "its values are not true and false, or 1 and 0",
    "signed_in": "its values are not true and false, or 1 and 0",
    "watch_seconds": "its values are no numbers",
    "video_seconds": "its values are no numbers",
    "birth_year": "its values are no years",
    "position": "its values are no numbers",
}


def _implausible(read: pl.Series, ours: str) -> str:
    """Return why values that can be read are implausible; empty if they are not."""
    if ours == "time":
        middle = read.sort()[len(read) // 2]
        if middle < FIRST_TIME:
            return "its values, read as times, are before 1990: write ISO 8601, epoch seconds or epoch milliseconds"
        return "" if middle.year <= dt.date.today().year + 1 else "its values, read as times, are years ahead"
    if ours in USUAL_SECONDS:
        positive = read.filter(read > 0)
        typical = float(positive.median() or 0)  # type: ignore[arg-type]
        return "" if typical <= USUAL_SECONDS[ours] else "its values are probably milliseconds: divide them by 1,000"
    if ours == "birth_year" and int(read.is_between(FIRST_BIRTH_YEAR, dt.date.today().year).sum()) < len(read) / 2:
        return "its values are not years such as 1990"
    return ""


def _length_or_watch_time(group: LogGroup, columns: dict[str, str]) -> tuple[dict[str, str], str]:
    """Decide what a column such as `duration` is if nothing else says how much was watched: it differs between the
    watches of a video if it is the watch time. Return the columns, and a question if the values do not decide it."""
    is_known = any(columns.get(ours, ABSENT) != ABSENT for ours in ("completed", "watch_seconds"))
    theirs, video = columns.get("video_seconds", ABSENT), columns.get("video_id", ABSENT)
    if (
        is_known
        or ABSENT in (theirs, video)
        or _plain(theirs) == "videoseconds"
        or not {theirs, video} <= {*group.raw.columns}
    ):
        return columns, ""
    several = (
        group.raw.group_by(video).agg(pl.len(), pl.col(theirs).n_unique().alias("values")).filter(pl.col("len") > 1)
    )
    varies = float((several["values"] > 1).mean() or 0) if several.height else 0.0  # type: ignore[arg-type]
    if several.height >= 3 and varies > 0.5:
        return {ours: name for ours, name in columns.items() if ours != "video_seconds"} | {"watch_seconds": theirs}, ""
    return columns, f"watch_seconds={theirs}" if several.height < 3 else ""


def has_local_times(group: LogGroup, theirs: str) -> bool:
    """Return whether a column has times of day without an offset, so that their time zone is not known."""
    if theirs not in group.raw.columns:
        return False
    values = group.raw[theirs]
    if isinstance(values.dtype, pl.Datetime):
        return values.dtype.time_zone is None
    if values.dtype != pl.String:
        return False
    clock = values.drop_nulls().filter(values.drop_nulls().str.contains(r"\d\d:\d\d"))
    return any(not _OFFSET.search(value) for value in clock.head(1_000))


def newest_day(guess: TableGuess, zone: str) -> dt.date | None:
    """Return the day of the newest event of a table, or of the newest file of a path with {date}; None if unknown.

    Reads at most `_NEWEST_ROWS` rows. Raises LogError.
    """
    if guess.group.days:
        return dt.date.fromisoformat(guess.group.days[-1])
    table, theirs = LogTable(name=guess.table, required=("time",)), {"time": guess.columns["time"]}
    newest, rows = None, 0
    for file in reversed(guess.group.files):
        for frame in read_log(file.path, table, theirs):
            times = frame.rows.select(*RawColumns(frame.rows).convert("time", zone=zone))["time"].drop_nulls()
            if len(times):
                newest = max(filter(None, (newest, times.sort()[-1])))
            rows += frame.rows.height
        if rows > _NEWEST_ROWS:
            break
    return local_date(newest, zone) if newest else None


def known_columns(table: str) -> tuple[str, ...]:
    """Return our names of the columns of a table."""
    return COLUMNS[table]
