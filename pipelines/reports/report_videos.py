"""The videos in a report: examples of similar videos with titles, and a map of the video vectors."""

from __future__ import annotations

import numpy as np
import polars as pl

from pipelines.base import manifest, paths
from pipelines.night import artifacts
from pipelines.night.night import Night
from transforms.core import files
from transforms.report.video_map import VideoMap, video_map
from transforms.search.similar import SIMILAR

SHOWN_VIDEOS = 6  # per group
SHOWN_NEIGHBOURS = 5
MAPPED = 2_000  # the most popular videos: more points are not distinguishable
_TRIED = 10 * SHOWN_VIDEOS  # some of these may have no neighbours because they may not be recommended
_GROUPS = ("language", "channel")  # the map is coloured by the first of these with more than one value

Neighbours = list[tuple[str, list[tuple[str, float]]]]


def similar(night: Night) -> dict[str, Neighbours]:
    """Return titles of popular, medium and new videos, each with the titles and cosines of its nearest neighbours."""
    listed = manifest.entry_paths(night.require("neighbours").named(SIMILAR), night.folder("neighbours"))
    if not listed:
        return {}
    rows = pl.concat(files.read_parquet(path) for path in listed)
    found: dict[str, Neighbours] = {}
    for group, wanted in _wanted(night).items():
        shown = wanted.to_frame("video_id").join(rows, on="video_id", maintain_order="left").head(SHOWN_VIDEOS)
        titles = night.ingested.titles({*shown["video_id"], *shown["video_ids"].explode()})
        videos = [
            (titles.get(video, video), _nearest(ids, cosines, titles)) for video, ids, cosines in shown.iter_rows()
        ]
        found |= {group: videos} if videos else {}
    return found


def map_of(night: Night) -> VideoMap | None:
    """Return a two-dimensional map of the most popular videos; None if there are fewer than three."""
    vectors = _vectors(night, ["id", "video_id", "vector"]).head(MAPPED)
    known = _catalogue(night, ["video_id", *_GROUPS])
    groups = vectors.select("video_id").join(known, on="video_id", how="left", maintain_order="left")
    by = next((name for name in _GROUPS if name in groups.columns and groups[name].drop_nulls().n_unique() > 1), "")
    names = groups[by].cast(pl.String).fill_null("not known").to_list() if by else ["videos"] * vectors.height
    matrix = np.array(vectors["vector"].to_list(), np.float32).reshape(vectors.height, -1)
    return video_map(matrix, names, by=by or "nothing: the catalogue has neither language nor channel")


def _wanted(night: Night) -> dict[str, pl.Series]:
    """Return the video ids of each group, in order of preference."""
    ids = _vectors(night, ["id", "video_id"])["video_id"]
    groups = {"Popular videos": ids.head(_TRIED), "Medium videos": ids.slice(ids.len() // 2, _TRIED)}
    uploads = _catalogue(night, ["video_id", "upload_time"])
    if "upload_time" in uploads.columns:
        new = uploads.drop_nulls().filter(pl.col("video_id").is_in(ids.implode()))
        groups["New videos"] = new.sort("upload_time", "video_id", descending=True)["video_id"].head(_TRIED)
    return groups


def _nearest(ids: list[str], cosines: list[float], titles: dict[str, str]) -> list[tuple[str, float]]:
    nearest = list(zip(ids, cosines, strict=True))[:SHOWN_NEIGHBOURS]
    return [(titles.get(other, other), cosine) for other, cosine in nearest]


def _vectors(night: Night, columns: list[str]) -> pl.DataFrame:
    """Return columns of the video vectors, ordered by id, which is the order of popularity."""
    return files.read_parquet(paths.join(night.folder("train"), artifacts.VIDEO_VECTORS), columns).sort("id")


def _catalogue(night: Night, columns: list[str]) -> pl.DataFrame:
    path = night.ingested.catalogue()
    if path is None:
        return pl.DataFrame(schema={"video_id": pl.String})
    found = files.read_parquet(path)
    return found.select(name for name in columns if name in found.columns)
