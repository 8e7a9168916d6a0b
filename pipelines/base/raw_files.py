"""Find the raw files that a job's log paths name: a file, a folder, a glob, or one of those per day (`{date}`).

A path is a glob if it contains `*`, `?` or `[` and no file or folder has exactly that name. `*` and `?` match within
one folder; `**` matches zero or more folders. The folder of the job file, which is put before relative paths, is
escaped (`paths.escape_pattern`) and therefore always literal.
"""

from __future__ import annotations

import datetime as dt
import glob
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipelines.base.snapshot_store import TakenFile
from transforms.core import files
from transforms.core.beam_files import FileSystems
from transforms.core.messages import printable
from transforms.logs.readers import LOG_ENDING, LOG_ENDINGS, LogError, LogSettingError, partition_values
from transforms.logs.schemas import BIGQUERY_PREFIX

# Files without rows that other programs write next to data: they are ignored without a message.
_MARKER = re.compile(
    r"_SUCCESS|_(common_)?metadata|_(started|committed)_\S*|.*\.(crc|md5|sha1|sha256|asc)|.*_\$folder\$|"
    r"\.DS_Store|\.git(ignore|keep|attributes)|\.keep|Thumbs\.db|desktop\.ini|README(\.\w+)?|",
    re.IGNORECASE,
)
_MAX_NAMES = 5  # names of files or days in a message
_ESCAPE = re.compile(r"\[([*?\[{])\]")


@dataclass(frozen=True, kw_only=True)
class RawFiles:
    """The raw files of one table, sorted by path, and the days with a file if the path contains `{date}`."""

    files: tuple[TakenFile, ...] = ()
    days: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # paths of files in a folder, or matched by a glob, that are not read; sorted
    keys: tuple[str, ...] = ()  # of `key=value` folders that are not part of the setting; sorted


def find(
    setting: str,
    pattern: str,
    *,
    start: dt.date,
    end: dt.date,
    seen: Collection[str] = (),
    allow_missing_days: bool = False,
) -> RawFiles:
    """Find the raw files of one table; with `{date}`, those of the days with start <= day < end.

    seen: days that had a file on an earlier night, whose files may be gone. Raises LogError, which names the setting,
    if there is no file at all, and, without `allow_missing_days`, if a day after the first one with a file has none.
    """
    if not pattern.strip():
        raise LogSettingError(f"{setting} is empty: give a file, a folder or a glob")
    if pattern.startswith(BIGQUERY_PREFIX):
        return RawFiles(files=(_table(setting, pattern, end),))
    if "{date}" not in pattern:
        if not (matched := _match(pattern)).taken:
            raise LogSettingError(_no_files_message(setting, pattern, "", matched.skipped))
        return _raw_files(pattern, [matched])
    days = [(start + dt.timedelta(days=n)).isoformat() for n in range((end - start).days)]
    by_day = {day: _match(pattern.replace("{date}", day)) for day in days}
    skipped = [path for matched in by_day.values() for path in matched.skipped]
    by_day = {day: matched for day, matched in by_day.items() if matched.taken}
    if not by_day and not set(days) & set(seen):
        span = f" on a day from {days[0]} to {days[-1]}, the window of {end}" if days else ""
        # If files of earlier days were read, the pattern is correct and the files of these days are late.
        kind = LogError if seen else LogSettingError
        raise kind(_no_files_message(setting, pattern, span, skipped))
    if not allow_missing_days:
        _check_days(setting, pattern, days, {*by_day, *seen})
    return _raw_files(pattern, [_Matches(skipped=skipped), *by_day.values()], days=tuple(by_day))


def describe_skipped(found: RawFiles) -> str:
    """Return a message on the skipped files, and on which files are read; empty if no file was skipped."""
    if not found.skipped:
        return ""
    return (
        f"{_skipped_text('file', found.skipped)}. A file is read if its name ends in {LOG_ENDINGS}, and neither its "
        "name nor that of its folders begins with . or _"
    )


def describe_ignored_keys(found: RawFiles, columns: Iterable[str]) -> str:
    """Return a message with the keys of `key=value` folders that are not read; empty if there are none.

    columns: the names, as in the logs, of all columns that the table reads.
    """
    if not (ignored := sorted(set(found.keys) - set(columns))):
        return ""
    keys = ", ".join(map(printable, ignored))
    return f"folder names give values of {keys}, which this table does not read; rename columns in [logs.columns]"


def oldest_first(pattern: str, taken: Iterable[TakenFile]) -> list[tuple[str, TakenFile]]:
    """Return (day, file) of raw files, ordered by day, time of change and path. Without `{date}`, the day is ""."""
    dated = [(_day_in(pattern, file.path), file) for file in taken]
    return sorted(dated, key=lambda pair: (pair[0], pair[1].changed, pair[1].path))


def _day_in(pattern: str, path: str) -> str:
    """Return the day at the position of `{date}` in the path of a matching file; "" for a pattern without `{date}`."""
    if "{date}" not in pattern:
        return ""
    rest = path[len(literal_prefix(pattern).rstrip("/")) :].lstrip("/")
    found = list(re.finditer(r"\d{4}-\d\d-\d\d", rest)) or list(re.finditer(r"\d{4}-\d\d-\d\d", path))
    return (found[0] if found[0].start() == 0 else found[-1])[0] if found else ""


def literal_prefix(pattern: str) -> str:
    """Return the folder or file that a path or glob names before its first wildcard or `{date}`."""
    first = pattern.split("{date}")[0]
    return _parse_pattern(first, plain=not _is_glob(first)).literal


def would_read(pattern: str, path: str) -> bool:
    """Return whether a log file at `path` would be one of the raw files that a path, folder or glob names."""
    parsed = _parse_pattern(pattern.replace("{date}", "2000-01-01"), plain=not _is_glob(pattern))
    places = {path}
    if files.is_local(path):
        real, folder = os.path.realpath(path), parsed.literal.rstrip("/")
        top = os.path.realpath(folder)
        places |= {folder + real[len(top.rstrip("/")) :]} if f"{real}/".startswith(f"{top.rstrip('/')}/") else set()
    return any(parsed.regex.fullmatch(place) and not parsed.hidden_part(place) for place in places)


def lies_within(pattern: str, folder: str) -> bool:
    """Return whether everything that a path, folder or glob names lies within a folder."""
    place = _parse_pattern(pattern, plain=not _is_glob(pattern)).literal
    if files.is_local(folder):
        place, folder = os.path.realpath(place), os.path.realpath(folder)
    return f"{place.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def first_within(files_found: Iterable[TakenFile], folders: Collection[str]) -> str:
    """Return the path of the first local file whose real path, links resolved, is in one of the folders; else ""."""
    real = [f"{os.path.realpath(folder)}/" for folder in folders if files.is_local(folder)]
    place: dict[str, str] = {}
    for file in files_found if real else ():
        folder = os.path.dirname(file.path)
        if f"{place.setdefault(folder, os.path.realpath(folder))}/".startswith(tuple(real)):
            return file.path
    return ""


def _raw_files(pattern: str, matches: Sequence[_Matches], days: tuple[str, ...] = ()) -> RawFiles:
    taken = sorted({file for matched in matches for file in matched.taken})
    keys = {key for file in taken for key in partition_values(file.path)} - set(partition_values(f"{pattern}/"))
    skipped = sorted({path for matched in matches for path in matched.skipped})
    return RawFiles(files=tuple(taken), days=days, skipped=tuple(skipped), keys=tuple(sorted(keys)))


def _no_files_message(setting: str, pattern: str, span: str, skipped: Collection[str]) -> str:
    others = f"; {_skipped_text('other file', skipped)}" if skipped else ""
    return f"{setting} = {_unescaped(pattern)!r}: no log files found{span} ({LOG_ENDINGS}){others}"


def _skipped_text(what: str, skipped: Collection[str]) -> str:
    return f"{len(skipped):,} {what}{'s were' if len(skipped) > 1 else ' was'} skipped: {_first_names(skipped)}"


def _first_names(paths: Collection[str]) -> str:
    names = [printable(re.sub(r".*/(?=.)", "", path)) for path in sorted(paths)]
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return f"{', '.join(names[:_MAX_NAMES])}{more}"


def _check_days(setting: str, pattern: str, days: list[str], with_file: set[str]) -> None:
    missing = [day for day in days if day not in with_file and day > min(with_file)]
    if missing:
        raise LogError(
            f"{setting} = {_unescaped(pattern)!r}: no file for {_first_names(missing)}, although the logs begin on "
            f"{min(with_file)}: wait for it, check --date, or set allow_missing_days = true ([logs]) if days may have "
            "no file"
        )


def _table(setting: str, name: str, end: dt.date) -> TakenFile:
    """Return a BigQuery table as the one raw file of a date: its rows change, so each night reads its window again."""
    if not re.fullmatch(r"[\w:.-]+\.\w+\.[\w-]+", name.removeprefix(BIGQUERY_PREFIX)):
        raise LogSettingError(
            f"{setting} = {name!r}: name a BigQuery table as {BIGQUERY_PREFIX}project.dataset.table, without {{date}}"
        )
    day = dt.datetime.combine(end, dt.time(), dt.UTC)
    return TakenFile(path=name, bytes=0, changed=day.timestamp())


@dataclass(frozen=True)
class _Matches:
    """The files that one path or glob matches."""

    taken: list[TakenFile] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def _match(pattern: str) -> _Matches:
    """List the files that a path or glob matches; for a folder, all log files below it.

    Files and folders whose names begin with . or _ are skipped unless the pattern contains the name: other programs
    keep unfinished files there.
    """
    plain = not _is_glob(pattern) or ("*" not in pattern and files.exists(_unescaped(pattern)))
    parsed = _parse_pattern(pattern, plain=plain)
    matched = _Matches()
    for path, file in _list(parsed):
        if path != parsed.plain and not parsed.regex.fullmatch(path):
            continue
        hidden = parsed.hidden_part(path)
        if file and (path == parsed.plain or (LOG_ENDING.search(path) and not hidden)):
            matched.taken.append(file)
        elif not _MARKER.fullmatch(path.rsplit("/", 1)[-1]):
            matched.skipped.append(hidden or path)
    return matched


@dataclass(frozen=True, kw_only=True)
class _Pattern:
    """A parsed path or glob."""

    text: str  # in Beam's syntax
    plain: str | None  # the literal path; None for a glob
    literal: str  # the folder before the first part with a wildcard
    regex: re.Pattern[str]  # matches the named files and all files below matching folders

    def hidden_part(self, path: str) -> str:
        """Return `path` up to its first name that begins with . or _ and is not in the literal part; else ""."""
        found = re.search(r"(?:^|/)[._][^/]*/?", path[len(self.literal) :])
        return path[: len(self.literal) + found.end()] if found else ""


def _parse_pattern(pattern: str, *, plain: bool) -> _Pattern:
    pattern = pattern.rstrip("/") or "/"
    path = _unescaped(pattern)
    text = glob.escape(path) if plain else pattern
    without_wildcard = re.match(r"(?:[^*?\[]|\[[*?\[{]\])*/|", text)
    literal = f"{path}/" if plain else _unescaped(without_wildcard[0] if without_wildcard else "")
    regex = re.compile(rf"{_regex(text)}(/.*)?", re.DOTALL)
    return _Pattern(text=text, plain=path if plain else None, literal=literal, regex=regex)


def _unescaped(pattern: str) -> str:
    return _ESCAPE.sub(r"\1", pattern)


def _is_glob(pattern: str) -> bool:
    return bool(re.search(r"[*?\[]", _ESCAPE.sub("", pattern)))


_TOKEN = re.compile(r"(?P<folders>(?<=/)\*\*/)|(?P<all>\*\*)|(?P<some>\*)|(?P<one>\?)|\[(?P<set>!?\]?[^\]]*)\]")


def _regex(pattern: str) -> str:
    """Return a regular expression that matches the same paths as a glob."""
    parts, position = [], 0
    for token in _TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[position : token.start()]))
        position = token.end()
        kind = token.lastgroup
        if kind == "set":
            inside = token["set"].replace("\\", r"\\").replace("[", r"\[")
            inside = re.sub(r"^(!?)(\]?)", lambda m: ("^" if m[1] else "") + (r"\]" if m[2] else ""), inside)
            parts.append(f"[{inside}]")
        else:
            parts.append({"folders": "(?:.*/)?", "all": ".*", "some": "[^/]*", "one": "[^/]"}[str(kind)])
    return "".join([*parts, re.escape(pattern[position:])])


Listed = tuple[str, TakenFile | None]  # a path and its file; None if it cannot be read


def _list(pattern: _Pattern) -> Iterator[Listed]:
    """Yield the files that a pattern may match; on local disks also those in linked folders."""
    try:
        if files.is_local(pattern.literal or "."):
            top = pattern.plain if pattern.plain is not None else pattern.literal.rstrip("/") or "/"
            yield from _walk(top) if os.path.isdir(top) else filter(None, [_local_file(top)])
            return
        texts = [pattern.text, f"{pattern.text}/**"]
        if pattern.plain is None:  # Beam's `/**/` matches at least one folder
            texts = [f"{glob.escape(pattern.literal)}**"]
        found = FileSystems.match(texts)
    except Exception as error:
        raise LogError(f"{_unescaped(pattern.text)}: cannot be listed ({error})") from error
    listed = {entry.path: entry for result in found for entry in result.metadata_list}
    for path, entry in listed.items():
        yield path, TakenFile(path=path, bytes=entry.size_in_bytes, changed=entry.last_updated_in_seconds or 0.0)


def _walk(top: str) -> Iterator[Listed]:
    """Yield all files below a local folder and below linked folders, each folder once, because links may be cyclic."""
    tops, seen, errors = [top], set[tuple[int, int]](), list[OSError]()
    for start in tops:  # linked folders come last, so that the path of a file contains no link if possible
        for folder, below, names in os.walk(start, onerror=errors.append):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                below.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            below.sort()
            tops += [path for name in below if os.path.islink(path := os.path.join(folder, name))]
            yield from filter(None, (_local_file(os.path.join(folder, name)) for name in names))
    yield from ((str(error.filename), None) for error in errors)


def _local_file(path: str) -> Listed | None:
    """Return a local file; None if it has been removed."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return (path, None) if os.path.islink(path) else None
    if not stat.S_ISREG(status.st_mode):
        return path, None
    return path, TakenFile(path=path, bytes=status.st_size, changed=status.st_mtime)
