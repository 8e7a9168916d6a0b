"""Doctor's check of the logs: whether files exist and can be read, and how ingest would parse their rows.

Uses the code of ingest to find, read and parse files, so that rows are rejected for the same reasons. Reads the whole
catalogue, and the first rows of some files of the other tables.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from pipelines.base import raw_files
from pipelines.checks import joins
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, ok, problem, warning
from pipelines.checks.inspected_logs import InspectedLogs
from pipelines.config.settings import TABLES, Privacy
from pipelines.logs import ingest_plan
from transforms.logs.readers import LogTable
from transforms.logs.schemas import BIGQUERY_PREFIX

SHOWN_ROWS, SHOWN_REASONS, CELL = 3, 5, 24
FEW_KNOWN = 0.5  # share of watches whose video is in the catalogue, below which a warning is given

CLOSE = 0.78  # least similarity of two spellings to suggest one for the other
OTHER_NAMES = {
    "user_id": ("uid", "user", "member_id", "account_id", "customer_id", "visitor_id", "profile_id", "viewer_id"),
    "video_id": ("vid", "video", "item_id", "item", "movie_id", "content_id", "asset_id", "title_id", "media_id"),
    "time": ("timestamp", "ts", "datetime", "event_time", "created_at", "date", "time_ms", "start_time", "at"),
    "completed": ("complete", "is_completed", "finished", "watched_fully"),
    "watch_seconds": ("watch_time", "watched_seconds", "seconds_watched", "play_time", "play_seconds", "playtime"),
    "video_seconds": ("duration", "video_duration", "duration_seconds", "length", "length_seconds"),
    "signed_in": ("logged_in", "is_signed_in", "is_logged_in"),
    "country": ("country_code", "geo", "geo_country"),
    "device": ("device_type", "platform", "client"),
    "query": ("search", "search_query", "q", "term", "search_term", "keyword", "keywords", "text"),
    "upload_time": ("uploaded_at", "upload_date", "published_at", "publish_time", "release_date"),
    "title": ("name", "video_title"),
    "channel": ("channel_id", "author", "author_id", "creator", "uploader"),
    "language": ("lang", "language_code"),
    "gender": ("sex",),
    "birth_year": ("year_of_birth", "yob", "born"),
}


def logs(request: DoctorRequest) -> Iterator[Finding]:
    """Check the files, columns and rows of each table, and whether ids match across tables."""
    inspected, job = request.logs, request.night.job
    if inspected.privacy_error:
        yield problem(
            "privacy", inspected.privacy_error, "correct [privacy], or the environment of the night's process"
        )
    for name in TABLES:
        if getattr(job.logs, name) is None:
            continue
        if name in inspected.failed:
            yield _unreadable(request, inspected, name)
        elif name in inspected.samples:
            yield from _columns(request, inspected, name)
            yield _rows(request, inspected, name)
        else:
            yield warning(
                f"logs.{name}", "BigQuery tables are not checked", "see docs/logs.md for the required columns"
            )
    yield from _files(request, inspected)
    yield from joins.check_forget_list(request)
    yield from (one for one in joins.check_tables(request) if one.state != "ok")
    yield from _one_world(inspected)


def _files(request: DoctorRequest, inspected: InspectedLogs) -> Iterator[Finding]:
    """Check for files that a night would skip, and for values in folder names that it would not read."""
    found = {name: files for name, files in inspected.found.items() if name not in inspected.failed}
    job = request.night.job
    if inspected.privacy_error:
        job = job.model_copy(update={"privacy": Privacy()})
    for setting, text in ingest_plan.file_notes(job, found):
        fix = "rename or convert files that belong to the logs, and move other files; or use a glob that excludes them"
        yield warning(setting, text, fix)


def _unreadable(request: DoctorRequest, inspected: InspectedLogs, name: str) -> Finding:
    """Return the finding for a table that does not exist, cannot be read, or lacks columns."""
    table, columns = inspected.tables.get(name), inspected.columns.get(name)
    given = request.night.job.logs.renamed(name)
    if table is None or not columns:
        fix = _path_advice(getattr(request.night.job.logs, name)) if table is None else "see docs/logs.md"
        return problem(f"logs.{name}", inspected.failed[name], fix)
    lacking = [ours for ours in table.required if given.get(ours, ours) not in columns]
    if not lacking and not any(given.get(ours, ours) in columns for ours in table.any_of):
        lacking = list(table.any_of)
    return problem(
        f"logs.{name}", inspected.failed[name], renaming_advice(name, lacking, _unused(table, given, columns))
    )


def _columns(request: DoctorRequest, inspected: InspectedLogs, name: str) -> Iterator[Finding]:
    """Check for optional columns that the files may have under another name."""
    table, columns, given = inspected.tables[name], inspected.columns[name], request.night.job.logs.renamed(name)
    unused = _unused(table, given, columns)
    lacking = [ours for ours in table.optional if given.get(ours, ours) not in columns and nearest_column(ours, unused)]
    if lacking:
        what = f"{', '.join(lacking)}: no such column, but one with a similar name"
        yield warning(f"logs.{name}", what, renaming_advice(name, lacking, unused))


def _unused(table: LogTable, given: dict[str, str], columns: list[str]) -> list[str]:
    """Return the columns of a file that the table does not read."""
    used = {given.get(ours, ours) for ours in (*table.required, *table.optional)}
    return [column for column in columns if column not in used]


def _rows(request: DoctorRequest, inspected: InspectedLogs, name: str) -> Finding:
    """Return the finding about how ingest would parse the sampled rows."""
    sample = inspected.samples[name]
    valid, rejected = sample.valid, sample.rejected
    read = valid.height + rejected.height
    files = f"{len(sample.files):,} file{'s' if len(sample.files) != 1 else ''}, about {sample.rows:,} rows"
    shown = () if inspected.privacy_error else tuple(as_table(sample.parts[-1].valid.head(SHOWN_ROWS)))
    if not read:
        return problem(f"logs.{name}", f"{files}: the sampled files have no rows", "is the path correct?")
    if rejected.is_empty():
        return ok(f"logs.{name}", f"{files}; all {read:,} sampled rows can be read; from the newest file:", *shown)
    limit = request.night.job.logs.max_reject_fraction
    what = f"{files}; {rejected.height:,} of {read:,} sampled rows would be rejected"
    reasons = tuple(_reasons(rejected, with_text=not inspected.privacy_error))
    if rejected.height > limit * read:
        fix = "correct or filter them where the logs are written; rejects/ of a night lists examples of each reason"
        above = f"{what}, above max_reject_fraction = {limit:g}: the night would fail"
        return problem(f"logs.{name}", above, fix, *reasons, *shown)
    return warning(f"logs.{name}", what, "they are skipped and listed in rejects/ of the night", *reasons, *shown)


def _reasons(rejected: pl.DataFrame, *, with_text: bool) -> Iterator[str]:
    """Yield the most frequent reasons, each with an example row."""
    counted = (
        rejected.group_by("reason").agg(pl.len(), pl.all().first()).sort("len", "reason", descending=[True, False])
    )
    for row in counted.head(SHOWN_REASONS).iter_rows(named=True):
        text = f": {row['text']}" if with_text and row["text"] else ""
        yield f"{row['len']:,} x {row['reason']}; {Path(row['file']).name} row {row['row']}{text}"


def _one_world(inspected: InspectedLogs) -> Iterator[Finding]:
    """Check whether the watched videos are in the catalogue: other videos are never recommended."""
    watches, videos = inspected.samples.get("watches"), inspected.samples.get("videos")
    if watches is None or videos is None or watches.valid.is_empty():
        return
    if videos.rows > 2 * (videos.valid.height + videos.rejected.height):
        return  # too large to read completely
    known = watches.valid.join(videos.valid.select("video_id").unique(), on="video_id", how="semi").height
    share = known / watches.valid.height
    if share >= FEW_KNOWN:
        yield ok("catalogue", f"it contains the videos of {share:.1%} of the watches")
        return
    few = [frame["video_id"].unique().sort().head(2).to_list() for frame in (watches.valid, videos.valid)]
    what = f"it contains the videos of {share:.1%} of the watches; other videos are never recommended"
    fix = f"are the ids the same? watches have {', '.join(few[0])}, the catalogue {', '.join(few[1]) or 'none'}"
    yield (problem if not known else warning)("catalogue", what, fix)


def _path_advice(pattern: str) -> str:
    """Return the fix for a path without files, with the content of its nearest existing folder."""
    if "://" in pattern or pattern.startswith(BIGQUERY_PREFIX):
        return "check the path, and that this machine has read access"
    folder = Path(raw_files.literal_prefix(pattern) or ".")
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"check the path: {folder} contains {', '.join(names[:5]) or 'nothing'}{more}"


def as_table(rows: pl.DataFrame) -> Iterator[str]:
    """Format rows as lines: a heading, then one line per row, with cells truncated to `CELL`, without empty columns."""
    shown = [column for column in rows.columns if rows[column].null_count() < rows.height]
    cells = [[column, *(_cell(value) for value in rows[column])] for column in shown]
    widths = [max(map(len, column)) for column in cells]
    for line in zip(*cells, strict=True):
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cell(value: object) -> str:
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= CELL else f"{text[: CELL - 1]}…"


def nearest_column(ours: str, columns: Sequence[str]) -> str | None:
    """Return the column of a file whose name resembles ours or a common synonym of it, or None."""
    by_spelling = {_plain(column): column for column in reversed(columns)}
    for name in (ours, *OTHER_NAMES.get(ours, ())):
        if _plain(name) in by_spelling:
            return by_spelling[_plain(name)]
    close = difflib.get_close_matches(_plain(ours), list(by_spelling), 1, cutoff=CLOSE)
    return by_spelling[close[0]] if close else None


def renaming_advice(table: str, lacking: Sequence[str], columns: Sequence[str]) -> str:
    """Return what to write into the job file for columns that a table lacks. columns: unused columns of its files."""
    pairs = [(ours, theirs) for ours in lacking if (theirs := nearest_column(ours, columns))]
    if pairs:
        lines = "; ".join(f'{ours} = "{theirs}"' for ours, theirs in pairs)
        return f"if these are the columns, write below [logs.columns.{table}]: {lines}"
    return f'name the columns that hold {", ".join(lacking)} below [logs.columns.{table}], such as {lacking[0]} = "..."'


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
