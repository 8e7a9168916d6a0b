"""Which raw files a job's log paths name: a file, a folder, a glob, or one of those for each day (`{date}`).

A path is a pattern only if it has `*`, `?` or `[` and no file or folder has exactly that name. `*` and `?` stay within
one folder, `**` is any number of folders, none included. The folder of the job file, which relative paths begin with,
is escaped (`paths.escape_pattern`), so that it is never a part of the pattern.
"""

from __future__ import annotations

import datetime as dt
import glob
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from apache_beam.io.filesystems import FileSystems

from pipelines.base.snapshot_store import TakenFile
from transforms.core import files
from transforms.core.printable import printable
from transforms.logs.bigquery_source import PREFIX
from transforms.logs.readers import LOG_ENDING, LOG_ENDINGS, LogError, LogSettingError, folder_values

# Files that other programs write beside data and that hold no rows: nobody misses them.
_MARKER = re.compile(
    r"_SUCCESS|_(common_)?metadata|_(started|committed)_\S*|.*\.(crc|md5|sha1|sha256|asc)|.*_\$folder\$|"
    r"\.DS_Store|\.git(ignore|keep|attributes)|\.keep|Thumbs\.db|desktop\.ini|README(\.\w+)?|",
    re.IGNORECASE,
)
_SHOWN = 5  # names of files in a message
_ESCAPE = re.compile(r"\[([*?\[{])\]")


@dataclass(frozen=True, kw_only=True)
class RawFiles:
    """The raw files of one table, sorted by path, and with `{date}` the days that have one, in order."""

    files: tuple[TakenFile, ...] = ()
    days: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()  # paths of files below a folder, or matched by a glob, that are not read; sorted
    keys: tuple[str, ...] = ()  # of the folders named `key=value` that the setting does not spell out; sorted


def find(
    setting: str,
    pattern: str,
    *,
    start: dt.date,
    end: dt.date,
    seen: Collection[str] = (),
    allow_missing_days: bool = False,
) -> RawFiles:
    """The raw files of one table; with `{date}` those of the days from `start` up to but not `end`.

    `seen`: days that had a file before, which may be gone since. Raises LogError, naming the setting, where there is no
    file at all, and for days without one after the first that had one, but with `allow_missing_days`.
    """
    if not pattern.strip():
        raise LogSettingError(f"{setting} is empty: give a file, a folder or a glob")
    if pattern.startswith(PREFIX):
        return RawFiles(files=(_table(setting, pattern, end),))
    if "{date}" not in pattern:
        if not (matched := _match(pattern)).taken:
            raise LogSettingError(_nothing(setting, pattern, "", matched.passed_over))
        return _found(pattern, [matched])
    days = [(start + dt.timedelta(days=n)).isoformat() for n in range((end - start).days)]
    by_day = {day: _match(pattern.replace("{date}", day)) for day in days}
    passed_over = [path for matched in by_day.values() for path in matched.passed_over]
    by_day = {day: matched for day, matched in by_day.items() if matched.taken}
    if not by_day and not set(days) & set(seen):
        span = f" on a day from {days[0]} to {days[-1]}, the window of {end}" if days else ""
        # Where files of earlier days were read, the pattern is right, and those of these days are late.
        kind = LogError if seen else LogSettingError
        raise kind(_nothing(setting, pattern, span, passed_over))
    if not allow_missing_days:
        _check_days(setting, pattern, days, {*by_day, *seen})
    return _found(pattern, [_Matched(passed_over=passed_over), *by_day.values()], days=tuple(by_day))


def describe_passed_over(found: RawFiles) -> str:
    """How many files of a table were passed over, the names of the first ones, and which files are read; empty where
    none was."""
    if not found.passed_over:
        return ""
    names = found.passed_over
    return (
        f"{len(names):,} file{'s were' if len(names) > 1 else ' was'} passed over: {_shown(names)}. Files are read if "
        f"their names end in {LOG_ENDINGS}, and neither these names nor those of their folders begin with . or _"
    )


def describe_ignored_keys(found: RawFiles, columns: Iterable[str]) -> str:
    """Which keys of folders named `key=value` are not read; empty where there is none. columns: the names, as the logs
    have them, of all columns that the table knows."""
    ignored = sorted(set(found.keys) - set(columns))
    if not ignored:
        return ""
    named = ", ".join(map(printable, ignored))
    return f"folders give values of {named}, which this table does not read; [logs.columns] renames columns"


def oldest_first(pattern: str, taken: Iterable[TakenFile]) -> list[tuple[str, TakenFile]]:
    """The day and the file of each raw file of a path with `{date}`, by day; of any other path with "" for the day. Of
    one day, by the time of change, then by path."""
    given = [(_day_in(pattern, file.path), file) for file in taken]
    return sorted(given, key=lambda one: (one[0], one[1].changed, one[1].path))


def _day_in(pattern: str, path: str) -> str:
    """The day that stands for `{date}` in the path of a file that the pattern names."""
    if "{date}" not in pattern:
        return ""
    rest = path[len(literal_prefix(pattern).rstrip("/")) :].lstrip("/")
    found = list(re.finditer(r"\d{4}-\d\d-\d\d", rest)) or list(re.finditer(r"\d{4}-\d\d-\d\d", path))
    return (found[0] if found[0].start() == 0 else found[-1])[0] if found else ""


def literal_prefix(pattern: str) -> str:
    """The folder, or the file, that a path or glob names before its first wildcard or `{date}`."""
    first = pattern.split("{date}")[0]
    return _parse_pattern(first, plain=not _is_glob(first)).literal


def would_read(pattern: str, path: str) -> bool:
    """Whether a log file at `path` would be one of the raw files that a path, folder or glob names."""
    given = _parse_pattern(pattern.replace("{date}", "2000-01-01"), plain=not _is_glob(pattern))
    places = {path}
    if files.is_local(path):
        real, folder = os.path.realpath(path), given.literal.rstrip("/")
        top = os.path.realpath(folder)
        places |= {folder + real[len(top.rstrip("/")) :]} if f"{real}/".startswith(f"{top.rstrip('/')}/") else set()
    return any(given.regex.fullmatch(place) and not given.hidden_part(place) for place in places)


def lies_within(pattern: str, folder: str) -> bool:
    """Whether all that a path, folder or glob names lies within a folder."""
    place = _parse_pattern(pattern, plain=not _is_glob(pattern)).literal
    if files.is_local(folder):
        place, folder = os.path.realpath(place), os.path.realpath(folder)
    return f"{place.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def first_within(files_found: Iterable[TakenFile], folders: Collection[str]) -> str:
    """The path of the first local file that lies in one of some folders, by whatever link; empty if none does."""
    real = [f"{os.path.realpath(folder)}/" for folder in folders if files.is_local(folder)]
    place: dict[str, str] = {}
    for file in files_found if real else ():
        folder = os.path.dirname(file.path)
        if f"{place.setdefault(folder, os.path.realpath(folder))}/".startswith(tuple(real)):
            return file.path
    return ""


def _found(pattern: str, matches: Iterable[_Matched], days: tuple[str, ...] = ()) -> RawFiles:
    every = list(matches)
    taken = sorted({file for matched in every for file in matched.taken})
    keys = {key for file in taken for key in folder_values(file.path)} - set(folder_values(f"{pattern}/"))
    passed_over = sorted({path for matched in every for path in matched.passed_over})
    return RawFiles(files=tuple(taken), days=days, passed_over=tuple(passed_over), keys=tuple(sorted(keys)))


def _nothing(setting: str, pattern: str, span: str, passed_over: Collection[str] = ()) -> str:
    others = f"; {len(passed_over):,} were passed over: {_shown(passed_over)}" if passed_over else ""
    return f"{setting} = {_unescaped(pattern)!r}: no log files there{span} ({LOG_ENDINGS}){others}"


def _shown(paths: Collection[str]) -> str:
    names = [printable(re.sub(r".*/(?=.)", "", path)) for path in sorted(paths)]
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _check_days(setting: str, pattern: str, days: list[str], there: set[str]) -> None:
    missing = [day for day in days if day not in there and day > min(there)]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise LogError(
            f"{setting} = {_unescaped(pattern)!r}: no file for {shown}, though the logs begin on {min(there)}: "
            f"wait for it, check --date, or say allow_missing_days = true ([logs]) where a day may have none"
        )


def _table(setting: str, name: str, end: dt.date) -> TakenFile:
    """A BigQuery table as the one raw file of a date: its rows change, so each night reads its window anew."""
    if not re.fullmatch(r"[\w:.-]+\.\w+\.[\w-]+", name.removeprefix(PREFIX)):
        raise LogSettingError(
            f"{setting} = {name!r}: a BigQuery table is named {PREFIX}project.dataset.table, without {{date}}"
        )
    day = dt.datetime.combine(end, dt.time(), dt.UTC)
    return TakenFile(path=name, bytes=0, changed=day.timestamp())


@dataclass(frozen=True)
class _Matched:
    """The files that one path or glob names."""

    taken: list[TakenFile] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)


def _match(pattern: str) -> _Matched:
    """Files a path or glob names; of a folder, all log files below it.

    What begins with . or _, or lies in a folder that does, is not a log unless the pattern spells it out: other
    programs keep unfinished files there.
    """
    plain = not _is_glob(pattern) or ("*" not in pattern and files.exists(_unescaped(pattern)))
    given = _parse_pattern(pattern, plain=plain)
    matched = _Matched()
    for path, entry in _listed(given):
        if path != given.plain and not given.regex.fullmatch(path):
            continue
        hidden = given.hidden_part(path)
        if entry and (path == given.plain or (LOG_ENDING.search(path) and not hidden)):
            matched.taken.append(entry)
        elif not _MARKER.fullmatch(path.rsplit("/", 1)[-1]):
            matched.passed_over.append(hidden or path)
    return matched


@dataclass(frozen=True, kw_only=True)
class _Pattern:
    """A path or glob, taken apart."""

    text: str  # as Beam takes it
    plain: str | None  # the path it is, None of a glob
    literal: str  # the folder it spells out, up to the first part with a wildcard
    regex: re.Pattern[str]  # of the files it matches and of those below what it matches

    def hidden_part(self, path: str) -> str:
        """A path up to its first name that begins with . or _ and that the pattern does not spell out, else empty."""
        found = re.search(r"(?:^|/)[._][^/]*/?", path[len(self.literal) :])
        return path[: len(self.literal) + found.end()] if found else ""


def _parse_pattern(pattern: str, *, plain: bool) -> _Pattern:
    pattern = pattern.rstrip("/") or "/"
    text = glob.escape(_unescaped(pattern)) if plain else pattern
    spelled_out = re.match(r"(?:[^*?\[]|\[[*?\[{]\])*/|", text)
    literal = _unescaped(spelled_out[0] if spelled_out else "")
    regex = re.compile(rf"{_regex(text)}(/.*)?", re.DOTALL)
    if plain:
        return _Pattern(text=text, plain=_unescaped(pattern), literal=f"{_unescaped(pattern)}/", regex=regex)
    return _Pattern(text=text, plain=None, literal=literal, regex=regex)


def _unescaped(pattern: str) -> str:
    return _ESCAPE.sub(r"\1", pattern)


def _is_glob(pattern: str) -> bool:
    return bool(re.search(r"[*?\[]", _ESCAPE.sub("", pattern)))


_TOKEN = re.compile(r"(?P<folders>(?<=/)\*\*/)|(?P<all>\*\*)|(?P<some>\*)|(?P<one>\?)|\[(?P<set>!?\]?[^\]]*)\]")


def _regex(pattern: str) -> str:
    """A regular expression for what a glob matches."""
    parts, at = [], 0
    for token in _TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[at : token.start()]))
        at = token.end()
        kind = token.lastgroup
        if kind == "set":
            inside = token["set"].replace("\\", r"\\").replace("[", r"\[")
            inside = re.sub(r"^(!?)(\]?)", lambda m: ("^" if m[1] else "") + (r"\]" if m[2] else ""), inside)
            parts.append(f"[{inside}]")
        else:
            parts.append({"folders": "(?:.*/)?", "all": ".*", "some": "[^/]*", "one": "[^/]"}[str(kind)])
    return "".join([*parts, re.escape(pattern[at:])])


Listed = tuple[str, TakenFile | None]  # a path, and its file; None where it cannot be read


def _listed(pattern: _Pattern) -> Iterator[Listed]:
    """Files that a pattern may match: of a local one also those in linked folders."""
    try:
        if files.is_local(pattern.literal or "."):
            top = pattern.plain if pattern.plain is not None else pattern.literal.rstrip("/") or "/"
            yield from _walk(top) if os.path.isdir(top) else filter(None, [_local_file(top)])
            return
        texts = [pattern.text, f"{pattern.text}/**"]
        if pattern.plain is None:  # Beam's `/**/` is one folder at least
            texts = [f"{glob.escape(pattern.literal)}**"]
        found = FileSystems.match(texts)
    except Exception as error:
        raise LogError(f"{_unescaped(pattern.text)}: cannot be listed ({error})") from error
    listed = {entry.path: entry for result in found for entry in result.metadata_list}
    for path, entry in listed.items():
        yield path, TakenFile(path=path, bytes=entry.size_in_bytes, changed=entry.last_updated_in_seconds or 0.0)


def _walk(top: str) -> Iterator[Listed]:
    """All files below a local folder and the folders linked there, each folder once: links may lead back."""
    tops, seen, closed = [top], set[tuple[int, int]](), list[OSError]()
    for start in tops:  # linked folders come last, so that a file goes by the path that has no link
        for folder, below, names in os.walk(start, onerror=closed.append):
            place = os.stat(folder)
            if (place.st_dev, place.st_ino) in seen:
                below.clear()
                continue
            seen.add((place.st_dev, place.st_ino))
            below.sort()
            tops += [path for name in below if os.path.islink(path := os.path.join(folder, name))]
            yield from filter(None, (_local_file(os.path.join(folder, name)) for name in names))
    yield from ((str(error.filename), None) for error in closed)


def _local_file(path: str) -> Listed | None:
    """A local file; None of one that is gone."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (path, None) if os.path.islink(path) else None
    if not stat.S_ISREG(found.st_mode):
        return path, None
    return path, TakenFile(path=path, bytes=found.st_size, changed=found.st_mtime)
