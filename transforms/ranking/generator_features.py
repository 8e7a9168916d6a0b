"""What the candidate generator says of videos shown, as of a night: its score and rank, and how near its vectors lie.

A night's model learned from events before its date alone, so of a page that began on that date or later it knows no
outcome. Vectors of two nights lie in two spaces: only products within one night are compared, never the vectors.

    said = generator_features(features, past, nights)      # float32 [shown] by name, NaN where nothing is known
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from transforms.core import files
from transforms.core.threads import process_cache
from transforms.ranking.features import Features, ImpressionContext
from transforms.ranking.timelines import Floats, Ints
from transforms.search.index_files import to_matrix

GENERATOR_NUMBERS = ("score", "rank", "similarity_last", "similarity_history")
HISTORY = 50  # watches whose mean vector a video is compared with
_ROWS_AT_ONCE = 1 << 16  # vectors gathered at once: 64 MB of 256 floats
_REQUESTS_AT_ONCE = _ROWS_AT_ONCE // HISTORY


@dataclass(frozen=True, kw_only=True)
class GeneratorNight:
    """What one night's generator left, for the users of one bucket."""

    start: dt.datetime  # 00:00 of its date: for pages that begin from then on, up to the next night's
    lists: tuple[str, ...]  # paths of `neighbours.LISTS`; the users of other buckets among them do not matter
    vectors: tuple[str, ...]  # paths of user_id, vector
    videos: str  # path of the model's video vectors


@dataclass(frozen=True, kw_only=True)
class VideoVectors:
    """The vectors of a night's videos."""

    video_ids: pl.Series
    vectors: Floats  # [videos, d + 1]: [v; b]
    lengths: Floats  # of v


@process_cache
def read_video_vectors(path: str) -> VideoVectors:
    """Once a process, the last two nights'."""
    rows = files.read_parquet(path, ["video_id", "vector"])
    vectors = to_matrix(rows["vector"])
    return VideoVectors(
        video_ids=rows["video_id"], vectors=vectors, lengths=np.linalg.norm(vectors[:, :-1], axis=1).astype(np.float32)
    )


def generator_features(
    features: Features, past: ImpressionContext, nights: Sequence[GeneratorNight], *, listed: bool = False
) -> dict[str, Floats]:
    """`GENERATOR_NUMBERS`, each float32 [shown]: of the newest night that had begun at the page's first moment.

    listed: what is shown are places of a night's lists, and has their score and rank already.
    """
    found = {name: np.full(features.shown.height, np.nan, np.float32) for name in GENERATOR_NUMBERS}
    ordered = sorted(nights, key=lambda night: night.start)
    times = features.requests["time"].gather(features.request)
    for at, night in enumerate(ordered):
        own = times >= night.start
        if at + 1 < len(ordered):
            own &= times < ordered[at + 1].start
        rows = own.arg_true().to_numpy().astype(np.int64)
        if len(rows):
            for name, values in _of_night(features, past, night, rows, listed).items():
                found[name][rows] = values
    return found


def _of_night(
    features: Features, past: ImpressionContext, night: GeneratorNight, rows: Ints, listed: bool
) -> dict[str, Floats]:
    videos = read_video_vectors(night.videos)
    place = places(past.video_ids, videos.video_ids)
    shown = features.shown[rows]
    row_of = place[features.videos[rows]]
    requests, request = np.unique(features.request[rows], return_inverse=True)
    last, mean = _histories(features, past, videos, place, requests)
    if listed:
        known = {name: shown[name].cast(pl.Float32).to_numpy() for name in ("score", "rank")}
    else:
        users = features.requests["user_id"].gather(requests).cast(pl.String)
        known = {"score": _scores(users, night, videos, row_of, request), "rank": _ranks(shown, night)}
    return {
        **known,
        "similarity_last": _cosines(videos, row_of, videos.vectors[np.maximum(last, 0), :-1], request, last >= 0),
        "similarity_history": _cosines(videos, row_of, mean, request, np.any(mean != 0, axis=1)),
    }


def places(ids: pl.Series, among: pl.Series) -> Ints:
    """The row of each id among distinct others, -1 for none."""
    rows = pl.DataFrame({"id": among}).with_row_index("row")
    found = ids.to_frame("id").join(rows, on="id", how="left", maintain_order="left")["row"]
    return found.cast(pl.Int64).fill_null(-1).to_numpy()


def _scores(users: pl.Series, night: GeneratorNight, videos: VideoVectors, row_of: Ints, request: Ints) -> Floats:
    """u.v + b; users: of each request."""
    wanted = users.unique().to_frame("user_id")
    rows = pl.concat([files.read_parquet(path).join(wanted, on="user_id", how="semi") for path in night.vectors])
    if rows.is_empty():
        return np.full(len(row_of), np.nan, np.float32)
    vectors, of_request = to_matrix(rows["vector"]), places(users, rows["user_id"])
    found = np.full(len(row_of), np.nan, np.float32)
    for part in _parts(len(row_of), _ROWS_AT_ONCE):
        user, video = of_request[request[part]], row_of[part]
        product = np.einsum("nd,nd->n", vectors[np.maximum(user, 0)], videos.vectors[np.maximum(video, 0)])
        found[part] = np.where((user >= 0) & (video >= 0), product, np.nan)
    return found


def _ranks(shown: pl.DataFrame, night: GeneratorNight) -> Floats:
    """The place in the user's list, from 1; NaN where it is not in it."""
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
    features: Features, past: ImpressionContext, videos: VideoVectors, place: Ints, requests: Ints
) -> tuple[Ints, Floats]:
    """For each request the row of the last video watched (-1: without a vector), and the mean v of the last `HISTORY`
    that have one (0 without any): [requests], [requests, d]."""
    first, end = features.watches.first[requests], features.watches.end[requests]
    watched = np.append(place[past.watched], -1)  # so that there is one to look at where nobody watched anything
    last = np.where(end > first, watched[np.maximum(end - 1, 0)], -1)
    mean = np.zeros((len(requests), videos.vectors.shape[1] - 1), np.float32)
    for part in _parts(len(requests), _REQUESTS_AT_ONCE):
        offset = np.arange(HISTORY)
        at = end[part, None] - 1 - offset
        rows = np.where(at >= first[part, None], watched[np.maximum(at, -1)], -1)
        some = rows >= 0
        of = np.nonzero(some)[0]
        sums = np.zeros((len(rows), mean.shape[1]), np.float32)
        starts = np.flatnonzero(np.append(True, of[1:] != of[:-1])[: len(of)])
        if len(of):
            sums[of[starts]] = np.add.reduceat(videos.vectors[rows[some], :-1], starts, axis=0)
        mean[part] = sums / np.maximum(some.sum(axis=1), 1)[:, None]
    return last, mean


def _cosines(videos: VideoVectors, row_of: Ints, other: Floats, request: Ints, known: np.ndarray) -> Floats:
    """The cosine of each video shown with its request's other vector [requests, d]; NaN where one is not known or is
    the zero vector."""
    lengths = np.linalg.norm(other, axis=1)
    found = np.full(len(row_of), np.nan, np.float32)
    for part in _parts(len(row_of), _ROWS_AT_ONCE):
        of, video = request[part], row_of[part]
        product = np.einsum("nd,nd->n", other[of], videos.vectors[np.maximum(video, 0), :-1])
        below = lengths[of] * videos.lengths[np.maximum(video, 0)]
        is_known = known[of] & (video >= 0) & (below > 0)
        found[part] = np.divide(product, below, out=np.full(len(of), np.nan, np.float32), where=is_known)
    return found


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
