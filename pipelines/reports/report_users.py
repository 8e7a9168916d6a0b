"""Some users in a report: the last videos that they watched, and the first of their lists.

The section is removed from all reports when users are forgotten (`forget_rows`), and from those of older nights
(`retention`).
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

import polars as pl

from pipelines.base.manifest import ManifestError
from pipelines.night import publication_file
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from transforms.core import files
from transforms.core.digests import id_digests
from transforms.logs.schemas import WATCH_SCHEMA
from transforms.report.page import UserExample

SHOWN_USERS, SHOWN_VIDEOS = 5, 8
LEAST_WATCHES = 3  # of a user that is shown
_WATCHES = ("user_id", "time", "video_id", "completed")


def users_of(night: Night) -> list[UserExample]:
    """Return some users of the first bucket that has any with a list and `LEAST_WATCHES`; empty without lists.

    The users with the smallest digests are taken, so the choice says nothing about their lists. Times are in the job's
    time zone.
    """
    try:
        lists_of_night = publication_file.from_stages_if_complete(night.root, night.date)
    except (StageError, ManifestError):  # of an earlier run, before stages that run again
        return []
    if lists_of_night is None or lists_of_night.buckets != len(buckets := night.ingested.buckets()):
        return []
    for bucket, path in zip(buckets, lists_of_night.paths(night.root, "lists"), strict=True):
        lists = files.read_parquet(path).filter(pl.col("video_ids").list.len() > 0)
        watches = night.dates.window.read_events(bucket.watches, WATCH_SCHEMA, _WATCHES)
        counts = watches.group_by("user_id").len().filter(pl.col("len") >= LEAST_WATCHES)
        known = lists.join(counts, on="user_id", how="semi")
        if known.height:
            return _examples(night, known, watches)
    return []


def _examples(night: Night, lists: pl.DataFrame, watches: pl.DataFrame) -> list[UserExample]:
    shown = lists.with_columns(digest=id_digests(lists["user_id"])).sort("digest").head(SHOWN_USERS)
    own = watches.filter(pl.col("user_id").is_in(shown["user_id"].implode()))
    newest = own.sort("time", "video_id", descending=[True, False]).group_by("user_id", maintain_order=True)
    histories = {
        user: rows for (user,), rows in newest.head(SHOWN_VIDEOS).partition_by("user_id", as_dict=True).items()
    }
    heads = shown.with_columns(pl.col("video_ids").list.head(SHOWN_VIDEOS))
    titles = night.ingested.titles({*own["video_id"], *heads["video_ids"].explode()})
    has_seconds, zone = "expected_seconds" in heads.columns, ZoneInfo(night.job.logs.time_zone)
    found = []
    for row in heads.iter_rows(named=True):
        seconds = row["expected_seconds"] if has_seconds else [None] * len(row["video_ids"])
        watched = histories[row["user_id"]].select("time", "video_id", "completed").rows()
        found.append(
            UserExample(
                user_id=row["user_id"],
                watched=[
                    (f"{time.astimezone(zone):%m-%d %H:%M}", titles.get(video, video), done)
                    for time, video, done in watched
                ],
                listed=[
                    (titles.get(video, video), expected)
                    for video, expected in zip(row["video_ids"], seconds, strict=False)
                ],
            )
        )
    return found
