"""Which videos are searched: those of the model that may be shown and fulfil `[index] only`; and how they are split
into shards of an index that would be too large for one worker's memory.

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

from transforms.core.frames import id_digests, mix
from transforms.logs.schemas import VIDEO_SCHEMA

AGE = "age_days"
COLUMNS = (*VIDEO_SCHEMA.names(), AGE)  # what a condition may name
_DRAW_OF_SHARDS = 0x736861726473  # "shards": keeps this draw apart from others that ids are mixed for


# What a condition may call: functions of the values of a row, none of which reads anything else.
FUNCTIONS = (
    *("ABS", "CEIL", "FLOOR", "ROUND", "COALESCE", "NULLIF", "GREATEST", "LEAST", "CAST", "DATE", "DATE_PART"),
    *("LOWER", "UPPER", "LENGTH", "CHAR_LENGTH", "TRIM", "LTRIM", "RTRIM", "LEFT", "RIGHT", "SUBSTR", "STRPOS"),
    *("STARTS_WITH", "ENDS_WITH", "REGEXP_LIKE", "CONCAT", "REPLACE"),
)
_OPERATORS = ("AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "ILIKE", "RLIKE", "REGEXP", "THEN", "WHEN", "ELSE", "CASE")
_CALLED = frozenset((*FUNCTIONS, *_OPERATORS))  # words that a bracket may follow
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
_NO_CONDITION = "is no condition in SQL such as \"age_days < 1 AND language = 'de'\": "


class NoCandidatesError(ValueError):
    """Not one video may be shown."""


def condition(only: str) -> pl.Expr:
    """`[index] only` as an expression of `COLUMNS`. Raises ValueError for one that is none, is not of them, or has more
    than operators and `FUNCTIONS`: SQL as polars reads it has functions that open files."""
    _check_words(only)
    try:
        found = pl.sql_expr(only)
        for name in found.meta.root_names():
            _check_column(name)
        kinds = pl.DataFrame(schema={**VIDEO_SCHEMA, AGE: pl.Int64()}).select(found.alias(AGE)).dtypes
    except pl.exceptions.PolarsError as error:
        raise ValueError(_NO_CONDITION + str(error).splitlines()[0]) from error
    if kinds != [pl.Boolean()]:
        raise ValueError(f'must say yes or no of a video, as "age_days < 1" does, but gives {kinds[0]}')
    return found


def _check_words(only: str) -> None:
    """Raise ValueError for the first word of a condition that is neither a value, an operator, a column nor one of
    `FUNCTIONS`."""
    at = 0
    while at < len(only):
        found = _TOKEN.match(only, at)
        if found is None:
            raise ValueError(f"{_NO_CONDITION}unexpected token {only[at]}")
        at, word = found.end(), found["word"]
        if word and only[at:].lstrip().startswith("(") and word.upper() not in _CALLED:
            known = ", ".join(FUNCTIONS)
            raise ValueError(f"may not call {word}: a condition has columns, values, operators and {known}")
        if word and word.upper() in _QUERIES:
            raise ValueError(f"{_NO_CONDITION}unexpected token {word}")
        if word and word.upper() not in _CALLED and word.upper() not in _KEYWORDS:
            _check_column(word)
        if name := found["name"]:
            _check_column(name[1:-1].replace('""', '"'))


def _check_column(name: str) -> None:
    if name not in COLUMNS:
        nearest = difflib.get_close_matches(name, COLUMNS, 1, cutoff=0)[0]
        known = f"known are {', '.join(COLUMNS)}; text stands in 'single quotes'"
        raise ValueError(f"there is no column {name}; did you mean {nearest}? ({known})")


def columns_of(only: str | None) -> set[str]:
    """The columns a condition names; none where there is no condition."""
    return set() if only is None else set(condition(only).meta.root_names())


def candidate_videos(
    vectors: pl.DataFrame, catalogue: pl.DataFrame | None, only: str | None = None, end: dt.datetime | None = None
) -> pl.DataFrame:
    """The videos that may be shown, ordered by video_id: those of the model that a catalogue, if any, says are
    available and of which `only` holds. A null is not fulfilled.

    vectors: id, video_id, of the model. catalogue: video_id, available, upload_time and what `only` names, of which
    `age_days`, whole days from upload_time to `end`, is made here. Gives video_id, id and upload_time, null where not
    known. Raises NoCandidatesError where none is left.
    """
    known = vectors.select("video_id", "id")
    if catalogue is None:
        unknown = pl.lit(None, pl.Datetime("us", "UTC"))
        return _some(known.with_columns(unknown.alias("upload_time")), "the model has no videos").sort("video_id")
    shown = known.join(catalogue.filter("available"), on="video_id")
    shown = _some(shown, "no video of the model is available: does logs.videos know the videos of logs.watches?")
    if only is not None:
        told = f"none of the {shown.height} videos that are available fulfils index.only = {only!r}: ask for less"
        shown = _some(shown.with_columns(_age_days(end)).filter(condition(only)), told)
    return shown.select("video_id", "id", "upload_time").sort("video_id")


def _some(videos: pl.DataFrame, message: str) -> pl.DataFrame:
    if videos.is_empty():
        raise NoCandidatesError(message)
    return videos


def _age_days(end: dt.datetime | None) -> pl.Expr:
    since = (pl.lit(end, pl.Datetime("us", "UTC")) - pl.col("upload_time")).dt.total_microseconds()
    return (since // (dt.timedelta(days=1) // dt.timedelta(microseconds=1))).alias(AGE)


def shard_count(videos: int, shard_videos: int) -> int:
    """How many shards of at most `shard_videos` hold them."""
    return -(-videos // shard_videos)


def shard_positions(video_ids: pl.Series, *, shards: int) -> list[NDArray[np.int32]]:
    """The positions of each shard, rising: in the order of the ids' digests, cut into parts that differ by one at most.

    Drawn by digest, a shard is a fair sample of all videos, whatever their ids say of them.
    """
    digests = mix(id_digests(video_ids).to_numpy(), _DRAW_OF_SHARDS)
    order = np.argsort(digests, kind="stable").astype(np.int32)
    return [np.sort(part) for part in np.array_split(order, shards)]
