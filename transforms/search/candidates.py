"""The videos that are searched: those of the model that are available and fulfil `[index] only`; and how they are split
into the shards of an index that does not fit one worker's memory.

    videos = candidate_videos(vectors, catalogue, only="age_days < 30 AND language = 'de'", end=midnight)
    shards = shard_positions(videos["video_id"], shards=shard_count(videos.height, 4_000_000))
"""

from __future__ import annotations

import datetime as dt
import difflib
import re

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core.digests import id_digests, mix
from transforms.logs.schemas import VIDEO_SCHEMA

AGE = "age_days"
COLUMNS = (*VIDEO_SCHEMA.names(), AGE)  # the columns that a condition may use
_SHARD_SALT = 0x736861726473  # "shards": makes this draw independent of other draws from the same ids

# The functions that a condition may call. All of them depend on the values of one row only.
FUNCTIONS = (
    *("ABS", "CEIL", "FLOOR", "ROUND", "COALESCE", "NULLIF", "GREATEST", "LEAST", "CAST", "DATE", "DATE_PART"),
    *("LOWER", "UPPER", "LENGTH", "CHAR_LENGTH", "TRIM", "LTRIM", "RTRIM", "LEFT", "RIGHT", "SUBSTR", "STRPOS"),
    *("STARTS_WITH", "ENDS_WITH", "REGEXP_LIKE", "CONCAT", "REPLACE"),
)
_OPERATORS = ("AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "ILIKE", "RLIKE", "REGEXP", "THEN", "WHEN", "ELSE", "CASE")
_CALLABLE = frozenset((*FUNCTIONS, *_OPERATORS))  # words that may precede a bracket
_KEYWORDS = frozenset(
    [
        *("IS", "NULL", "TRUE", "FALSE", "UNKNOWN", "DISTINCT", "ESCAPE", "END", "AS", "INTERVAL", "TIMESTAMP"),
        *("INT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "REAL", "VARCHAR", "TEXT", "BOOLEAN"),
    ]
)
_QUERIES = frozenset(
    ["SELECT", "FROM", "WITH", "TABLE", "UNION", "EXISTS", "VALUES", "INTO", "JOIN", "ANY", "ALL", "SOME"]
)
_TOKEN = re.compile(
    r"""\s+|'(?:[^']|'')*'|(?P<name>"(?:[^"]|"")*")|(?P<word>[^\W\d]\w*)|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+"""
    r"""|(?!--|/\*)(?:::|\|\||[-=<>!+*/%(),~^@&|])"""
)
_NO_CONDITION = "is not an SQL condition such as \"age_days < 1 AND language = 'de'\": "


class NoCandidatesError(ValueError):
    """No video may be shown."""


def parse_condition(only: str) -> pl.Expr:
    """Return `[index] only` as an expression of `COLUMNS`.

    Raises ValueError if it is not a condition, uses other columns, or contains anything but values, operators and
    `FUNCTIONS`: the SQL of polars has functions that open files.
    """
    _check_words(only)
    try:
        expression = pl.sql_expr(only)
        for name in expression.meta.root_names():
            _check_column(name)
        dtypes = pl.DataFrame(schema={**VIDEO_SCHEMA, AGE: pl.Int64()}).select(expression.alias(AGE)).dtypes
    except pl.exceptions.PolarsError as error:
        raise ValueError(_NO_CONDITION + str(error).splitlines()[0]) from error
    if dtypes != [pl.Boolean()]:
        raise ValueError(f'must be true or false for a video, like "age_days < 1", but has the type {dtypes[0]}')
    return expression


def _check_words(only: str) -> None:
    """Raise ValueError for the first word that is not a value, an operator, a column or one of `FUNCTIONS`."""
    start = 0
    while start < len(only):
        token = _TOKEN.match(only, start)
        if token is None:
            raise ValueError(f"{_NO_CONDITION}unexpected token {only[start]}")
        start, word = token.end(), token["word"]
        if word and only[start:].lstrip().startswith("(") and word.upper() not in _CALLABLE:
            known = ", ".join(FUNCTIONS)
            raise ValueError(f"may not call {word}: a condition may use columns, values, operators and {known}")
        if word and word.upper() in _QUERIES:
            raise ValueError(f"{_NO_CONDITION}unexpected token {word}")
        if word and word.upper() not in _CALLABLE and word.upper() not in _KEYWORDS:
            _check_column(word)
        if name := token["name"]:
            _check_column(name[1:-1].replace('""', '"'))


def _check_column(name: str) -> None:
    if name not in COLUMNS:
        nearest = difflib.get_close_matches(name, COLUMNS, 1, cutoff=0)[0]
        known = f"known are {', '.join(COLUMNS)}; text goes in 'single quotes'"
        raise ValueError(f"there is no column {name}; did you mean {nearest}? ({known})")


def condition_columns(only: str | None) -> set[str]:
    """Return the columns that a condition uses; the empty set if there is no condition."""
    return set() if only is None else set(parse_condition(only).meta.root_names())


def candidate_videos(
    vectors: pl.DataFrame, catalogue: pl.DataFrame | None, only: str | None = None, end: dt.datetime | None = None
) -> pl.DataFrame:
    """Return the videos of the model that may be shown: video_id, id, upload_time (null: unknown), ordered by video_id.

    With a catalogue these are the available videos that fulfil `only`; a condition that evaluates to null is not
    fulfilled. Raises NoCandidatesError if there are none.

    vectors: id, video_id of the model's videos. catalogue: video_id, available, upload_time and the columns of `only`
    except `age_days`, which is computed here: whole days from upload_time to `end`.
    """
    known = vectors.select("video_id", "id")
    if catalogue is None:
        unknown = pl.lit(None, pl.Datetime("us", "UTC"))
        videos = _require_rows(known.with_columns(unknown.alias("upload_time")), "the model has no videos")
        return videos.sort("video_id")
    videos = _require_rows(
        known.join(catalogue.filter("available"), on="video_id"),
        "no video of the model is available: does logs.videos contain the videos of logs.watches?",
    )
    message = f"none of the {videos.height} available videos fulfils index.only = {only!r}: relax the condition"
    videos = _require_rows(_fulfilling(videos, only, end), message)
    return videos.select("video_id", "id", "upload_time").sort("video_id")


def recent_videos(
    counts: pl.DataFrame, catalogue: pl.DataFrame, only: str | None = None, *, since: dt.datetime, end: dt.datetime
) -> pl.DataFrame:
    """Return the videos uploaded from `since` to `end` that may be shown, whether or not the model has them: video_id,
    id (null: not a video of the model), upload_time, count (of completed watches), ordered by video_id.

    counts: the vocabulary (`token`, `count`), whose row number from 1 is a video's id. catalogue, only, end: as for
    `candidate_videos`. A video whose upload time is not known is not recent.
    """
    known = counts.select("count", video_id="token", id=pl.int_range(1, pl.len() + 1))
    uploaded = catalogue.filter("available", pl.col("upload_time").is_between(since, end, closed="left"))
    videos = _fulfilling(uploaded, only, end).join(known, on="video_id", how="left")
    return videos.select("video_id", "id", "upload_time", pl.col("count").fill_null(0)).sort("video_id")


def _fulfilling(videos: pl.DataFrame, only: str | None, end: dt.datetime | None) -> pl.DataFrame:
    """Return the videos that fulfil `[index] only`."""
    return videos if only is None else videos.with_columns(_age_days(end)).filter(parse_condition(only))


def _require_rows(videos: pl.DataFrame, message: str) -> pl.DataFrame:
    if videos.is_empty():
        raise NoCandidatesError(message)
    return videos


def _age_days(end: dt.datetime | None) -> pl.Expr:
    since = (pl.lit(end, pl.Datetime("us", "UTC")) - pl.col("upload_time")).dt.total_microseconds()
    return (since // (dt.timedelta(days=1) // dt.timedelta(microseconds=1))).alias(AGE)


def shard_count(videos: int, shard_videos: int) -> int:
    """Return how many shards of at most `shard_videos` videos are needed."""
    return -(-videos // shard_videos)


def shard_positions(video_ids: pl.Series, *, shards: int) -> list[NDArray[np.int32]]:
    """Return the positions of each shard, ascending. The sizes of shards differ by at most one.

    Videos are assigned by the digest of their id, so each shard is a fair sample of all videos.
    """
    digests = mix(id_digests(video_ids).to_numpy(), _SHARD_SALT)
    order = np.argsort(digests, kind="stable").astype(np.int32)
    return [np.sort(part) for part in np.array_split(order, shards)]
