"""Doctor's check of ids across tables: whether the ids of one table occur in the sampled rows of the others, or in the
store. Ids in another form would silently not match."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, ok, warning
from pipelines.logs import joins
from pipelines.logs.joins import Match
from pipelines.logs.log_reader import LOGS
from pipelines.logs.log_samples import TableSample
from transforms.core.digests import FRAME_ROWS
from transforms.logs.columns import parse_ids

FIX = "are the ids written as in the events? 7 and 007 are different ids, and so are upper and lower case"


def check_tables(request: DoctorRequest) -> Iterator[Finding]:
    """Check users of the users table and of hidden pairs, hidden videos, and countries for ids without a match."""
    inspected = request.logs
    logs = [sample for table in LOGS if (sample := inspected.samples.get(table.name))]
    whole = bool(logs) and all(map(is_whole, logs)) and not any(table.name in inspected.failed for table in LOGS)
    users = _distinct(logs, "user_id")
    stored = joins.users_of_small_store(request.night.root.store, inspected.before) if inspected.before else None
    if stored is not None:
        users, whole = pl.concat([users, stored]).unique(), True
    for table, name in (("users", "users"), ("hidden", "hidden users")):
        if table in inspected.samples and len(users):
            match = Match.of(_distinct([inspected.samples[table]], "user_id"), users)
            yield _finding(f"logs.{table}", name, match, whole=whole, with_values=inspected.shows_ids)
    videos = inspected.samples.get("videos")
    if videos and "hidden" in inspected.samples:
        known = pl.concat([_distinct([videos], "video_id"), _distinct(logs, "video_id")])
        match = Match.of(_distinct([inspected.samples["hidden"]], "video_id"), known)
        yield _finding("logs.hidden", "hidden videos", match, whole=is_whole(videos), with_values=True)
    if videos and "watches" in inspected.samples:
        codes = joins.catalogue_country_codes(videos.valid)
        places = [inspected.samples[name] for name in ("watches", "users") if name in inspected.samples]
        if len(codes):
            match = Match.of(codes, joins.country_codes(_distinct(places, "country")))
            yield _finding("logs.videos", "countries", match, whole=all(map(is_whole, places)), with_values=True)


def check_forget_list(request: DoctorRequest) -> Iterator[Finding]:
    """Check the list of users to forget for ids that occur in no table."""
    inspected = request.logs
    privacy_filter, before = inspected.privacy_filter, inspected.before
    if not privacy_filter.forget.paths:
        return
    samples = [sample for sample in inspected.samples.values() if "user_id" in sample.valid.columns]
    raw = [
        parse_ids(part.raw["user_id"]) for sample in samples for part in sample.parts if "user_id" in part.raw.columns
    ]
    ids = privacy_filter.forget.ids()
    found = set(ids.is_in(pl.concat(raw).drop_nulls().implode()).arg_true()) if raw else set[int]()
    if before is not None and before.forgotten == privacy_filter.forget.digest:
        match = joins.match_forget_list(ids, found)
        shown = f": {joins.shown_values(match)}" if inspected.shows_ids and match.unmatched else ""
        what = f"{match.values:,} ids; the list was applied to all stored data"
        yield ok("privacy.forget", f"{what}; {match.unmatched:,} do not occur in the sampled rows{shown}")
        return
    stored = joins.users_of_small_store(request.night.root.store, before) if before else None
    if stored is not None:
        found |= set(privacy_filter.forgotten_users().is_in(stored.implode()).arg_true())
    match, whole = joins.match_forget_list(ids, found), all(map(is_whole, samples))
    yield _finding("privacy.forget", "forget", match, whole=whole, with_values=inspected.shows_ids)


def is_whole(sample: TableSample) -> bool:
    """Return whether a sample contains all rows of a table."""
    return len(sample.parts) == len(sample.files) and all(part.raw.height < FRAME_ROWS for part in sample.parts)


def _finding(check: str, name: str, match: Match, *, whole: bool, with_values: bool) -> Finding:
    shown = f": {joins.shown_values(match)}" if with_values and match.unmatched else ""
    what = joins.sentence(name, match).removeprefix(f"{check}: ")
    if not match.unmatched:
        return ok(check, what)
    if whole:
        return warning(check, f"{what}{shown}", FIX)
    sampled = f"{what}, according to the sampled rows"
    return warning(check, f"{sampled}{shown}", FIX) if match.unmatched == match.values else ok(check, sampled)


def _distinct(samples: list[TableSample], column: str) -> pl.Series:
    return joins.distinct_values(*(sample.valid[column] for sample in samples if column in sample.valid.columns))
