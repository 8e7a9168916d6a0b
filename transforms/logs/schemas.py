"""The columns of the log tables, and the schemas of the frames that parsing returns."""

from __future__ import annotations

import polars as pl

from transforms.logs.arrow_values import BOOLEANS, NUMBERS, SECONDS, TIMES
from transforms.logs.readers import LogTable

TIME = pl.Datetime("us", "UTC")
BIGQUERY_PREFIX = "bigquery:"  # of the name of a table in place of a path

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
    name="impressions",
    required=("user_id", "video_id", "time", "page_id", "clicked", "watch_seconds"),
    optional=("position",),
)

_TYPES: dict[str, pl.DataType] = {  # others are text
    **dict.fromkeys(TIMES, TIME),
    **dict.fromkeys(SECONDS, pl.Float32()),
    **dict.fromkeys(NUMBERS, pl.Int32()),
    **dict.fromkeys((*BOOLEANS, "completed_given"), pl.Boolean()),
}


def column_type(name: str) -> pl.DataType:
    """Return the type of a column, which is the same in every table."""
    return _TYPES.get(name, pl.String())


def _schema(*columns: str) -> pl.Schema:
    return pl.Schema({name: column_type(name) for name in columns})


WATCH_SCHEMA = _schema("user_id", "time", "video_id", "completed", "watch_seconds", "country", "device", "signed_in")
# The store also keeps the logged length of the video and the logged `completed`, null if missing. Files of earlier
# versions do not have these two columns.
STORED_WATCH_SCHEMA = _schema(*WATCH_SCHEMA, "video_seconds", "completed_given")
# Columns that do not identify a stored watch: the length belongs to the video, and `completed` depends on settings and
# a catalogue that may change.
NON_KEY_COLUMNS = ("completed", "video_seconds")
SEARCH_SCHEMA = _schema("user_id", "time", "query")
# `countries`: as `countries.normalise_codes` returns them.
VIDEO_SCHEMA = _schema(*VIDEOS.required, *VIDEOS.optional)
USER_SCHEMA = _schema(*USERS.required, *USERS.optional)
HIDDEN_SCHEMA = _schema(*HIDDEN.required)
# `watch_seconds`: 0 if not clicked. `position`: on the page, from 1; null if unknown. Files of earlier versions do not
# have this column.
IMPRESSION_SCHEMA = _schema("user_id", "time", "video_id", "page_id", "clicked", "watch_seconds", "position")
