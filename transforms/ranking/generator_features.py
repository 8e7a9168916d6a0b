"""Features from the candidate generator: the score and rank of a video shown, and its similarity to the history.

A night's model was trained on events before its date only, so it has not seen the outcome of any page that began on
that date or later. The vectors of two nights are in different spaces: only scores and cosines within a night are used.

    numbers = generator_features(features, context, nights)      # float32 [shown] by name, NaN if unknown
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core import files
from transforms.core.process_cache import process_cache
from transforms.ranking.features import Features, ImpressionContext
from transforms.ranking.timelines import Floats, Ints
from transforms.search.index_files import directions, to_matrix

GENERATOR_NUMBERS = ("score", "rank", "similarity_last", "similarity_history")
HISTORY = 50  # last watches whose mean vector a video is compared with
_ROWS_AT_ONCE = 1 << 16  # vectors gathered at once: 64 MB of 256 floats
_REQUESTS_AT_ONCE = _ROWS_AT_ONCE // HISTORY


@dataclass(frozen=True, kw_only=True)
class GeneratorNight:
    """The files of one night's generator for the users of one bucket."""

    start: dt.datetime  # 00:00 of its date; used for pages that begin from then on, until the next night
    videos: str  # path of the model's video vectors
    trends: int = 0  # components of a video vector, before the bias, that are trends
    vectors: tuple[str, ...] = ()  # paths of user_id, vector; not needed if the night's own lists are ranked
    lists: tuple[str, ...] = ()  # paths of `neighbours.LISTS`; they may contain other users; also not needed then


@dataclass(frozen=True, kw_only=True)
class VideoVectors:
    """The video vectors of a night."""

    video_ids: pl.Series
    vectors: Floats  # [videos, d + 1]: [v; b]
    directions: Floats  # [videos, d - trends], a view
    lengths: Floats  # of the directions


@process_cache
def read_video_vectors(source: tuple[str, int]) -> VideoVectors:
    """Return the video vectors at a path, read once per process. source: the path, and `GeneratorNight.trends`."""
    path, trends = source
    rows = files.read_parquet(path, ["video_id", "vector"])
    vectors = to_matrix(rows["vector"])
    v = directions(vectors, trends=trends)
    lengths = np.linalg.norm(v, axis=1).astype(np.float32)
    return VideoVectors(video_ids=rows["video_id"], vectors=vectors, directions=v, lengths=lengths)


def generator_features(
    features: Features, context: ImpressionContext, nights: Sequence[GeneratorNight], *, listed: bool = False
) -> dict[str, Floats]:
    """Return `GENERATOR_NUMBERS`, each float32 [shown], of the newest night that had begun at the page's first moment.

    listed: `features.shown` are candidates from a night's lists and already has the columns score and rank.
    """
    found = {name: np.full(features.shown.height, np.nan, np.float32) for name in GENERATOR_NUMBERS}
    ordered = sorted(nights, key=lambda night: night.start)
    times = features.requests["time"].gather(features.request)
    for number, night in enumerate(ordered):
        applies = times >= night.start
        if number + 1 < len(ordered):
            applies &= times < ordered[number + 1].start
        rows = applies.arg_true().to_numpy().astype(np.int64)
        if len(rows):
            for name, values in _night_features(features, context, night, rows, listed).items():
                found[name][rows] = values
    return found


def _night_features(
    features: Features, context: ImpressionContext, night: GeneratorNight, rows: Ints, listed: bool
) -> dict[str, Floats]:
    videos = read_video_vectors((night.videos, night.trends))
    place = lookup_rows(context.video_ids, videos.video_ids)
    shown = features.shown[rows]
    row_of = place[features.videos[rows]]
    requests, request = np.unique(features.request[rows], return_inverse=True)
    last, mean = _histories(features, context, videos, place, requests)
    if listed:
        known = {name: shown[name].cast(pl.Float32).to_numpy() for name in ("score", "rank")}
    else:
        users = features.requests["user_id"].gather(requests).cast(pl.String)
        known = {"score": _scores(users, night, videos, row_of, request), "rank": _ranks(shown, night)}
    return {
        **known,
        "similarity_last": _cosines(videos, row_of, videos.directions[np.maximum(last, 0)], request, last >= 0),
        "similarity_history": _cosines(videos, row_of, mean, request, np.any(mean != 0, axis=1)),
    }


def lookup_rows(ids: pl.Series, values: pl.Series) -> Ints:
    """Return the row of each id in distinct values; -1 if it is not there."""
    rows = pl.DataFrame({"id": values}).with_row_index("row")
    found = ids.to_frame("id").join(rows, on="id", how="left", maintain_order="left")["row"]
    return found.cast(pl.Int64).fill_null(-1).to_numpy()


def _scores(users: pl.Series, night: GeneratorNight, videos: VideoVectors, row_of: Ints, request: Ints) -> Floats:
    """Return u.v + b of each video shown. users: of each request."""
    wanted = users.unique().to_frame("user_id")
    rows = pl.concat([files.read_parquet(path).join(wanted, on="user_id", how="semi") for path in night.vectors])
    if rows.is_empty():
        return np.full(len(row_of), np.nan, np.float32)
    vectors, row_of_request = to_matrix(rows["vector"]), lookup_rows(users, rows["user_id"])
    found = np.full(len(row_of), np.nan, np.float32)
    for part in _slices(len(row_of), _ROWS_AT_ONCE):
        user, video = row_of_request[request[part]], row_of[part]
        product = np.einsum("nd,nd->n", vectors[np.maximum(user, 0)], videos.vectors[np.maximum(video, 0)])
        found[part] = np.where((user >= 0) & (video >= 0), product, np.nan)
    return found


def _ranks(shown: pl.DataFrame, night: GeneratorNight) -> Floats:
    """Return the rank of each video in its user's list, from 1; NaN if it is not in the list."""
    ids = shown.select(pl.col("user_id", "video_id").cast(pl.String))
    wanted = ids.select("user_id").unique()
    ranked = []
    for path in night.lists:
        lists = files.read_parquet(path, ["user_id", "video_ids"]).join(wanted, on="user_id", how="semi")
        place = pl.int_ranges(1, pl.col("video_ids").list.len() + 1, dtype=pl.Int64).alias("rank")
        ranked.append(lists.with_columns(place).explode("video_ids", "rank", empty_as_null=False, keep_nulls=False))
    listed = pl.concat(ranked).rename({"video_ids": "video_id"})
    found = ids.join(listed, on=["user_id", "video_id"], how="left", maintain_order="left")
    return found["rank"].cast(pl.Float32).fill_null(np.nan).to_numpy()


def _histories(
    features: Features, context: ImpressionContext, videos: VideoVectors, place: Ints, requests: Ints
) -> tuple[Ints, Floats]:
    """Return (row of the last video watched, mean v of the last `HISTORY` watches) of requests: [n], [n, d].

    The row is -1 if that video has no vector. The mean is over the watches that have one, and 0 if there are none.
    """
    first, end = features.watches.first[requests], features.watches.end[requests]
    watched = np.append(place[context.watched], -1)  # never empty, so that it can be indexed without watches
    last = np.where(end > first, watched[np.maximum(end - 1, 0)], -1)
    mean = np.zeros((len(requests), videos.directions.shape[1]), np.float32)
    for part in _slices(len(requests), _REQUESTS_AT_ONCE):
        mean[part] = _mean_vectors(videos.directions, _last_rows(watched, first[part], end[part]))
    return last, mean


def _last_rows(watched: Ints, first: Ints, end: Ints) -> Ints:
    """Return the last `HISTORY` of watched[first:end] of each request, newest first, padded with -1: [n, HISTORY]."""
    index = end[:, None] - 1 - np.arange(HISTORY)
    return np.where(index >= first[:, None], watched[np.maximum(index, -1)], -1)


def _mean_vectors(vectors: Floats, rows: Ints) -> NDArray[np.float64]:
    """Return the mean of the vectors in each line of rows [n, m], of which -1 is none: [n, d], 0 without any."""
    known = rows >= 0
    line = np.nonzero(known)[0]
    sums = np.zeros((len(rows), vectors.shape[1]), np.float32)
    starts = np.flatnonzero(np.append(True, line[1:] != line[:-1])[: len(line)])
    if len(line):
        sums[line[starts]] = np.add.reduceat(vectors[rows[known]], starts, axis=0)
    return np.asarray(sums / np.maximum(known.sum(axis=1), 1)[:, None])


def _cosines(videos: VideoVectors, row_of: Ints, other: Floats, request: Ints, known: np.ndarray) -> Floats:
    """Return the cosine of each video shown and its request's vector in `other` [requests, d].

    It is NaN if one of the two is unknown or zero.
    """
    lengths = np.linalg.norm(other, axis=1)
    found = np.full(len(row_of), np.nan, np.float32)
    for part in _slices(len(row_of), _ROWS_AT_ONCE):
        row, video = request[part], row_of[part]
        product = np.einsum("nd,nd->n", other[row], videos.directions[np.maximum(video, 0)])
        norms = lengths[row] * videos.lengths[np.maximum(video, 0)]
        is_known = known[row] & (video >= 0) & (norms > 0)
        found[part] = np.divide(product, norms, out=np.full(len(row), np.nan, np.float32), where=is_known)
    return found


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
