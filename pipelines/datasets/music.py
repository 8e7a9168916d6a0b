"""Music: Last.fm 1K and 360K (Celma), and Yambda (Yandex)."""

from __future__ import annotations

import datetime as dt

import polars as pl
import polars_hash as plh

from pipelines.datasets.data_set import (
    QUARTER_HOUR,
    TIME,
    DataSet,
    FirstRows,
    Frames,
    Request,
    Source,
    number,
    optional,
    required,
)
from pipelines.datasets.tables import Separated, read_table, read_whole

_LISTENS_1K = "userid-timestamp-artid-artname-traid-traname.tsv"
_PLAYS_360K = "usersha1-artmbid-artname-plays.tsv"
_1K = Separated(separator="\t", columns=("user_id", "time", "artist_id", "artist", "track_id", "track"))
_360K = Separated(separator="\t", columns=("user_id", "artist_id", "artist", "plays"))
_PROFILE_1K = Separated(separator="\t")
_PROFILE_360K = Separated(separator="\t", columns=("user_id", "gender", "age", "country", "since"))
_END_360K = dt.datetime(2008, 9, 1, tzinfo=dt.UTC)
_SLOTS_360K = 28 * 24 * 4  # quarters of an hour in four weeks
_START_YAMBDA = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def _either(identifier: str, name: pl.Expr) -> pl.Expr:
    """Return the MusicBrainz id, or the name if there is none."""
    return pl.coalesce(identifier, name)


_TRACK = _either("track_id", pl.concat_str("artist", pl.lit(" - "), "track"))
_ARTIST = _either("artist_id", pl.col("artist"))


def _listens_1k(source: Source, request: Request) -> Frames:
    blocks = read_table(source[_LISTENS_1K], {name: name for name in _1K.columns}, layout=_1K)
    for rows in source.rows(blocks):
        time = pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="ms", strict=False)
        yield rows.select("user_id", video_id=_TRACK, time=time.dt.replace_time_zone("UTC"), completed=pl.lit(True))


def _tracks_1k(source: Source) -> Frames:
    blocks = read_table(source[_LISTENS_1K], {name: name for name in _1K.columns[2:]}, layout=_1K)
    tracks = (block.rows.select(video_id=_TRACK, title="track", channel="artist") for block in blocks)
    yield from _distinct(tracks)


def _distinct(frames: Frames) -> Frames:
    """Yield the first row of each `video_id`, in one frame."""
    found = FirstRows("video_id")
    for frame in frames:
        found.add(frame)
    yield found.frame()


def _users_1k(source: Source) -> Frames:
    wanted = {"user_id": "#id", "gender": "gender", "nation": "country"}
    yield read_whole(source["userid-profile.tsv"], wanted, layout=_PROFILE_1K)


def _plays_360k(source: Source, request: Request) -> Frames:
    blocks = read_table(source[_PLAYS_360K], {name: name for name in _360K.columns}, layout=_360K)
    for plays in source.rows(blocks):
        rows = plays.with_columns(video_id=_ARTIST)
        rows = rows.with_columns(pair=pl.concat_str("user_id", pl.lit("\t"), "video_id"))
        slot = plh.col("pair").nchash.xxhash64(seed=0) % _SLOTS_360K
        yield rows.select(
            "user_id",
            "video_id",
            time=(pl.lit(_END_360K) - QUARTER_HOUR * (slot.cast(pl.Int64) + 1)).cast(TIME),
            completed=number("plays") >= request.completed_from,
        )


def _artists_360k(source: Source) -> Frames:
    blocks = read_table(source[_PLAYS_360K], {name: name for name in _360K.columns[1:3]}, layout=_360K)
    yield from _distinct(block.rows.select(video_id=_ARTIST, title="artist") for block in blocks)


def _users_360k(source: Source) -> Frames:
    wanted = {"user_id": "user_id", "gender": "gender", "nation": "country"}
    yield read_whole(source["usersha1-profile.tsv"], wanted, layout=_PROFILE_360K)


def _listens_yambda(source: Source, request: Request) -> Frames:
    wanted = {name: name for name in ("uid", "item_id", "timestamp", "played_ratio_pct", "track_length_seconds")}
    for block in read_table(source["listens.parquet"], wanted):
        length = number("track_length_seconds").cast(pl.Float32)
        share = number("played_ratio_pct") / 100
        seconds = number("timestamp").cast(pl.Int64, strict=False)
        yield block.rows.select(
            user_id="uid",
            video_id="item_id",
            time=(pl.lit(_START_YAMBDA) + pl.duration(seconds=seconds)).cast(TIME),
            watch_seconds=(share * length).cast(pl.Float32),
            video_seconds=length,
            completed=(share >= request.completed_from).fill_null(False),
        )


def _tracks_yambda(source: Source) -> Frames:
    wanted = {"video_id": "item_id", "channel": "artist_id"}
    rows = (
        block.rows.with_columns(pl.col("channel").cast(pl.String))
        for block in read_table(source["artist_item_mapping.parquet"], wanted)
    )
    yield from _distinct(rows)


DATA_SETS = (
    DataSet(
        name="lastfm-1k",
        title="Last.fm 1K users",
        page="http://ocelma.net/MusicRecommendationDataset/lastfm-1K.html",
        licence="non-commercial use, with the permission of Last.fm",
        size="642 MB packed, 2.4 GB unpacked",
        files=(required(_LISTENS_1K), optional("userid-profile.tsv")),
        completed="every listen",
        exclude="none",
        last_day=dt.date(2009, 6, 20),
        user_categories=("nation",),
        watches=_listens_1k,
        videos=_tracks_1k,
        users=_users_1k,
    ),
    DataSet(
        name="lastfm-360k",
        title="Last.fm 360K users",
        page="http://ocelma.net/MusicRecommendationDataset/lastfm-360K.html",
        licence="non-commercial use, with the permission of Last.fm",
        size="543 MB packed, 1.6 GB unpacked",
        files=(required(_PLAYS_360K), optional("usersha1-profile.tsv")),
        completed="an artist played at least once",
        measure="number of plays",
        completed_from=1.0,
        user_categories=("nation",),
        watches=_plays_360k,
        videos=_artists_360k,
        users=_users_360k,
    ),
    DataSet(
        name="yambda",
        title="Yambda (flat, 50M, 500M or 5B)",
        page="https://huggingface.co/datasets/yandex/yambda",
        licence="Apache-2.0",
        size="listens.parquet of 5B: 37 GB",
        files=(required("listens.parquet"), optional("artist_item_mapping.parquet")),
        completed="half of the track's length played",
        measure="share of the length",
        completed_from=0.5,
        exclude="none",
        watches=_listens_yambda,
        videos=_tracks_yambda,
    ),
)
