"""MovieLens (GroupLens) and MovieTweetings: ratings of films, with times."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from pipelines.datasets.data_set import DataSet, Frames, Request, Source, from_epoch, number, optional, required
from pipelines.datasets.tables import Block, Separated, read_table

GROUPLENS = "GroupLens, research use only, no redistribution without permission"
RATINGS = ("user", "video", "rating", "time")
_DOUBLE_COLON = Separated(separator="::", columns=RATINGS)
_FILMS = Separated(separator="::", columns=("video_id", "title", "genres"), encoding="latin-1")
_ITEMS_100K = Separated(
    separator="|",
    columns=("video_id", "title", "released", "video_released", "url", *(f"genre_{n}" for n in range(19))),
    encoding="latin-1",
)
_USERS_100K = Separated(separator="|", columns=("user_id", "age", "gender", "occupation", "zip"))
_USERS_1M = Separated(separator="::", columns=("user_id", "gender", "age", "occupation", "zip"))


def ratings(blocks: Iterator[Block], source: Source, request: Request, *, unit: str = "s") -> Frames:
    """Yield watches of blocks with the columns `RATINGS`: completed if the rating is at least `completed_from`.

    unit: of the epoch times, see `from_epoch`.
    """
    for rows in source.rows(blocks):
        yield rows.select(
            user_id="user",
            video_id="video",
            time=from_epoch(pl.col("time"), unit),
            completed=number("rating") >= request.completed_from,
        )


def _csv_ratings(source: Source, request: Request) -> Frames:
    columns = {"user": "userId", "video": "movieId", "rating": "rating", "time": "timestamp"}
    return ratings(read_table(source["ratings.csv"], columns), source, request)


def _csv_films(source: Source) -> Frames:
    for block in read_table(source["movies.csv"], {"video_id": "movieId", "title": "title"}):
        yield block.rows


def _dat_ratings(source: Source, request: Request) -> Frames:
    return ratings(_named(source, "ratings.dat", _DOUBLE_COLON), source, request)


def _dat_films(source: Source) -> Frames:
    for block in read_table(source["movies.dat"], {"video_id": "video_id", "title": "title"}, layout=_FILMS):
        yield block.rows


def _dat_users(source: Source) -> Frames:
    wanted = {name: name for name in ("user_id", "gender", "occupation")}
    for block in read_table(source["users.dat"], wanted, layout=_USERS_1M):
        yield block.rows


def _named(source: Source, name: str, layout: Separated) -> Iterator[Block]:
    return read_table(source[name], {column: column for column in RATINGS}, layout=layout)


def _100k_ratings(source: Source, request: Request) -> Frames:
    return ratings(_named(source, "u.data", Separated(separator="\t", columns=RATINGS)), source, request)


def _100k_films(source: Source) -> Frames:
    for block in read_table(source["u.item"], {"video_id": "video_id", "title": "title"}, layout=_ITEMS_100K):
        yield block.rows


def _100k_users(source: Source) -> Frames:
    wanted = {name: name for name in ("user_id", "gender", "occupation")}
    for block in read_table(source["u.user"], wanted, layout=_USERS_100K):
        yield block.rows


def _movielens(edition: str, size: str, **fields: object) -> DataSet:
    page = "latest" if edition.startswith("latest") else edition
    return DataSet(
        name=f"movielens-{edition}",
        title=f"MovieLens {edition.upper() if edition[0].isdigit() else edition}",
        page=f"https://grouplens.org/datasets/movielens/{page}/",
        licence=GROUPLENS,
        size=size,
        completed="a rating of at least 4 (of 5)",
        measure="rating",
        completed_from=4.0,
        exclude="watched",
        has_bursts=True,
        **fields,  # type: ignore[arg-type]
    )


def _csv_edition(edition: str, size: str) -> DataSet:
    files = (required("ratings.csv"), required("movies.csv"))
    return _movielens(edition, size, files=files, watches=_csv_ratings, videos=_csv_films)


_DAT_FILES = (required("ratings.dat"), required("movies.dat"))

DATA_SETS = (
    _movielens(
        "100k",
        "5 MB",
        files=(required("u.data"), required("u.item"), required("u.user")),
        watches=_100k_ratings,
        videos=_100k_films,
        users=_100k_users,
        user_categories=("occupation",),
    ),
    _movielens(
        "1m",
        "6 MB",
        files=(*_DAT_FILES, required("users.dat")),
        watches=_dat_ratings,
        videos=_dat_films,
        users=_dat_users,
        user_categories=("occupation",),
    ),
    _movielens("10m", "63 MB", files=_DAT_FILES, watches=_dat_ratings, videos=_dat_films),
    _csv_edition("20m", "190 MB"),
    _csv_edition("25m", "250 MB"),
    _csv_edition("32m", "239 MB"),
    _csv_edition("latest", "335 MB"),
    _csv_edition("latest-small", "1 MB"),
    DataSet(
        name="movietweetings",
        title="MovieTweetings",
        page="https://github.com/sidooms/MovieTweetings",
        licence="MIT",
        size="4 MB for the 100K snapshot",
        files=(required("ratings.dat"), optional("movies.dat")),
        completed="a rating of at least 6 (of 10)",
        measure="rating",
        completed_from=6.0,
        exclude="watched",
        watches=_dat_ratings,
        videos=_dat_films,
    ),
)
