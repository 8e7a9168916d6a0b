"""The videos a report shows: which, with which neighbours, and where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_frames import hours
from nights import commit, night, write_job

from pipelines.night import artifacts
from pipelines.night.night import Night
from pipelines.reports import report_videos
from pipelines.reports.report_videos import SHOWN_NEIGHBOURS, SHOWN_VIDEOS
from transforms.core import files
from transforms.logs.schemas import TIME

N = 400  # v000 is the most popular
IDS = [f"v{n:03d}" for n in range(N)]


def made(folder: Path, catalogue: dict[str, Any] | None = None, *, similar: bool = True, videos: int = N) -> Night:
    """A night whose videos are near those after them; of each third nothing is known, as they may not be shown."""
    of = night(write_job(folder, 'watches = "w"'))
    rows = pl.DataFrame({"video_id": IDS, **catalogue}) if catalogue is not None else None
    commit(of, "ingest", [] if rows is None else [files.write_parquet(rows, of.folder("ingest"), "videos-aa.parquet")])
    vectors = pl.DataFrame(
        {
            "id": range(1, videos + 1),
            "video_id": IDS[:videos],
            "vector": [[np.cos(n), np.sin(n), 0.0] for n in range(videos)],
        }
    ).sample(fraction=1, shuffle=True, seed=1)
    commit(of, "train", [files.write_parquet(vectors, of.folder("train"), artifacts.VIDEO_VECTORS)])
    near = pl.DataFrame(
        {
            "video_id": [video for n, video in enumerate(IDS) if n % 3],
            "video_ids": [[IDS[(n + i) % N] for i in range(1, 8)] for n in range(N) if n % 3],
            "scores": [[1 - i / 10 for i in range(1, 8)] for n in range(N) if n % 3],
        }
    )
    parts = enumerate([near.head(7), near.slice(7)])
    listed = [files.write_parquet(part, of.folder("neighbours"), f"../similar/{n}.parquet") for n, part in parts]
    commit(of, "neighbours", listed if similar else [])
    return of


def test_popular_middling_and_new_videos_have_their_nearest_with_titles(tmp_path: Path) -> None:
    uploads = pl.Series([hours(n % 101) if n % 7 else None for n in range(N)], dtype=TIME)
    titles = [f"title {n}" if n != 2 else None for n in range(N)]
    found = report_videos.similar(made(tmp_path, {"upload_time": uploads, "title": titles}))
    assert list(found) == ["Popular videos", "Medium videos", "New videos"]
    shown = {group: [title for title, _ in videos] for group, videos in found.items()}
    assert shown["Popular videos"] == ["title 1", "v002", "title 4", "title 5", "title 7", "title 8"]
    assert shown["Medium videos"] == [f"title {n}" for n in range(200, 209) if n % 3]
    newest = sorted((n for n in range(N) if n % 7), key=lambda n: (n % 101, n), reverse=True)
    assert shown["New videos"] == [f"title {n}" for n in newest if n % 3][:SHOWN_VIDEOS]
    nearest = found["Popular videos"][0][1]
    assert [title for title, _ in nearest] == ["v002", "title 3", "title 4", "title 5", "title 6"]
    assert [cosine for _, cosine in nearest] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert len(nearest) == SHOWN_NEIGHBOURS


def test_without_a_catalogue_ids_are_shown_and_no_video_is_new(tmp_path: Path) -> None:
    found = report_videos.similar(made(tmp_path))
    assert list(found) == ["Popular videos", "Medium videos"]
    assert found["Popular videos"][0][0] == "v001"


def test_where_none_is_similar_nothing_is_shown(tmp_path: Path) -> None:
    assert report_videos.similar(made(tmp_path, similar=False)) == {}


@pytest.mark.parametrize(
    ("catalogue", "by", "groups"),
    [
        ({"language": ["en", "de"] * (N // 2), "channel": ["c"] * N}, "language", {"en", "de"}),
        ({"language": ["en"] * N, "channel": ["a", None] * (N // 2)}, "nothing", {"videos"}),
        ({"language": ["en", None] * (N // 2), "channel": ["a", "b"] * (N // 2)}, "channel", {"a", "b"}),
        (None, "nothing", {"videos"}),
    ],
)
def test_the_colours_of_the_map(tmp_path: Path, catalogue: dict[str, Any] | None, by: str, groups: set[str]) -> None:
    found = report_videos.map_of(made(tmp_path, catalogue))
    assert found is not None and found.by.split(":")[0] == by and set(found.groups) == groups
    assert len(found.places) == N and found.kept == pytest.approx(1)
    if by == "language":
        assert found.groups == ["en", "de"] * (N // 2), "groups go with their videos, in the order of the ids"


def test_two_videos_have_no_map(tmp_path: Path) -> None:
    assert report_videos.map_of(made(tmp_path, videos=2)) is None
