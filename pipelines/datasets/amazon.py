"""Amazon reviews of 2018 and 2023, one category: PATH is the file of reviews or ratings, or the folder with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from pipelines.datasets.data_set import DataSet, Frames, Request, Source, SourceFile
from pipelines.datasets.movielens import RATINGS, ratings
from pipelines.datasets.tables import DataSetError, Separated, read_table, without_compression

_REVIEWS, _META = "reviews", "meta"
_META_PREFIX = "meta_"
_RATINGS_2018 = Separated(separator=",", columns=("video", "user", "rating", "time"))  # the item comes first
_REVIEWS_2018 = {"user": "reviewerID", "video": "asin", "rating": "overall", "time": "unixReviewTime"}
_REVIEWS_2023 = {"user": "user_id", "video": "parent_asin", "rating": "rating", "time": "timestamp"}
_LICENCE = "none stated; the publisher asks to cite the paper"


def _locate(data_set: DataSet, path: Path) -> Source:
    """Return the file of reviews, and the products of the same category next to it."""
    reviews = [path] if path.is_file() else [entry for entry in sorted(path.iterdir()) if _is_reviews(entry)]
    names = ", ".join(data_set.files[0].names)
    if not reviews:
        raise DataSetError(f"{path} lacks a file of reviews ({names}); {data_set.where()}")
    if len(reviews) > 1:
        found = ", ".join(entry.name for entry in reviews)
        raise DataSetError(f"{path} has several categories: {found}; give one of the files as PATH")
    if not _is_reviews(reviews[0]):
        raise DataSetError(f"{reviews[0]} is no file of reviews ({names}); {data_set.where()}")
    category = _category(reviews[0])
    meta = [entry for entry in sorted(reviews[0].parent.iterdir()) if entry.name.startswith(_META_PREFIX)]
    products = [entry for entry in meta if _category(entry) == f"{_META_PREFIX}{category}"]
    return Source({_REVIEWS: reviews[0], **({_META: products[0]} if products else {})})


def _is_reviews(path: Path) -> bool:
    known = without_compression(path).suffix in (".json", ".jsonl", ".csv")
    return known and path.is_file() and not path.name.startswith((_META_PREFIX, "."))


def _category(path: Path) -> str:
    return without_compression(path).stem.removesuffix("_5")


def _reviews_2018(source: Source, request: Request) -> Frames:
    path = source[_REVIEWS]
    if without_compression(path).suffix == ".csv":
        blocks = read_table(path, {name: name for name in RATINGS}, layout=_RATINGS_2018)
    else:
        blocks = read_table(path, _REVIEWS_2018)
    return ratings(blocks, source, request)


def _reviews_2023(source: Source, request: Request) -> Frames:
    return ratings(read_table(source[_REVIEWS], _REVIEWS_2023), source, request, unit="ms")


def _products(*, video: str, channel: str) -> Callable[[Source], Frames]:
    """Return the reader of the products. video, channel: names of their columns; a title and a channel may lack."""

    def products(source: Source) -> Frames:
        for block in read_table(source[_META], {"video_id": video}, optional={"title": "title", "channel": channel}):
            rows = block.rows
            yield rows.select(
                pl.col(name).cast(pl.String) if name in rows.columns else pl.lit(None, pl.String).alias(name)
                for name in ("video_id", "title", "channel")
            )

    return products


DATA_SETS = (
    DataSet(
        name="amazon-2018",
        title="Amazon reviews 2018",
        page="https://nijianmo.github.io/amazon/",
        licence=_LICENCE,
        size="by category, up to 12 GB",
        files=(
            SourceFile(names=("CATEGORY_5.json.gz", "CATEGORY.json.gz", "CATEGORY.csv")),
            SourceFile(names=("meta_CATEGORY.json.gz",), required=False),
        ),
        completed="every review",
        measure="rating",
        completed_from=0.0,
        locate=_locate,
        watches=_reviews_2018,
        videos=_products(video="asin", channel="brand"),
    ),
    DataSet(
        name="amazon-2023",
        title="Amazon reviews 2023",
        page="https://amazon-reviews-2023.github.io",
        licence=_LICENCE,
        size="by category, up to 20 GB",
        files=(
            SourceFile(names=("CATEGORY.jsonl.gz", "CATEGORY.csv.gz")),
            SourceFile(names=("meta_CATEGORY.jsonl.gz",), required=False),
        ),
        completed="every review",
        measure="rating",
        completed_from=0.0,
        locate=_locate,
        watches=_reviews_2023,
        videos=_products(video="parent_asin", channel="store"),
    ),
)
