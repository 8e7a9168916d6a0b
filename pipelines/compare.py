"""Compare two nights of a job, or of two jobs: their lists, figures, settings and counts.

    watchnext compare JOB.toml DATE DATE            # two nights of one job
    watchnext compare JOB.toml OTHER.toml           # what two jobs serve
    watchnext compare JOB.toml DATE OTHER.toml DATE

A night is a job file, its served night; or a job file and a date. Differences are the second night minus the first.
Lists are those that a night was last published with, or else those that its stages wrote.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from typing import Any

from pipelines.base import command_lines, console, manifest, paths
from pipelines.base.command_lines import STAGES
from pipelines.base.published_lists import PublishedLists
from pipelines.config.job_reader import open_job
from pipelines.config.jobs import Job, JobError
from pipelines.night import night_results
from pipelines.night.errors import StageError, run_command
from pipelines.night.night import Night
from pipelines.night.outputs import IndexOutputs, IngestOutputs, VocabularyOutputs
from pipelines.reports import night_figures
from pipelines.reports.night_figures import FigureDifference
from pipelines.runs.dry_run import changed_settings
from pipelines.serving.served_lists import FileLists
from transforms.core.files import DamagedFileError
from transforms.evaluation.list_comparison import FIRST, ListOverlap, user_overlap
from transforms.evaluation.night_metrics import NightMetrics, ordered_figures

_DATE = re.compile(r"\d{4}-\d\d-\d\d")

parser = command_lines.compare


@dataclass(frozen=True, kw_only=True)
class ComparedNight:
    """A night to compare, as it was named."""

    name: str  # such as job.toml 2026-11-21
    night: Night
    lists: FileLists


@dataclass(frozen=True, kw_only=True)
class Change:
    """A setting or a count of both nights; None if a night does not have it."""

    name: str
    first: str | int | None
    second: str | int | None


@dataclass(frozen=True, kw_only=True)
class NightComparison:
    """The differences of two nights, the second minus the first."""

    first: str
    second: str
    overlap: ListOverlap
    figures: list[FigureDifference] = field(default_factory=list)
    figures_note: str = ""  # why there are no figures, or how to read them
    settings: list[Change] = field(default_factory=list)
    counts: list[Change] = field(default_factory=list)


def nights_of(words: Sequence[str]) -> list[tuple[str, dt.date | None]]:
    """Return (job file, date) of each night that the words name; without a date, the served night.

    A word that has the form of a date is the date of a night of the job file before it. Raises JobError unless there
    are two nights.
    """
    found: list[tuple[str, dt.date | None]] = []
    for word in words:
        if not _DATE.fullmatch(word):
            found.append((word, None))
            continue
        if not found:
            raise JobError(f"the date {word} has no job file before it: watchnext compare JOB.toml DATE DATE")
        try:
            date = dt.date.fromisoformat(word)
        except ValueError as error:
            raise JobError(f"{word} is not a date: {error}") from error
        job, before = found[-1]
        if before is None:
            found.pop()
        found.append((job, date))
    if len(found) != 2:
        what = "one night" if len(found) == 1 else f"{len(found)} nights"
        raise JobError(f"{what} named, but two are compared: JOB.toml DATE DATE, or JOB.toml OTHER.toml")
    return found


def open_night(path: str, job: Job, date: dt.date | None) -> ComparedNight:
    """Open a night and its lists. Raises StageError if it has none; the message names the nights that have."""
    lists = FileLists.open(job) if date is None else FileLists.of_night(job, date)
    return ComparedNight(name=f"{path} {lists.date}", night=Night(job, lists.date), lists=lists)


def compare(first: ComparedNight, second: ComparedNight) -> NightComparison:
    """Return the differences of two nights. Raises StageError or ManifestError for files that cannot be read."""
    figures, note = _figures(first, second)
    return NightComparison(
        first=first.name,
        second=second.name,
        overlap=_overlap(first.lists, second.lists),
        figures=figures,
        figures_note=note,
        settings=list(_settings(first.night, second.night)),
        counts=list(_counts(first, second)),
    )


def _overlap(first: FileLists, second: FileLists) -> ListOverlap:
    """Compare lists bucket by bucket.

    Both bucket counts are powers of two: users of bucket b of one are in the buckets of the other that are equal to b
    modulo the smaller count.
    """
    buckets = min(first.files.buckets, second.files.buckets)
    sides = [_by_remainder(lists.root, lists.files, buckets) for lists in (first, second)]
    try:
        parts = (user_overlap(sides[0][bucket], sides[1][bucket]) for bucket in range(buckets))
        return reduce(ListOverlap.merge, parts, ListOverlap())
    except (OSError, DamagedFileError) as error:
        raise StageError(f"a file of lists cannot be read ({error}): run its night again from neighbours") from error


def _by_remainder(root: paths.Root, lists: PublishedLists, buckets: int) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in range(buckets)]
    for path in lists.paths(root, "lists"):
        found[paths.shard_index(path) % buckets].append(path)
    return found


def _figures(first: ComparedNight, second: ComparedNight) -> tuple[list[FigureDifference], str]:
    """Return the figures that both nights measured, and a note on them."""
    measured = [night_results.metrics(one.night) for one in (first, second)]
    before, after = measured
    lacking = [one.name for one, found in zip((first, second), measured, strict=True) if not _has_figures(found)]
    if before is None or after is None or lacking:
        return [], f"no users were held out, or the figures are gone, in {' and '.join(lacking)}"
    names = ordered_figures(after)[after.served_system]
    pairs = (night_figures.between_nights(after, before, name, first.name) for name in names if name != "pairs")
    note = ""
    if (before.holdout and before.holdout.start) != (after.holdout and after.holdout.start):
        note = "the two nights were measured on different days, one of which may be harder"
    return [pair for pair in pairs if pair], note


def _has_figures(measured: NightMetrics | None) -> bool:
    return measured is not None and night_figures.served_figures(measured) is not None


def _settings(first: Night, second: Night) -> Iterator[Change]:
    """Yield the settings that differ, of all stages whose manifests have them; each setting once."""
    seen: set[str] = set()
    for stage in STAGES:
        sides = [manifest.record(night.folder(stage)) for night in (first, second)]
        settings = [_of_job(done.settings) if done else {} for done in sides]
        if not all(sides):
            continue
        for name, before, after in changed_settings(*settings):
            if name not in seen:
                seen.add(name)
                yield Change(name=name, first=before, second=after)


def _of_job(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a manifest that are in the job file: without dates, which differ every night."""
    return {table: values for table, values in settings.items() if table in Job.model_fields}


def _counts(first: ComparedNight, second: ComparedNight) -> Iterator[Change]:
    sides = [dict(_counts_of(one)) for one in (first, second)]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        yield Change(name=name, first=sides[0].get(name), second=sides[1].get(name))


def _counts_of(one: ComparedNight) -> Iterator[tuple[str, int]]:
    """Yield the counts of a night's manifests."""
    yield "lists", one.lists.files.users
    if (done := manifest.record(one.night.folder("index"))) is not None:
        yield "videos to choose from", done.read(IndexOutputs).candidates.rows
    if (done := manifest.record(one.night.folder("ingest"))) is not None:
        yield from ((f"{table} in the store", rows) for table, rows in done.read(IngestOutputs).rows.items())
    if (done := manifest.record(one.night.folder("vocabulary"))) is not None:
        window = done.read(VocabularyOutputs).window
        yield from (("watches in the window", window.watches), ("completed watches", window.completed))
        yield from (("searches in the window", window.searches), ("users in the window", window.users))


def to_text(found: NightComparison) -> str:
    """Format a comparison as lines for people."""
    lines = [f"first:  {found.first}", f"second: {found.second}", *_overlap_lines(found.overlap), ""]
    if found.figures:
        lines.append("figures of held-out users, first -> second: difference [95 % interval]")
        lines += [
            f"  {one.figure}: {_number(one.other_value)} -> {_number(one.value)}: {_words(one)}"
            for one in found.figures
        ]
    if found.figures_note:
        lines.append(f"note: {found.figures_note}" if found.figures else f"figures: none: {found.figures_note}")
    lines += ["", "settings that differ:" if found.settings else "settings: the same, where both nights recorded them"]
    lines += [f"  {change.name}: {_shown(change.first)} -> {_shown(change.second)}" for change in found.settings]
    lines += ["", "counts, first -> second:"]
    lines += [f"  {change.name}: {_shown(change.first)} -> {_shown(change.second)}" for change in found.counts]
    return "\n".join(lines)


def _overlap_lines(overlap: ListOverlap) -> Iterator[str]:
    yield f"lists: {overlap.users:,} -> {overlap.other_users:,} users with a list, {overlap.in_both:,} in both"
    if not overlap.in_both:
        yield "  no user is in both: other users, other ids, or another key of pseudonyms"
        return
    users = overlap.in_both
    yield f"  of a second list, {overlap.retained / users:.1%} was in the first list of the same user"
    yield f"  of its first {FIRST} videos, {overlap.retained_first / users:.1%} were among the first {FIRST}"
    kept, equal = overlap.same_first / users, overlap.equal / users
    yield f"  {kept:.1%} of the users keep the first video, {equal:.1%} the whole list"


def _words(one: FigureDifference) -> str:
    return one.in_words("+.4f") if isinstance(one.value, float) else f"{one.difference:+,}"


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _shown(value: str | int | None) -> str:
    return "not known" if value is None else f"{value:,}" if isinstance(value, int) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison of two nights."""
    args, flags = parser().parse_known_args(argv)

    def work() -> int:
        first, second = (open_night(path, open_job(path, flags), date) for path, date in nights_of(args.words))
        found = compare(first, second)
        print(_to_json(found) if args.json else console.printable(to_text(found)))
        return 0

    return run_command(work)


def _to_json(found: NightComparison) -> str:
    content = asdict(found)
    content["figures"] = [asdict(one) | {"difference": one.difference} for one in found.figures]
    return console.printable_json(json.dumps(content, ensure_ascii=False, indent=1), sys.stdout)


if __name__ == "__main__":
    raise SystemExit(main())
