"""Tiny files in the published form of each data set, and the watches that they hold.

folder = write("movielens-1m", tmp_path)        # the folder, or the file, that is PATH
watches("movielens-1m")                          # (user, video, time, completed), in no order
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import xxhash

Watch = tuple[str, str, dt.datetime, bool]
FIRST = 978_300_760  # 2000-12-31 22:12:40 UTC
MIND_MIDNIGHT = dt.datetime(2019, 11, 11, tzinfo=dt.UTC)
LATIN_1 = "Amélie (2001)".encode("latin-1")


def at(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


@dataclass(frozen=True)
class Sample:
    """Writes the files below a folder and returns PATH. watches, videos: what they hold."""

    write: Callable[[Path], Path]
    watches: list[Watch]
    videos: dict[str, str | None]  # video_id -> title; empty if there is no table


def _texts(**contents: str | bytes) -> Callable[[Path], Path]:
    """Return a function that writes files. Their names have `__` for `.` and `___` for `/`."""
    named = {name.replace("___", "/").replace("__", "."): content for name, content in contents.items()}
    return lambda folder: write_files(folder, named)


def write_files(folder: Path, contents: dict[str, str | bytes]) -> Path:
    """Write files, compressed if their name ends in .gz, and return the folder."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


RATED: list[Watch] = [
    ("1", "1193", at(FIRST), True),
    ("1", "661", at(FIRST + 60), False),
    ("2", "1193", at(FIRST + 3600), True),
]
_ROWS = [("1", "1193", 5, FIRST), ("1", "661", 3, FIRST + 60), ("2", "1193", 4, FIRST + 3600)]
FILMS: dict[str, str | None] = {"1193": 'One Flew, "Over" the \x1b[31mNest', "661": "Amélie (2001)"}


def _rows(separator: str) -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in _ROWS)


def _dat(*, users: bool) -> Callable[[Path], Path]:
    films = f"1193::{FILMS['1193']}::Drama\n661::".encode() + LATIN_1 + b"::Comedy|Romance\n"
    files: dict[str, str | bytes] = {"ml/ratings.dat": _rows("::"), "ml/movies.dat": films}
    if users:
        files["ml/users.dat"] = "1::F::1::10::48067\n2::M::56::16::70072\n"
    return lambda folder: write_files(folder, files)


def _csv(folder: Path) -> Path:
    films = 'movieId,title,genres\n1193,"One Flew, ""Over"" the \x1b[31mNest",Drama\n661,Amélie (2001),Comedy\n'
    ratings = "userId,movieId,rating,timestamp\n" + _rows(",").replace(",5,", ",4.5,")
    return write_files(folder, {"ratings.csv": ratings, "movies.csv": films})


def _100k(folder: Path) -> Path:
    genres = b"|0" * 19
    items = f"1193|{FILMS['1193']}|01-Jan-1995||http://x".encode() + genres + b"\n"
    items += b"661|" + LATIN_1 + b"|||" + genres + b"\n"
    users = "1|24|M|technician|85711\n2|53|F|other|94043\n"
    return write_files(folder, {"u.data": _rows("\t"), "u.item": items, "u.user": users})


_KUAIRAND = "user_id,video_id,date,hourmin,time_ms,is_click,long_view,play_time_ms,duration_ms,is_rand,tab\n"
_KUAI_MS = 1_650_485_801_301


def _kuairand(edition: str, logs: tuple[str, ...]) -> Callable[[Path], Path]:
    first = _KUAIRAND + f"7,11,20220421,400,{_KUAI_MS},1,1,20000,30000,0,1\n"
    later = _KUAIRAND + f"7,12,20220422,0,{_KUAI_MS + 1000},0,0,500,9000,0,1\n"
    videos = "video_id,author_id,upload_dt,video_duration\n11,5,2022-04-10,30000.0\n12,6,,9000.0\n"
    users = "user_id,user_active_degree,x\n7,full_active,1\n"
    contents: dict[str, str | bytes] = {
        f"data/log_standard_{part}.csv": later if n == len(logs) - 1 else first if n == 0 else _KUAIRAND
        for n, part in enumerate(logs)
    }
    contents[f"data/video_features_basic_{edition}.csv"] = videos
    contents[f"data/user_features_{edition}.csv"] = users
    return lambda folder: write_files(folder, contents)


KUAIRAND_WATCHES: list[Watch] = [
    ("7", "11", at(1_650_485_801.301), True),
    ("7", "12", at(1_650_485_802.301), False),
]
KUAI_VIDEOS: dict[str, str | None] = {"11": None, "12": None}


def _processed(folder: Path) -> Path:
    below = folder / "processed"
    below.mkdir()
    sequences = {"user_id": [7], "history_len": [4], "last_time_ms": [_KUAI_MS], "like_seq": [[]]}
    lists = pl.DataFrame({**sequences, "watch_seq": [[11, 12, 11]], "long_watch_seq": [[12, 11]]})
    lists.write_parquet(below / "user_sequences.parquet")
    columns = {"user_id": [7, 7], "video_id": [12, 13], "play_time_ms": [500, 9000], "duration_ms": [9000, 9000]}
    events = pl.DataFrame({**columns, "long_view": [0, 1], "tab": [1, 1], "is_positive": [1, 1]})
    for name, milliseconds in (("val", 1_650_900_000_000), ("test", 1_651_400_000_000)):
        events.with_columns(time_ms=pl.lit(milliseconds)).write_parquet(below / f"{name}.parquet")
    uploaded = [dt.datetime(2022, 4, 10), None, None]
    videos = {"video_id": [11, 12, 13], "upload_dt_parsed": uploaded, "video_duration": [30000.0, 9000.0, 9000.0]}
    pl.DataFrame(videos).write_parquet(below / "item_features.parquet")
    users = pl.DataFrame({"user_id": [7], "user_active_degree": ["full_active"]})
    users.write_parquet(below / "user_features.parquet")
    return folder


def _processed_watches() -> list[Watch]:
    first, eight_hours = 1_649_347_200_000, 8 * 3_600_000
    times = [int(first + share / 4 * (_KUAI_MS - first)) + eight_hours for share in (2, 3, 4)]
    before = zip(("11", "12", "11"), times, (False, True, True), strict=True)
    watches = [("7", video, at(time / 1000), completed) for video, time, completed in before]
    for start in (1_650_900_000, 1_651_400_000):
        moment = at(start) + dt.timedelta(hours=8)
        watches += [("7", "12", moment, False), ("7", "13", moment, True)]
    return watches


_KUAIREC = """user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio
0,3649,13838,10867,2020-07-05 00:08:23.438,20200705.0,1593878903.438,1.273397
0,9598,1000,10984,2020-07-05 00:13:41.297,20200705.0,1593879221.297,0.09
"""
_BEHAVIORS = "{n}\t{user}\t{time}\t{history}\t{shown}\n"


def _mind(folder: Path) -> Path:
    row, small = _BEHAVIORS.format, "MINDsmall"
    train = row(n=1, user="U1", time="11/11/2019 9:05:58 AM", history="N1 N2", shown="N3-1 N4-0")
    train += row(n=2, user="U1", time="11/12/2019 10:00:00 PM", history="N1 N2", shown="N4-1 N5-1")
    dev = row(n=1, user="U2", time="11/15/2019 8:00:00 AM", history="", shown="N3-0 N5-1")
    news = "".join(f'N{n}\tnews\tworld\tTitle "{n}"\tabstract\turl\t[]\t[]\n' for n in range(1, 6))
    contents: dict[str, str | bytes] = {
        f"{small}_train/behaviors.tsv": train,
        f"{small}_train/news.tsv": news,
        f"{small}_dev/behaviors.tsv": dev,
        f"{small}_dev/news.tsv": news,
    }
    return write_files(folder, contents)


_QUARTER = dt.timedelta(minutes=15)


def _reviews(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _amazon_2018(folder: Path) -> Path:
    reviews = _reviews(
        [
            {"overall": 5.0, "reviewerID": "A1", "asin": "B1", "unixReviewTime": FIRST, "style": {"Size:": "L"}},
            {"overall": 1.0, "reviewerID": "A2", "asin": "B1", "unixReviewTime": FIRST + 60, "reviewText": 'say "no"'},
        ]
    )
    products = _reviews([{"asin": "B1", "title": "A toy\nin two lines", "brand": "Acme", "also_buy": ["B2"]}])
    return write_files(folder, {"Toys_and_Games_5.json.gz": reviews, "meta_Toys_and_Games.json.gz": products})


def _amazon_2023(folder: Path) -> Path:
    ratings = f"user_id,parent_asin,rating,timestamp\nA1,B1,5.0,{FIRST}000\nA2,B1,1.0,{FIRST + 60}000\n"
    products = _reviews([{"parent_asin": "B1", "title": "A toy\nin two lines", "store": "Acme", "details": {}}])
    write_files(folder, {"Toys_and_Games.csv.gz": ratings, "meta_Toys_and_Games.jsonl.gz": products})
    return folder / "Toys_and_Games.csv.gz"


_REVIEWED: list[Watch] = [("A1", "B1", at(FIRST), True), ("A2", "B1", at(FIRST + 60), True)]
_PRODUCTS: dict[str, str | None] = {"B1": "A toy\nin two lines"}
_LISTENS = (
    'user_000001\t2009-05-04T23:08:57Z\ta1\tDeep Dish\tt1\tDub "Live"\n'
    "user_000001\t2009-05-04T13:54:10Z\t\t坂本龍一\t\tComposition 0919\n"
    'user_000001\t2013-09-28T13:54:10Z\ta1\tDeep Dish\tt1\tDub "Live"\n'
)
_PLAYS = "u1\ta1\tbetty blowtorch\t2137\nu1\t\tdie Ärzte\t0\n"


def _quarter(pair: str) -> dt.datetime:
    """The quarter of an hour in the four weeks before 2008-09-01 that the digest of a user and an artist gives."""
    return dt.datetime(2008, 9, 1, tzinfo=dt.UTC) - _QUARTER * (xxhash.xxh64_intdigest(pair.encode()) % (28 * 96) + 1)


def _yambda(folder: Path) -> Path:
    columns = {"uid": [3, 3], "item_id": [21, 22], "timestamp": [0, 86_405], "played_ratio_pct": [100, 20]}
    types = {"uid": pl.UInt32, "item_id": pl.UInt32, "timestamp": pl.UInt32, "played_ratio_pct": pl.UInt16}
    listens = pl.DataFrame(columns, schema=types)
    listens = listens.with_columns(is_organic=pl.lit(1, pl.UInt8), track_length_seconds=pl.lit(200, pl.UInt32))
    (folder / "flat" / "50m").mkdir(parents=True)
    listens.write_parquet(folder / "flat" / "50m" / "listens.parquet")
    artists = pl.DataFrame({"artist_id": [5, 6, 7], "item_id": [21, 22, 22]})
    artists.write_parquet(folder / "artist_item_mapping.parquet")
    return folder


_START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
_END = dt.datetime(2026, 9, 1, tzinfo=dt.UTC)
_EVENTS: list[Watch] = [("a", "x", at(FIRST), True), ("a", "y", at(FIRST + 0.5), False)]


def _events(folder: Path) -> Path:
    text = "user_id\tvideo_id\ttime\tcompleted\n" + f"a\tx\t{FIRST}\ttrue\n" + f"a\ty\t{FIRST}500\tfalse\n"
    return write_files(folder, {"day=1/events.tsv.gz": text})


def _lists(folder: Path) -> Path:
    write_files(folder, {"Toys.txt": "1 5 6\n2 5\n"})
    return folder / "Toys.txt"


_KUAIRAND_LOGS = ("4_08_to_4_21", "4_22_to_5_08")
SAMPLES: dict[str, Sample] = {
    "movielens-100k": Sample(_100k, RATED, FILMS),
    "movielens-1m": Sample(_dat(users=True), RATED, FILMS),
    "movielens-10m": Sample(_dat(users=False), RATED, FILMS),
    **{f"movielens-{name}": Sample(_csv, RATED, FILMS) for name in ("20m", "25m", "32m", "latest", "latest-small")},
    "movietweetings": Sample(
        _texts(ratings__dat=_rows("::").replace("::5::", "::6::"), movies__dat="0097742::Licence::Drama\n"),
        [(user, video, time, video == "1193" and user == "1") for user, video, time, _ in RATED],
        {"0097742": "Licence"},
    ),
    "kuairand-pure": Sample(
        _kuairand("pure", tuple(f"{part}_pure" for part in _KUAIRAND_LOGS)), KUAIRAND_WATCHES, KUAI_VIDEOS
    ),
    "kuairand-1k": Sample(
        _kuairand("1k", tuple(f"{part}_1k" for part in _KUAIRAND_LOGS)), KUAIRAND_WATCHES, KUAI_VIDEOS
    ),
    "kuairand-27k": Sample(
        _kuairand("27k", tuple(f"{part}_27k_part{n}" for part in _KUAIRAND_LOGS for n in (1, 2))),
        KUAIRAND_WATCHES,
        KUAI_VIDEOS,
    ),
    "kuairand-pure-processed": Sample(_processed, _processed_watches(), {"11": None, "12": None, "13": None}),
    "kuairec": Sample(
        _texts(
            data___big_matrix__csv=_KUAIREC,
            data___item_daily_features__csv=(
                "video_id,date,author_id,upload_dt,video_duration\n"
                "3649,20200705,3,2020-07-01,10867.0\n3649,20200706,3,2020-07-01,10867.0\n9598,20200706,4,2020-07-02,\n"
            ),
        ),
        [("0", "3649", at(1593878903.438), True), ("0", "9598", at(1593879221.297), False)],
        {"3649": None, "9598": None},
    ),
    "mind": Sample(
        _mind,
        [
            ("U1", "N3", dt.datetime(2019, 11, 11, 9, 5, 58, tzinfo=dt.UTC), True),
            ("U1", "N4", dt.datetime(2019, 11, 12, 22, tzinfo=dt.UTC), True),
            ("U1", "N5", dt.datetime(2019, 11, 12, 22, tzinfo=dt.UTC), True),
            ("U2", "N5", dt.datetime(2019, 11, 15, 8, tzinfo=dt.UTC), True),
            ("U1", "N1", MIND_MIDNIGHT - 2 * _QUARTER, True),
            ("U1", "N2", MIND_MIDNIGHT - _QUARTER, True),
        ],
        {f"N{n}": f'Title "{n}"' for n in range(1, 6)},
    ),
    "amazon-2018": Sample(_amazon_2018, _REVIEWED, _PRODUCTS),
    "amazon-2023": Sample(_amazon_2023, _REVIEWED, _PRODUCTS),
    "lastfm-1k": Sample(
        lambda folder: write_files(
            folder,
            {
                "userid-timestamp-artid-artname-traid-traname.tsv": _LISTENS,
                "userid-profile.tsv": "#id\tgender\tage\tcountry\tregistered\nuser_000001\tm\t\tJapan\tAug 13, 2006\n",
            },
        ),
        [
            ("user_000001", "t1", dt.datetime(2009, 5, 4, 23, 8, 57, tzinfo=dt.UTC), True),
            ("user_000001", "坂本龍一 - Composition 0919", dt.datetime(2009, 5, 4, 13, 54, 10, tzinfo=dt.UTC), True),
        ],
        {"t1": 'Dub "Live"', "坂本龍一 - Composition 0919": "Composition 0919"},
    ),
    "lastfm-360k": Sample(
        lambda folder: write_files(folder, {"usersha1-artmbid-artname-plays.tsv": _PLAYS}),
        [
            ("u1", "a1", _quarter("u1\ta1"), True),
            ("u1", "die Ärzte", _quarter("u1\tdie Ärzte"), False),
        ],
        {"a1": "betty blowtorch", "die Ärzte": "die Ärzte"},
    ),
    "yambda": Sample(
        _yambda,
        [("3", "21", _START, True), ("3", "22", _START + dt.timedelta(days=1, seconds=5), False)],
        {"21": None, "22": None},
    ),
    "events": Sample(_events, _EVENTS, {}),
    "sequences": Sample(
        _lists,
        [
            ("u0", "v5", _END - 2 * _QUARTER, True),
            ("u0", "v6", _END - _QUARTER, True),
            ("u1", "v5", _END - _QUARTER, True),
        ],
        {},
    ),
}
