"""Doctor's check of the logs: are the files there, can they be read, and what would ingest make of their rows.

Files are found, read and parsed by what ingest itself uses, so what it would refuse is refused here for the same
reason. The catalogue is read whole; of the other tables, the first rows of some files.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from pipelines.base import raw_files
from pipelines.checks import joins
from pipelines.checks.asked import DoctorRequest
from pipelines.checks.column_names import nearest, renaming
from pipelines.checks.findings import Finding, ok, problem, warning
from pipelines.checks.inspected_logs import InspectedLogs
from pipelines.config.settings import Privacy
from pipelines.logs import ingest_plan, log_notes
from transforms.logs.bigquery_source import PREFIX
from transforms.logs.readers import LogTable

SHOWN_ROWS, SHOWN_REASONS, CELL = 3, 5, 24
FEW_KNOWN = 0.5  # share of watches whose video the catalogue has, below which something is wrong


def logs(asked: DoctorRequest) -> Iterator[Finding]:
    """Each table's files, columns and rows, and whether the tables speak of the same videos and users."""
    looked, job = asked.logs, asked.night.job
    if looked.unscreened:
        yield problem("privacy", looked.unscreened, "mend [privacy], or the environment of whatever runs the night")
    for name in ingest_plan.TABLES:
        if getattr(job.logs, name) is None:
            continue
        if name in looked.failed:
            yield _unreadable(asked, looked, name)
        elif name in looked.samples:
            yield from _columns(asked, looked, name)
            yield _rows(asked, looked, name)
        else:
            yield warning(
                f"logs.{name}", "a table of BigQuery: not looked at", "see docs/logs.md for what it must have"
            )
    yield from _files(asked, looked)
    yield from joins.of_forget_list(asked, looked)
    yield from (one for one in joins.of_tables(asked, looked) if one.state != "ok")
    yield from _one_world(looked)


def _files(asked: DoctorRequest, looked: InspectedLogs) -> Iterator[Finding]:
    """Files that a night would pass over, and values in the names of folders that it would not read."""
    found = {name: files for name, files in looked.found.items() if name not in looked.failed}
    job = asked.night.job
    if looked.unscreened:
        job = job.model_copy(update={"privacy": Privacy()})
    for setting, text in log_notes.of_files(job, found):
        fix = "rename or convert what belongs to the logs, and keep other files elsewhere; a glob may leave them out"
        yield warning(setting, text, fix)


def _unreadable(asked: DoctorRequest, looked: InspectedLogs, name: str) -> Finding:
    """A table that is not there, cannot be read, or lacks columns."""
    table, columns = looked.tables.get(name), looked.columns.get(name)
    given = asked.night.job.logs.renamed(name)
    if table is None or not columns:
        fix = _what_is_there(getattr(asked.night.job.logs, name)) if table is None else "see docs/logs.md"
        return problem(f"logs.{name}", looked.failed[name], fix)
    lacking = [ours for ours in table.required if given.get(ours, ours) not in columns]
    if not lacking and not any(given.get(ours, ours) in columns for ours in table.any_of):
        lacking = list(table.any_of)
    return problem(f"logs.{name}", looked.failed[name], renaming(name, lacking, _unused(table, given, columns)))


def _columns(asked: DoctorRequest, looked: InspectedLogs, name: str) -> Iterator[Finding]:
    """Optional columns that are not there by our names, but perhaps by others."""
    table, columns, given = looked.tables[name], looked.columns[name], asked.night.job.logs.renamed(name)
    unused = _unused(table, given, columns)
    lacking = [ours for ours in table.optional if given.get(ours, ours) not in columns and nearest(ours, unused)]
    if lacking:
        what = f"{', '.join(lacking)}: no such column, but one that may be it"
        yield warning(f"logs.{name}", what, renaming(name, lacking, unused))


def _unused(table: LogTable, given: dict[str, str], columns: list[str]) -> list[str]:
    """The columns of a file that the table makes nothing of."""
    used = {given.get(ours, ours) for ours in (*table.required, *table.optional)}
    return [column for column in columns if column not in used]


def _rows(asked: DoctorRequest, looked: InspectedLogs, name: str) -> Finding:
    """What ingest would make of the rows that were looked at."""
    sample = looked.samples[name]
    valid, refused = sample.valid, sample.refused
    read = valid.height + refused.height
    files = f"{len(sample.files):,} file{'s' if len(sample.files) != 1 else ''}, about {sample.rows:,} rows"
    shown = () if looked.unscreened else tuple(as_table(sample.parts[-1].valid.head(SHOWN_ROWS)))
    if not read:
        return problem(f"logs.{name}", f"{files}: not one row in those that were looked at", "is the path right?")
    if refused.is_empty():
        return ok(f"logs.{name}", f"{files}; all {read:,} that were looked at can be read, the newest file's:", *shown)
    limit = asked.night.job.logs.max_reject_fraction
    what = f"{files}; {refused.height:,} of {read:,} that were looked at would be refused"
    reasons = tuple(_reasons(refused, with_text=not looked.unscreened))
    if refused.height > limit * read:
        fix = "mend or filter them where the logs are written; rejects/ of a night lists the first ones of each reason"
        above = f"{what}, above max_reject_fraction = {limit:g}: the night would fail"
        return problem(f"logs.{name}", above, fix, *reasons, *shown)
    return warning(f"logs.{name}", what, "they are left out and listed in rejects/ of the night", *reasons, *shown)


def _reasons(refused: pl.DataFrame, *, with_text: bool) -> Iterator[str]:
    """The most frequent reasons, each with the first row it was given for."""
    counted = refused.group_by("reason").agg(pl.len(), pl.all().first()).sort("len", "reason", descending=[True, False])
    for row in counted.head(SHOWN_REASONS).iter_rows(named=True):
        text = f": {row['text']}" if with_text and row["text"] else ""
        yield f"{row['len']:,} x {row['reason']}; {Path(row['file']).name} row {row['row']}{text}"


def _one_world(looked: InspectedLogs) -> Iterator[Finding]:
    """Whether the catalogue knows the videos that are watched: what it does not know is never shown."""
    watches, videos = looked.samples.get("watches"), looked.samples.get("videos")
    if watches is None or videos is None or watches.valid.is_empty():
        return
    if videos.rows > 2 * (videos.valid.height + videos.refused.height):
        return  # too large to be looked at whole
    known = watches.valid.join(videos.valid.select("video_id").unique(), on="video_id", how="semi").height
    share = known / watches.valid.height
    if share >= FEW_KNOWN:
        yield ok("catalogue", f"it has the videos of {share:.1%} of the watches")
        return
    few = [frame["video_id"].unique().sort().head(2).to_list() for frame in (watches.valid, videos.valid)]
    what = f"it has the videos of {share:.1%} of the watches; what is not in it is never shown"
    fix = f"are the ids the same? watches have {', '.join(few[0])}, the catalogue {', '.join(few[1]) or 'none'}"
    yield (problem if not known else warning)("catalogue", what, fix)


def _what_is_there(pattern: str) -> str:
    """What to do about a path that names nothing: what lies nearest to it."""
    if "://" in pattern or pattern.startswith(PREFIX):
        return "check the path, and that this machine may read there"
    place = Path(raw_files.spelled_out(pattern) or ".")
    while not place.is_dir():
        place = place.parent
    inside = sorted(path.name + "/" * path.is_dir() for path in place.iterdir())
    more = f" and {len(inside) - 5} more" if len(inside) > 5 else ""
    return f"check the path: {place} holds {', '.join(inside[:5]) or 'nothing'}{more}"


def as_table(rows: pl.DataFrame) -> Iterator[str]:
    """Some rows as lines: a heading, then a line a row, cells cut to `CELL`, without columns that are all null."""
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
