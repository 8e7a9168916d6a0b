"""KuaiRand and KuaiRec: short videos of Kuaishou, with watch times.

`kuairand-pure-processed` reads KuaiRand-Pure as a public repository keeps it: full logs of the validation and test
days, and of the days before only the last 50 videos of each user, without times. Their times are spaced evenly, in
order, from 2022-04-08 to the user's last event, so the age of these events means little.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import polars as pl

from pipelines.datasets.data_set import (
    DataSet,
    Frames,
    Request,
    Source,
    from_epoch,
    number,
    optional,
    required,
    seconds_of,
)
from pipelines.datasets.tables import check_columns, read_table, read_whole
from transforms.logs.readers import column_names

BEIJING = "Asia/Shanghai"
_BEIJING_MS = 8 * 3_600_000
_FIRST_MS = 1_649_347_200_000  # 2022-04-08 00:00 in Beijing
_VIDEOS = {"video_id": "video_id", "author_id": "author_id", "upload_dt": "upload_dt", "duration": "video_duration"}
_PARTS = {"val": "validation", "test": "test"}
LICENCE = "CC BY-SA 4.0"


def completed_share(request: Request, played: str, length: str) -> pl.Expr:
    """Return whether the played share of the length is at least `completed_from`; false without a length."""
    share = number(played) / number(length)
    return (share.is_finite() & (share >= request.completed_from)).fill_null(False)


def _kuairand_watches(files: tuple[str, ...]) -> Callable[[Source, Request], Frames]:
    def watches(source: Source, request: Request) -> Frames:
        wanted = ("user_id", "video_id", "time_ms", "long_view", "play_time_ms", "duration_ms", "tab")
        for name in files:
            for rows in source.rows(read_table(source[name], {column: column for column in wanted})):
                yield rows.select(
                    "user_id",
                    "video_id",
                    time=from_epoch(pl.col("time_ms"), "ms"),
                    watch_seconds=seconds_of("play_time_ms"),
                    video_seconds=seconds_of("duration_ms"),
                    completed=_long_view(request),
                    tab="tab",
                )

    return watches


def _long_view(request: Request) -> pl.Expr:
    if request.completed_from is None:
        return number("long_view") == 1
    return completed_share(request, "play_time_ms", "duration_ms")


def _kuairand_videos(name: str) -> Callable[[Source], Frames]:
    def videos(source: Source) -> Frames:
        for block in read_table(source[name], _VIDEOS):
            yield _catalogue(block.rows)

    return videos


def _catalogue(rows: pl.DataFrame) -> pl.DataFrame:
    uploaded = pl.col("upload_dt").str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    return rows.select(
        "video_id",
        upload_time=uploaded.cast(pl.Datetime("ms")),
        video_seconds=seconds_of("duration"),
        channel=pl.col("author_id").cast(pl.String),
    )


def _kuairand_users(name: str) -> Callable[[Source], Frames]:
    def users(source: Source) -> Frames:
        for block in read_table(source[name], {"user_id": "user_id", "activity": "user_active_degree"}):
            yield block.rows

    return users


def _kuairand(edition: str, size: str, logs: tuple[str, ...]) -> DataSet:
    suffix = edition.lower()
    users, videos = f"user_features_{suffix}.csv", f"video_features_basic_{suffix}.csv"
    names = tuple(f"log_standard_{part}.csv" for part in logs)
    return DataSet(
        name=f"kuairand-{suffix}",
        title=f"KuaiRand-{edition}",
        page="https://zenodo.org/records/10439422",
        licence=LICENCE,
        size=size,
        files=(*map(required, names), required(videos), required(users)),
        completed="the publisher's `long_view`: played to the end, or for 18 seconds",
        measure="share of the length",
        time_zone=BEIJING,
        user_categories=("activity",),
        watches=_kuairand_watches(names),
        videos=_kuairand_videos(videos),
        users=_kuairand_users(users),
    )


def _sequences(source: Source) -> pl.DataFrame:
    """Return the last watches of each user up to 2022-04-24: those that are in the list of long views are completed.

    Both lists are in the order of time. They are aligned from the end.
    """
    path = source["processed/user_sequences.parquet"]
    columns = ["user_id", "history_len", "last_time_ms", "watch_seq", "long_watch_seq"]
    rows = []
    for user, count, last_ms, watched, long_views in _read_columns(path, columns).iter_rows():
        left = len(long_views)
        completed = [False] * len(watched)
        for at in reversed(range(len(watched))):
            if left and watched[at] == long_views[left - 1]:
                completed[at], left = True, left - 1
        first = count - len(watched) + 1
        shares = [(first + at) / count for at in range(len(watched))]
        # The float sum is truncated, not the product: the two differ by a millisecond in some rows.
        rows.append((user, watched, completed, [int(_FIRST_MS + share * (last_ms - _FIRST_MS)) for share in shares]))
    lists = {"video_id": pl.List(pl.Int64), "completed": pl.List(pl.Boolean), "time_ms": pl.List(pl.Int64)}
    frame = pl.DataFrame(rows, schema=pl.Schema({"user_id": pl.Int64(), **lists}), orient="row")
    return frame.explode("video_id", "completed", "time_ms").drop_nulls("video_id")


def _read_columns(path: Path, columns: list[str]) -> pl.DataFrame:
    check_columns(path, column_names(str(path)), columns)
    return pl.read_parquet(str(path), columns=columns, glob=False)


def _processed_watches(source: Source, request: Request) -> Frames:
    lengths = _read_columns(source["processed/item_features.parquet"], ["video_id", "video_duration"])
    before = _sequences(source).join(lengths, on="video_id", how="left")
    yield before.select(
        "user_id",
        "video_id",
        time=_beijing(pl.col("time_ms")),
        watch_seconds=pl.lit(None, pl.Float32),
        video_seconds=seconds_of("video_duration"),
        completed="completed",
        tab=pl.lit(None, pl.String),
        part=pl.lit("train"),
        wanted="completed",
    )
    for name, part in _PARTS.items():
        wanted = ["user_id", "video_id", "time_ms", "long_view", "play_time_ms", "duration_ms", "tab", "is_positive"]
        yield _read_columns(source[f"processed/{name}.parquet"], wanted).select(
            "user_id",
            "video_id",
            time=_beijing(pl.col("time_ms")),
            watch_seconds=seconds_of("play_time_ms"),
            video_seconds=seconds_of("duration_ms"),
            completed=_long_view(request),
            tab=pl.col("tab").cast(pl.String),
            part=pl.lit(part),
            wanted=pl.col("is_positive") == 1,
        )


def _beijing(milliseconds: pl.Expr) -> pl.Expr:
    """Return Beijing's wall clock as if it were UTC, so that days are days of Beijing."""
    return (milliseconds + _BEIJING_MS).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def _processed_videos(source: Source) -> Frames:
    wanted = ["video_id", "upload_dt_parsed", "video_duration"]
    yield _read_columns(source["processed/item_features.parquet"], wanted).select(
        pl.col("video_id").cast(pl.String),
        upload_time=pl.col("upload_dt_parsed").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"),
        video_seconds=seconds_of("video_duration"),
        available=pl.lit(True),
    )


def _processed_users(source: Source) -> Frames:
    users = _read_columns(source["processed/user_features.parquet"], ["user_id", "user_active_degree"])
    yield users.select(pl.col("user_id").cast(pl.String), activity="user_active_degree")


def _kuairec_watches(source: Source, request: Request) -> Frames:
    wanted = ("user_id", "video_id", "play_duration", "video_duration", "timestamp")
    for rows in source.rows(read_table(source["big_matrix.csv"], {column: column for column in wanted})):
        yield rows.select(
            "user_id",
            "video_id",
            time=from_epoch(pl.col("timestamp")),
            watch_seconds=seconds_of("play_duration"),
            video_seconds=seconds_of("video_duration"),
            completed=completed_share(request, "play_duration", "video_duration"),
        )


def _kuairec_videos(source: Source) -> Frames:
    rows = read_whole(source["item_daily_features.csv"], _VIDEOS)
    yield _catalogue(rows.unique("video_id", keep="last", maintain_order=True))


DATA_SETS = (
    _kuairand("Pure", "46 MB packed, 194 MB unpacked", ("4_08_to_4_21_pure", "4_22_to_5_08_pure")),
    _kuairand("1K", "4.3 GB unpacked", ("4_08_to_4_21_1k", "4_22_to_5_08_1k")),
    _kuairand(
        "27K",
        "46 GB unpacked",
        tuple(f"{days}_27k_part{n}" for days in ("4_08_to_4_21", "4_22_to_5_08") for n in (1, 2)),
    ),
    DataSet(
        name="kuairand-pure-processed",
        title="KuaiRand-Pure, processed",
        page="https://github.com/wmyh-0416/kuairand-short-video-recommender",
        licence=LICENCE,
        size="23 MB",
        files=tuple(
            required(f"processed/{name}.parquet")
            for name in ("user_sequences", "item_features", "user_features", "val", "test")
        ),
        completed="the publisher's `long_view`: played to the end, or for 18 seconds",
        user_categories=("activity",),
        is_split=True,
        watches=_processed_watches,
        videos=_processed_videos,
        users=_processed_users,
    ),
    DataSet(
        name="kuairec",
        title="KuaiRec 2.0",
        page="https://kuairec.com",
        licence=LICENCE,
        size="432 MB packed",
        files=(required("big_matrix.csv"), optional("item_daily_features.csv")),
        completed="half of the video's length played",
        measure="share of the length",
        completed_from=0.5,
        time_zone=BEIJING,
        last_day=dt.date(2020, 9, 5),
        watches=_kuairec_watches,
        videos=_kuairec_videos,
    ),
)
