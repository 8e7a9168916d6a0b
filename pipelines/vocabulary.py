"""Stage 2: select the videos and search tokens that get an embedding, by their counts in the learnable window.

store, window by bucket -> CountTokens -> WriteVocabulary -> vocabulary/videos.parquet, search_tokens.parquet
"""

from __future__ import annotations

import sys
from dataclasses import asdict

import apache_beam as beam

from pipelines.base import paths
from pipelines.night import artifacts
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import LearnableWindow, VocabularyOutputs
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from transforms.core.records import WriteRecords, pop_records
from transforms.examples.vocabulary import (
    CountTokens,
    VocabularyFile,
    WindowCounts,
    WindowSummary,
    WriteVocabulary,
    merge_window_counts,
)


def plan(night: Night) -> Plan:
    """Return the plan: the events of the window, the held-out users, and the limit on events per day."""
    names = {
        "window_days",
        "watch_vocabulary",
        "search_vocabulary",
        "holdout_days",
        "holdout_users",
        "seed",
        "max_events_per_day",
        "user_categories",
    }
    settings = {
        "date": night.date.isoformat(),
        "logs": night.job.logs.model_dump(include={"time_zone"}),
        "examples": night.job.examples.model_dump(include=names),
    }
    return Plan("vocabulary", {"window": night.ingested.window_digest()}, settings)


def run(night: Night) -> None:
    """Count tokens and write the vocabularies. Raises StageError if the window has no completed watch."""
    complete(night, plan(night), _work)


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    records = paths.join(folder, f"records-{attempt}.json")
    settings = night.job.examples
    count = CountTokens(night.dates.window, night.dates.holdout, tuple(settings.user_categories), night.beam.threads)
    with night.beam.pipeline("vocabulary") as pipeline:
        counts = pipeline | night.beam.create(night.ingested.buckets()) | count
        videos = counts["videos"] | "Videos" >> WriteVocabulary(settings.watch_vocabulary, folder, artifacts.VIDEOS)
        tokens = counts["search_tokens"] | "Tokens" >> WriteVocabulary(
            settings.search_vocabulary, folder, artifacts.SEARCH_TOKENS
        )
        (videos, tokens, counts["window"]) | beam.Flatten() | WriteRecords(records)
    found = pop_records(records, VocabularyFile, WindowCounts)
    window = merge_window_counts(found.of(WindowCounts))
    if not window.completed:
        raise StageError(_why_no_label(night, window))
    written = found.of(VocabularyFile)
    cover = {part.file.name: {name: n for name, n in vars(part).items() if name != "file"} for part in written}
    return StageResult(
        [part.file for part in written], VocabularyOutputs(window=LearnableWindow(**asdict(window))), {"cover": cover}
    )


def _why_no_label(night: Night, window: WindowSummary) -> str:
    """Return why no watch can be a label, and how to fix it. window: a window without a completed watch."""
    robots, held_out, rest = window.robot_watches, window.held_out_watches, window.watches
    total, most, dates = robots + held_out + rest, night.job.examples.max_events_per_day, night.dates
    if not total:
        return (
            f"no completed watch from {dates.start:%Y-%m-%d %H:%M} to {dates.end:%Y-%m-%d %H:%M} UTC, the window of "
            f"{night.date}: is --date right, and window_days ([examples])? The store holds {_days(night)}"
        )
    reasons = {
        f"of days with more than max_events_per_day ({most:,}) events: check that user_id names single users, "
        "or raise max_events_per_day ([examples]; 0: no limit)": robots,
        "of held-out users in the held-out days: lower holdout_users or holdout_days ([examples])": held_out,
        "not completed: check completed, or watch_seconds and the rules for it (completed_fraction and "
        "completed_seconds in [logs])": rest,
    }
    if total in reasons.values():
        (reason,) = (reason for reason, count in reasons.items() if count == total)
        return f"all {total:,} watches are {reason}"
    parts = [f"{count:,} are {reason}" for reason, count in reasons.items() if count]
    return f"none of the {total:,} watches of the window can be learned from; {'; '.join(parts)}"


def _days(night: Night) -> str:
    days = sorted({file.day for file in night.ingested.snapshot.files if file.table == "watches"})
    return f"watches of {days[0]} to {days[-1]}" if days else "no watches"


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
