"""The features of videos compared with plain Python."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from transforms.examples.tokens import tokens
from transforms.examples.video_features import FEATURES, video_features
from transforms.logs.schemas import VIDEO_SCHEMA

VALUES = {
    "channel": st.one_of(st.none(), st.sampled_from(["c1", "c 2", ""])),
    "language": st.one_of(st.none(), st.sampled_from(["de", "en"])),
    "video_seconds": st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0, 1.99, 2.0, 256.0, 511.5, 512.0])),
    "title": st.one_of(st.none(), st.sampled_from(["Köln Dom", "köln  dom DOM", "", "東京", "a-b a b"])),
}


def by_hand(video: dict[str, Any]) -> set[str]:
    found = {f"{kind}:{video[kind]}" for kind in ("channel", "language") if video[kind] is not None}
    if video["video_seconds"] and video["video_seconds"] >= 1:
        found.add(f"length:{int(math.log2(video['video_seconds']))}")
    return found | {f"title:{token}" for token in tokens(video["title"] or "")}


@given(st.lists(st.fixed_dictionaries(VALUES), max_size=5))
def test_features_are_those_of_each_video(videos: list[dict[str, Any]]) -> None:
    schema = {name: VIDEO_SCHEMA[name] for name in VALUES}
    found = video_features(pl.DataFrame(videos, schema=schema))
    assert found.schema == FEATURES
    assert found.rows() == [(row, name) for row, video in enumerate(videos) for name in sorted(by_hand(video))]
