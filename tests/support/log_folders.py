"""Folders of logs of different make: names, formats, units and layouts as sites have them, with the same events.

LOG_FOLDERS["partitions"](folder)   # writes the logs
"""

from __future__ import annotations

import datetime as dt
import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl

FIRST_DAY = dt.date(2026, 11, 14)
DAYS = 7
NEXT_DAY = FIRST_DAY + dt.timedelta(days=DAYS)  # the night after the last day


def watches() -> pl.DataFrame:
    """Watches of a week: user_id, video_id, time (UTC), watch_seconds, video_seconds, completed, country."""
    count = 70 * DAYS
    at = pl.int_range(count, eager=True)
    start = dt.datetime.combine(FIRST_DAY, dt.time(), dt.UTC)
    times = pl.datetime_range(start, start + dt.timedelta(days=DAYS), f"{86_400 // 70}s", closed="left", eager=True)
    length = 60.0 + (at * 5 % 30) * 20  # the video of a watch is at * 5 % 30
    seconds = (length * ((at * 7 % 10) + 1) / 10).round(1)
    return pl.DataFrame(
        {
            "user_id": "u" + (at % 13).cast(pl.String),
            "video_id": "v" + (at * 5 % 30).cast(pl.String),
            "time": times.head(count).dt.cast_time_unit("us"),
            "watch_seconds": seconds,
            "video_seconds": length,
            "completed": seconds >= length / 2,
            "country": pl.Series(["SE", "DE", "US"])[(at % 13 % 3).to_list()],
        }
    )


def searches() -> pl.DataFrame:
    """Searches of the same users: user_id, time, query."""
    rows = watches().gather_every(5)
    return rows.select("user_id", pl.col("time") - pl.duration(seconds=40), query="how to " + pl.col("video_id"))


def videos() -> pl.DataFrame:
    """The catalogue of all watched videos: video_id, title, video_seconds, channel, upload_time."""
    rows = watches().unique("video_id").sort("video_id")
    return rows.select(
        "video_id",
        "video_seconds",
        title="Title, of " + pl.col("video_id"),
        channel="c" + (pl.int_range(pl.len()) % 4).cast(pl.String),
        upload_time=pl.lit(dt.datetime(2026, 10, 1, tzinfo=dt.UTC)),
    )


def users() -> pl.DataFrame:
    """The users: user_id, gender, birth_year, country."""
    rows = watches().unique("user_id").sort("user_id")
    return rows.select("user_id", "country", gender=pl.lit("f"), birth_year=pl.lit(1990))


def impressions() -> pl.DataFrame:
    """Pages of three videos, of which the first was clicked, with our names of the columns."""
    rows = watches().gather_every(3).with_row_index("page")
    parts = []
    for place in range(3):
        other = "v" + ((pl.col("video_id").str.slice(1).cast(pl.Int64) + place) % 30).cast(pl.String)
        parts.append(
            rows.select(
                "user_id",
                other.alias("video_id"),
                pl.col("time") - pl.duration(seconds=30),
                pl.col("page").cast(pl.String).alias("page_id"),
                pl.lit(place == 0).alias("clicked"),
                (pl.col("watch_seconds") * (place == 0)).alias("watch_seconds"),
                pl.lit(place + 1).alias("position"),
            )
        )
    return pl.concat(parts).sort("time", "position")


def by_day(rows: pl.DataFrame, time: str = "time") -> dict[str, pl.DataFrame]:
    """The rows of each day, by ISO date."""
    return {str(day): part for (day,), part in rows.group_by(pl.col(time).dt.date(), maintain_order=True)}


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _csv(rows: pl.DataFrame, path: Path, separator: str = ",") -> None:
    content = rows.write_csv(separator=separator).encode()
    _put(path, gzip.compress(content) if path.suffix == ".gz" else content)


def _jsonl(rows: pl.DataFrame, path: Path) -> None:
    content = rows.write_ndjson().encode()
    _put(path, gzip.compress(content) if path.suffix == ".gz" else content)


def _parquet(rows: pl.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(path)


def _epoch(rows: pl.DataFrame, unit: str = "s", name: str = "time") -> pl.DataFrame:
    return rows.with_columns(pl.col(name).dt.epoch(unit))  # type: ignore[arg-type]


def own_names(folder: Path) -> None:
    """Our own names: Parquet by day, a catalogue and users, and tables that are no logs."""
    for day, rows in by_day(watches().drop("completed", "video_seconds")).items():
        _parquet(rows, folder / "watches" / f"{day}.parquet")
    for day, rows in by_day(searches()).items():
        _parquet(rows, folder / "searches" / f"{day}.parquet")
    for day, rows in by_day(impressions()).items():
        _parquet(rows, folder / "impressions" / f"{day}.parquet")
    _parquet(videos(), folder / "videos.parquet")
    _parquet(users(), folder / "users.parquet")
    _parquet(watches().select("user_id", "video_id", probability=0.5), folder / "truth" / "preferences.parquet")
    _put(folder / "README.md", b"logs")


def short_csv(folder: Path) -> None:
    """One CSV file with short names, epoch seconds, and 1 and 0."""
    rows = _epoch(watches()).select(uid="user_id", item="video_id", ts="time", completed=pl.col("completed").cast(int))
    _csv(rows, folder / "log.csv")


def tab_separated(folder: Path) -> None:
    """TSV with names of Java programs and epoch milliseconds; the length is called duration, as in its catalogue."""
    rows = _epoch(watches(), "ms")
    named = {"userId": "user_id", "movieId": "video_id", "timestamp": "time", "playTime": "watch_seconds"}
    _csv(rows.select(**named, duration="video_seconds"), folder / "plays.tsv", "\t")
    _csv(videos().select(movieId="video_id", title="title", duration="video_seconds"), folder / "movies.tsv", "\t")


def folders_by_day(folder: Path) -> None:
    """A folder per day, with several gzipped JSON lines in each."""
    for day, rows in by_day(watches()).items():
        named = rows.select(
            member_id="user_id", content_id="video_id", event_time="time", seconds_watched="watch_seconds"
        )
        half = named.height // 2
        for number, part in enumerate((named[:half], named[half:])):
            _jsonl(part, folder / "raw" / "playback" / day / f"part-0000{number}.jsonl.gz")
    for day, rows in by_day(searches()).items():
        named = rows.select(member_id="user_id", event_time="time", search_term="query")
        _jsonl(named, folder / "raw" / "searches" / day / "part-00000.jsonl.gz")


def partitions(folder: Path) -> None:
    """Hive partitions: the day and the country are in the names of folders."""
    for day, rows in by_day(watches()).items():
        for (country,), part in rows.group_by("country", maintain_order=True):
            named = part.select(
                user="user_id", video="video_id", created_at="time", watch_time="watch_seconds", length="video_seconds"
            )
            place = folder / "video_views" / f"dt={day}" / f"country={country}"
            _parquet(named, place / "part-00000-9f8e7d6c.snappy.parquet")


def year_month_day(folder: Path) -> None:
    """Partitions of year, month and day, CSV with quotes and times with an offset."""
    for day, rows in by_day(watches()).items():
        year, month, number = day.split("-")
        named = rows.select(
            viewer_id="user_id",
            title_id="video_id",
            watched_at=pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%S+00:00"),
            finished=pl.col("completed").cast(pl.String),
        )
        _csv(named, folder / "stream" / f"year={year}" / f"month={month}" / f"day={number}" / "data.csv.gz")
    _csv(videos().select(id="video_id", name="title", runtime="video_seconds"), folder / "catalog" / "titles.csv")


def flat_exports(folder: Path) -> None:
    """A flat folder of exports of a database, named by compact dates; times without an offset."""
    text = pl.col("time").dt.strftime("%Y-%m-%d %H:%M:%S")
    for day, rows in by_day(watches()).items():
        named = rows.select(customer_id="user_id", asset_id="video_id", datetime=text, play_seconds="watch_seconds")
        _csv(named, folder / f"view_log_{day.replace('-', '')}.csv")
    _csv(searches().select(customer_id="user_id", datetime=text, keywords="query"), folder / "search_log.csv")
    _csv(users().select(customer_id="user_id", sex="gender", year_of_birth="birth_year"), folder / "customers.csv")
    _csv(videos().select(asset_id="video_id", title="title", category="channel"), folder / "assets.csv")


def with_impressions(folder: Path) -> None:
    """JSON lines with page requests, clicks and positions."""
    rows = watches().select(uid="user_id", vid="video_id", ts="time", watched_seconds="watch_seconds")
    for day, part in by_day(rows, "ts").items():
        _jsonl(_epoch(part, "ms", "ts"), folder / "watch" / f"{day}.ndjson")
    shown = impressions().select(
        uid="user_id", vid="video_id", ts="time", request_id="page_id", is_click="clicked", rank="position",
        watched_seconds="watch_seconds",
    )  # fmt: skip
    for day, part in by_day(shown, "ts").items():
        _jsonl(_epoch(part, "ms", "ts"), folder / "exposures" / f"{day}.ndjson")


def two_apps(folder: Path) -> None:
    """The same table of two apps, in folders of their own; the watch time is called duration."""
    for number, app in enumerate(("android", "web")):
        for day, rows in by_day(watches().filter(pl.int_range(pl.len()) % 2 == number)).items():
            named = rows.select(account_id="user_id", media_id="video_id", at="time", duration="watch_seconds")
            _parquet(named, folder / app / "events" / f"{day}.parquet")


def ratings(folder: Path) -> None:
    """Ratings and no watch times: nothing says whether a video was watched to its end."""
    rows = _epoch(watches()).select(userId="user_id", movieId="video_id", rating=pl.lit(4.5), timestamp="time")
    _csv(rows, folder / "ratings.csv")
    _csv(videos().select(movieId="video_id", title="title"), folder / "movies.csv")


def milliseconds(folder: Path) -> None:
    """Watch times in milliseconds, which a job cannot convert."""
    rows = _epoch(watches(), "ms").select(
        "user_id", "video_id", time_ms="time", play_time_ms=(pl.col("watch_seconds") * 1000).cast(pl.Int64)
    )
    _csv(rows, folder / "log_random.csv")


def nothing_readable(folder: Path) -> None:
    """No log file at all."""
    _put(folder / "watches.xlsx", b"PK")
    _put(folder / "notes.txt", b"see the wiki")


WORKING: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        *(own_names, short_csv, tab_separated, folders_by_day, partitions, year_month_day, flat_exports),
        *(with_impressions, two_apps),
    )
}
# What the message must contain if nobody can be asked.
ASKING: dict[str, tuple[Callable[[Path], None], str]] = {
    "ratings": (ratings, "--column watches.completed=YOURS or --column watches.watch_seconds=YOURS"),
    "milliseconds": (milliseconds, "play_time_ms cannot be watch_seconds: it is in milliseconds"),
    "nothing_readable": (nothing_readable, "no log files found"),
}
LOG_FOLDERS = WORKING | {name: make for name, (make, _) in ASKING.items()}
