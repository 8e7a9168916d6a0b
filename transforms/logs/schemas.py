"""The columns of the log tables, and the schemas of the frames that parsing returns."""

from __future__ import annotations

import polars as pl

from transforms.logs.readers import LogTable

TIME = pl.Datetime("us", "UTC")

WATCHES = LogTable(
    name="watches",
    required=("user_id", "video_id", "time"),
    optional=("completed", "watch_seconds", "video_seconds", "country", "device", "signed_in"),
    any_of=("completed", "watch_seconds"),
)
SEARCHES = LogTable(name="searches", required=("user_id", "time", "query"))
VIDEOS = LogTable(
    name="videos",
    required=("video_id",),
    optional=("upload_time", "video_seconds", "title", "channel", "language", "available", "countries"),
    lists=("countries",),
)
USERS = LogTable(name="users", required=("user_id",), optional=("gender", "birth_year", "country", "language"))
HIDDEN = LogTable(name="hidden", required=("user_id", "video_id"))
IMPRESSIONS = LogTable(
    name="impressions", required=("user_id", "video_id", "time", "page_id", "clicked", "watch_seconds")
)

WATCH_SCHEMA = pl.Schema(
    {
        "user_id": pl.String(),
        "time": TIME,
        "video_id": pl.String(),
        "completed": pl.Boolean(),
        "watch_seconds": pl.Float32(),
        "country": pl.String(),
        "device": pl.String(),
        "signed_in": pl.Boolean(),
    }
)
# The store also keeps the logged length of the video and the logged `completed`, null if missing. Files of earlier
# versions do not have these two columns.
STORED_WATCH_SCHEMA = pl.Schema(
    {**WATCH_SCHEMA, "video_seconds": pl.Float32(), "completed_given": pl.Boolean()},
)
# Columns that do not identify a stored watch: the length belongs to the video, and `completed` depends on settings and
# a catalogue that may change.
NON_KEY_COLUMNS = ("completed", "video_seconds")
SEARCH_SCHEMA = pl.Schema({"user_id": pl.String(), "time": TIME, "query": pl.String()})
VIDEO_SCHEMA = pl.Schema(
    {
        "video_id": pl.String(),
        "upload_time": TIME,
        "video_seconds": pl.Float32(),
        "title": pl.String(),
        "channel": pl.String(),
        "language": pl.String(),
        "available": pl.Boolean(),
        "countries": pl.String(),  # from `countries.normalise_codes`
    }
)
USER_SCHEMA = pl.Schema(
    {
        "user_id": pl.String(),
        "gender": pl.String(),
        "birth_year": pl.Int32(),
        "country": pl.String(),
        "language": pl.String(),
    }
)
HIDDEN_SCHEMA = pl.Schema({"user_id": pl.String(), "video_id": pl.String()})
IMPRESSION_SCHEMA = pl.Schema(
    {
        "user_id": pl.String(),
        "time": TIME,
        "video_id": pl.String(),
        "page_id": pl.String(),
        "clicked": pl.Boolean(),
        "watch_seconds": pl.Float32(),  # 0 if not clicked
    }
)
