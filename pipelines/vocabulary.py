"""Stage 2: select the videos and search tokens that get an embedding, by their counts in the learnable window.

store, window by bucket -> CountTokens -> WriteVocabulary -> vocabulary/videos.parquet, search_tokens.parquet
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import Any

import apache_beam as beam

from pipelines.base import paths
from pipelines.night import artifacts
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import LearnableWindow, VocabularyOutputs
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from trainer.auto import holdout_share, rules_version
from trainer.config import AUTO
from transforms.core.records import WriteRecords, pop_records
from transforms.examples.draw_examples import count_measurable
from transforms.examples.vocabulary import (
    CountTokens,
    VocabularyFile,
    WindowCounts,
    WindowSummary,
    WriteVocabulary,
    merge_window_counts,
)

COUNTED_USERS = 10_000  # of the held-out days: the number of more users is estimated from the first buckets


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
    rules = rules_version({"holdout_users": night.job.examples.holdout_users})
    return Plan("vocabulary", {"window": night.ingested.window_digest()}, settings | rules)


def run(night: Night) -> None:
    """Count tokens and write the vocabularies. Raises StageError if the window has no completed watch."""
    complete(night, plan(night), _work)


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    records = paths.join(folder, f"records-{attempt}.json")
    settings = night.job.examples
    share, reason = _holdout_share(night)
    count = CountTokens(
        night.dates.window, night.holdout_of(share), tuple(settings.user_categories), night.beam.threads
    )
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
    described: dict[str, Any] = {"cover": cover}
    if reason:
        described |= {
            "notes": [f"examples.holdout_users = {share:g} ({reason})"],
            "auto": {"holdout_users": f"{share:g} ({reason})"},
        }
    outputs = VocabularyOutputs(window=LearnableWindow(**asdict(window)), holdout_share=share)
    return StageResult([part.file for part in written], outputs, described)


def _holdout_share(night: Night) -> tuple[float, str]:
    """Return the share of users that are held out, and the reason if it is resolved from the counts of their days."""
    settings = night.job.examples
    users = _measurable_users(night) if settings.holdout_users == AUTO else 0
    share, reason = holdout_share(settings.holdout_users, users=users)
    return share, reason if settings.holdout_days else ""


def _measurable_users(night: Night) -> int:
    """Return how many users completed a watch in the held-out days.

    Above `COUNTED_USERS` the number is extrapolated from the first buckets that have so many. A bucket is a random
    sample of users by digest, so the standard error is about 1 %, and the number is the same in every attempt.
    """
    window = replace(night.dates.window, start=night.dates.holdout_start)
    buckets, users, read = night.ingested.buckets(window.start), 0, 0
    while read < len(buckets) and users < COUNTED_USERS:
        users += count_measurable(buckets[read], window)
        read += 1
    return round(users * len(buckets) / read)


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
