"""Which column of somebody's logs may be one of ours: by spelling, or by a name that is often used for it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

CLOSE = 0.78  # similarity of two spellings from which one may be the other
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


def nearest(ours: str, columns: Sequence[str]) -> str | None:
    """The column that may be ours, None where none looks like it."""
    plain = {_plain(column): column for column in reversed(columns)}
    for name in (ours, *OTHER_NAMES.get(ours, ())):
        if _plain(name) in plain:
            return plain[_plain(name)]
    close = difflib.get_close_matches(_plain(ours), list(plain), 1, cutoff=CLOSE)
    return plain[close[0]] if close else None


def renaming(table: str, lacking: Sequence[str], columns: Sequence[str]) -> str:
    """What to write into the job file for columns that a table lacks; `columns`: those of its files nobody uses."""
    pairs = [(ours, theirs) for ours in lacking if (theirs := nearest(ours, columns))]
    if pairs:
        lines = "; ".join(f'{ours} = "{theirs}"' for ours, theirs in pairs)
        return f"if that is what they are, write below [logs.columns.{table}]: {lines}"
    return f'name the columns that hold {", ".join(lacking)} below [logs.columns.{table}], such as {lacking[0]} = "..."'


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
