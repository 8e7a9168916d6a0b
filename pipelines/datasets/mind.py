"""MIND: impressions and clicks of Microsoft News.

A watch is a click. The clicks before the logs, of which only the order is published, are a quarter of an hour apart,
the last one before the first day of the logs.
"""

from __future__ import annotations

import datetime as dt

import polars as pl

from pipelines.datasets.data_set import (
    QUARTER_HOUR,
    TIME,
    DataSet,
    FirstRows,
    Frames,
    Request,
    Source,
    optional,
    required,
)
from pipelines.datasets.tables import Separated, read_table

_TRAIN, _DEV = "MINDsmall_train", "MINDsmall_dev"
_BEHAVIORS = Separated(separator="\t", columns=("impression", "user_id", "time", "history", "shown"))
_NEWS = Separated(
    separator="\t",
    columns=("video_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities"),
)
_CLICKED = "-1"
_MOST_EARLIER = 28 * 24 * 4  # quarters of an hour in four weeks, the period of the click histories


def _watches(source: Source, request: Request) -> Frames:
    parts = {"train": f"{_TRAIN}/behaviors.tsv", "test": f"{_DEV}/behaviors.tsv"}
    wanted = {column: column for column in ("user_id", "time", "history", "shown")}
    earlier = FirstRows("user_id")
    first: dt.datetime | None = None
    for part, name in parts.items():
        if source.get(name) is None:
            continue
        for behaviors in source.rows(read_table(source[name], wanted, layout=_BEHAVIORS)):
            time = pl.col("time").str.to_datetime("%m/%d/%Y %I:%M:%S %p", time_unit="ms", strict=False)
            rows = behaviors.with_columns(time.dt.replace_time_zone("UTC"))
            start = rows["time"].min()
            if isinstance(start, dt.datetime):
                first = start if first is None else min(first, start)
            earlier.add(rows.select("user_id", "history").drop_nulls())
            yield _clicks(rows).with_columns(part=pl.lit(part))
    if first is not None:
        yield _earlier_clicks(earlier.frame(), first).with_columns(part=pl.lit("train"))


def _clicks(rows: pl.DataFrame) -> pl.DataFrame:
    shown = rows.drop_nulls("shown").select("user_id", "time", video_id=pl.col("shown").str.split(" "))
    clicked = shown.explode("video_id").filter(pl.col("video_id").str.ends_with(_CLICKED))
    return clicked.select("user_id", pl.col("video_id").str.strip_suffix(_CLICKED), "time", completed=pl.lit(True))


def _earlier_clicks(histories: pl.DataFrame, first: dt.datetime) -> pl.DataFrame:
    """Return the clicks of the histories, in order, the last a quarter of an hour before the first day of the logs."""
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
    lists = histories.select("user_id", video_id=pl.col("history").str.split(" "))
    back = pl.int_ranges(pl.col("video_id").list.len(), 0, -1)
    rows = lists.with_columns(back=back).explode("video_id", "back").filter(pl.col("video_id") != "")
    time = pl.lit(midnight) - QUARTER_HOUR * pl.col("back").clip(upper_bound=_MOST_EARLIER)
    return rows.select("user_id", "video_id", time=time.cast(TIME), completed=pl.lit(True))


def _news(source: Source) -> Frames:
    wanted = {"video_id": "video_id", "title": "title", "channel": "category"}
    for name in (f"{_TRAIN}/news.tsv", f"{_DEV}/news.tsv"):
        if source.get(name) is not None:
            for block in read_table(source[name], wanted, layout=_NEWS):
                yield block.rows


def _names(folder: str, file: str) -> tuple[str, ...]:
    large = folder.replace("small", "large")
    part = folder.partition("_")[2]
    return tuple(f"{name}/{file}" for name in (folder, large, part, *(["valid"] if part == "dev" else [])))


DATA_SETS = (
    DataSet(
        name="mind",
        title="MIND (small or large)",
        page="https://msnews.github.io",
        licence="Microsoft Research License, non-commercial research",
        size="80 MB (small), 900 MB (large) packed",
        files=(
            required(*_names(_TRAIN, "behaviors.tsv")),
            required(*_names(_TRAIN, "news.tsv")),
            optional(*_names(_DEV, "behaviors.tsv")),
            optional(*_names(_DEV, "news.tsv")),
        ),
        completed="every click",
        is_split=True,
        watches=_watches,
        videos=_news,
    ),
)
