"""What a catalogue says of a video before anybody has watched it, as a bag of features.

    video_features(catalogue)   # row, feature: "channel:c17", "language:de", "length:8", "title:köln dom"

A feature is a name with its kind. Length is in octaves of seconds: `length:8` is 256 to 511 seconds. Title tokens are
those of search queries (`transforms.examples.tokens`), each once. Values that are missing have no feature.
"""

from __future__ import annotations

import polars as pl

from transforms.examples.tokens import tokenize

COLUMNS = ("video_id", "channel", "language", "video_seconds", "title")  # of the catalogue
FEATURES = pl.Schema({"row": pl.UInt32(), "feature": pl.String()})


def video_features(videos: pl.DataFrame) -> pl.DataFrame:
    """Return `FEATURES` of videos: distinct pairs, ordered by row and feature. `row` counts the videos from 0.

    videos: channel, language, video_seconds, title, each of which may be null.
    """
    rows = videos.with_row_index("row")
    octave = pl.col("video_seconds").log(2).floor().cast(pl.Int64)
    long_enough = rows.filter(pl.col("video_seconds") >= 1)
    parts = [
        rows.select("row", feature=pl.format("channel:{}", "channel")),
        rows.select("row", feature=pl.format("language:{}", "language")),
        long_enough.select("row", feature=pl.format("length:{}", octave)),
        tokenize(rows["title"]).select(row="at", feature=pl.format("title:{}", "token")),
    ]
    return pl.concat(parts).drop_nulls().match_to_schema(FEATURES).unique().sort("row", "feature")
