"""The same work without Beam: raw logs to the same TFRecords in one process of plain polars, with the window in memory.

    python -m benchmarks.polars_examples OUT

Reads the logs that `benchmarks.examples` wrote into OUT, with that job's settings, and writes OUT/polars: vocabularies,
label_counts.parquet, train.tfrecord.gz and serving.tfrecord.gz. Users, videos and times are converted to integers at
once, so that every sort sorts integers and every look-up is an index. It leaves out what only a nightly run needs: the
store, buckets, rejected rows and their reasons, the settings of other jobs. It shares with the pipeline the functions
that define a record: `tokenize`, the digests of the draw, `write_tfrecords`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.core.digests import id_digests, mix
from transforms.examples.tfrecords import write_tfrecords
from transforms.examples.tokens import tokenize

LAST_DAY, WINDOW_DAYS = dt.date(2026, 11, 20), 28
PER_USER, SEED, HISTORY, MAX_SEQUENCE, MAX_EVENTS_PER_DAY, VOCABULARY = 5, 1, 50, 1_000, 1_000, 1_000_000
DRAW_OF_LABELS = 0x6C6162656C73
LED_TO_A_WATCH, DAY = 1_800_000_000, 86_400_000_000  # microseconds
START = int(dt.datetime.combine(LAST_DAY, dt.time(), dt.UTC).timestamp()) * 1_000_000 - (WINDOW_DAYS - 1) * DAY
END = WINDOW_DAYS * DAY  # times are microseconds since START
TIME_BITS = END.bit_length()  # time bits of a key, below the user's number: keys order events by user, then time
QUANTILES = np.arange(1, 100) / 100
AGES_SORTED = 500_000
CATEGORIES = ("country", "device")

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Events:
    """The window's distinct events by key, without robots' days; users and videos are numbers in id order."""

    users: pl.Series  # ids
    videos: pl.Series
    watches: pl.DataFrame  # key, user, time, video, completed, the categories' ids
    searches: pl.DataFrame  # key, user, query


@dataclass(frozen=True, kw_only=True)
class Past:
    """A user's events by key: all watches, completed watches, or search tokens."""

    keys: pl.Series
    ids: Ints
    first: Ints  # position of each user's first event, and the end after the last user

    @classmethod
    def of(cls, keys: pl.Series, ids: Ints, users: int) -> Past:
        return cls(keys=keys, ids=ids, first=_search(keys, np.arange(users + 1) << TIME_BITS))

    def before(self, user: Ints, moment: Ints) -> Ints:
        """Return the number of the user's events strictly before each moment."""
        return _search(self.keys, (user << TIME_BITS) + moment) - self.first[user]

    def last(self, user: Ints, end: Ints) -> pl.Series:
        """Return the last `MAX_SEQUENCE` ids up to the user's `end`, one list per user."""
        n = np.minimum(end, MAX_SEQUENCE)
        return lists(self.ids[spans(self.first[user] + end - n, n)], n)


def _search(keys: pl.Series, wanted: Ints) -> Ints:
    return keys.search_sorted(pl.Series(wanted), "left").to_numpy().astype(np.int64)


def spans(starts: Ints, lengths: Ints) -> Ints:
    """Return all indexes of some spans, concatenated."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


def lists(values: NDArray[np.generic], lengths: Ints) -> pl.Series:
    """Split consecutive values into lists of these lengths."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pl.Series(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)))


def main(out: Path) -> None:
    began = time.monotonic()
    folder = out / "polars"
    folder.mkdir(exist_ok=True)
    events = read_events(out)
    _say(began, "read and ordered")
    ids, videos = video_ids(events)
    videos.write_parquet(folder / "videos.parquet")
    watches = events.watches
    known = ids[watches["video"].to_numpy()]
    completed = watches["completed"].to_numpy()
    n = events.users.len()
    every = Past.of(watches["key"], np.arange(watches.height), n)
    pasts = {
        "watches": Past.of(watches["key"].filter(watches["completed"]), known[completed], n),
        "tokens": token_past(events, folder),
    }
    train = train_pointers(events, every, pasts, np.flatnonzero(completed & (known > 0)), known)
    counts = np.bincount(train["label"], minlength=videos.height + 1)[1:]
    videos.select(video_id="token", count=pl.Series(counts)).write_parquet(folder / "label_counts.parquet")
    _say(began, "labels drawn")
    for name, pointers in (("train", train), ("serving", serving_pointers(events, every, pasts))):
        write_tfrecords(records(pointers, pasts, events.users), str(folder), f"{name}.tfrecord.gz")
    _say(began, "records written")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB", flush=True)


def _say(began: float, what: str) -> None:
    print(f"{what} after {time.monotonic() - began:.1f} s", flush=True)


def read_events(out: Path) -> Events:
    """Apply the completion rule and the window, number the names, sort, and remove duplicates and robots."""
    long_enough = pl.col("watch_seconds") >= pl.col("video_seconds") * 0.5
    watches = _scan(out / "watches").with_columns(completed=long_enough).drop("video_seconds").collect()
    searches = _scan(out / "searches").collect()
    users = pl.concat([watches["user_id"].unique(), searches["user_id"].unique()]).unique().sort()
    videos = watches["video_id"].unique().sort()
    watches = watches.with_columns(video=_numbers("video_id", videos)).drop("video_id")
    watches, searches = _ordered(watches, users, "video"), _ordered(searches, users, "query")
    watches, searches = _without_robots(watches, searches)
    categories = [_category(watches[name]) for name in CATEGORIES]
    return Events(users=users, videos=videos, watches=watches.with_columns(categories), searches=searches)


def _scan(folder: Path) -> pl.LazyFrame:
    moment = pl.col("time").dt.epoch("us") - START
    return pl.scan_parquet(folder / "*.parquet").with_columns(moment).filter(pl.col("time").is_between(0, END - 1))


def _numbers(name: str, names: pl.Series) -> pl.Expr:
    """Return the position of each name among all names, which are sorted."""
    return pl.col(name).cast(pl.Enum(names)).to_physical().cast(pl.Int64)


def _ordered(events: pl.DataFrame, users: pl.Series, then: str) -> pl.DataFrame:
    """Return events with `user` and `key`, sorted by key and a column, without exact duplicates."""
    numbered = events.with_columns(user=_numbers("user_id", users)).drop("user_id")
    keyed = numbered.with_columns(key=pl.col("user") * (1 << TIME_BITS) + pl.col("time")).sort("key", then)
    alike = keyed.select((pl.col("key") == pl.col("key").shift()) & (pl.col(then) == pl.col(then).shift()))
    return keyed.unique(maintain_order=True) if alike.to_series().any() else keyed


def _without_robots(*tables: pl.DataFrame) -> list[pl.DataFrame]:
    total = np.bincount(pl.concat(events["user"] for events in tables))
    if total.max() <= MAX_EVENTS_PER_DAY:
        return list(tables)
    day = pl.col("time") // DAY
    robots = pl.concat(events.select("user", day=day) for events in tables).group_by("user", "day").len()
    robots = robots.filter(pl.col("len") > MAX_EVENTS_PER_DAY)
    return [
        events.with_columns(day=day).join(robots, on=["user", "day"], how="anti", maintain_order="left").drop("day")
        for events in tables
    ]


def _category(values: pl.Series) -> pl.Series:
    """Return the rank of each value from 1, most frequent first, ties by value."""
    most = values.drop_nulls().value_counts(name="n").sort(["n", values.name], descending=[True, False])[values.name]
    return values.cast(pl.Enum(most)).to_physical().cast(pl.Int64) + 1


def video_ids(events: Events) -> tuple[Ints, pl.DataFrame]:
    """Return the vocabulary id of each video number (0: out of vocabulary), and the vocabulary: token, count."""
    completed = events.watches["video"].filter(events.watches["completed"])
    return _top(events.videos, np.bincount(completed, minlength=events.videos.len()))


def _top(names: pl.Series, counts: Ints) -> tuple[Ints, pl.DataFrame]:
    """names: sorted, so that a stable sort by count keeps ties in their order."""
    best = np.argsort(-counts, kind="stable")[:VOCABULARY]
    best = best[counts[best] > 0]
    ids = np.zeros(names.len(), np.int64)
    ids[best] = np.arange(1, len(best) + 1)
    return ids, pl.DataFrame({"token": names[best], "count": counts[best]})


def token_past(events: Events, folder: Path) -> Past:
    """Return the in-vocabulary search tokens of all users; each distinct query is tokenized once."""
    queries = events.searches["query"].unique().sort()
    query = events.searches.select(_numbers("query", queries)).to_series().to_numpy()
    cut = tokenize(queries)
    names = cut["token"].unique().sort()
    token, at = cut.select(_numbers("token", names)).to_series().to_numpy(), cut["at"].to_numpy()
    times = np.bincount(query, minlength=queries.len())
    ids, vocabulary = _top(names, np.bincount(token, weights=times[at], minlength=names.len()).astype(np.int64))
    vocabulary.write_parquet(folder / "search_tokens.parquet")
    token, at = ids[token], at[ids[token] > 0]
    lengths = np.bincount(at, minlength=queries.len())
    chosen = spans((np.cumsum(lengths) - lengths)[query], lengths[query])
    keys = np.repeat(events.searches["key"].to_numpy(), lengths[query])
    return Past.of(pl.Series(keys), token[token > 0][chosen], events.users.len())


def train_pointers(events: Events, every: Past, pasts: dict[str, Past], labels: Ints, known: Ints) -> pl.DataFrame:
    """Return one row per label: of each user, the labels with the smallest digests.

    labels: rows of watches within reach.
    """
    watches = events.watches[labels]
    user, moment = watches["user"].to_numpy(), watches["time"].to_numpy()
    before = every.before(user, moment)
    last = every.first[user] + before - 1
    last_watch = np.where(before > 0, events.watches["time"].to_numpy()[last], 0)
    asked = np.maximum(last_watch, moment - LED_TO_A_WATCH)
    ends = {"watches_end": pasts["watches"].before(user, moment), "tokens_end": pasts["tokens"].before(user, asked)}
    found = watches.select("user", "time", "video").with_columns(
        row=last, known=before > 0, label=known[labels], **ends
    )
    found = found.filter(
        pl.max_horizontal(pl.col(end) - HISTORY, 0) >= pl.col(end).max().over("user") - MAX_SEQUENCE for end in ends
    )
    users, videos = (id_digests(names).to_numpy() for names in (events.users, events.videos))
    drawn = mix(SEED, DRAW_OF_LABELS, users[found["user"]], videos[found["video"]], found["time"].to_numpy() + START)
    found = found.with_columns(drawn=drawn).filter(pl.col("drawn").rank("ordinal").over("user") <= PER_USER)
    return found.with_columns(*_context(events, found), example_age=_example_age(events, found["time"]))


def serving_pointers(events: Events, every: Past, pasts: dict[str, Past]) -> pl.DataFrame:
    """Return one row per user, at the end of the window."""
    user = np.arange(events.users.len())
    end = np.full(len(user), END)
    before = every.before(user, end)
    at = pl.DataFrame({"user": user, "row": every.first[user] + before - 1, "known": before > 0}).with_columns(
        watches_end=pasts["watches"].before(user, end), tokens_end=pasts["tokens"].before(user, end)
    )
    return at.with_columns(*_context(events, at), example_age=np.zeros(len(user), np.float32))


def _context(events: Events, at: pl.DataFrame) -> list[pl.Series]:
    """Return the categories as last known at the user's row; 0 if unknown."""
    filled = events.watches.select(pl.col(name).forward_fill().over("user") for name in CATEGORIES)
    return list(filled[at["row"]].select(pl.when(at["known"]).then(pl.all()).otherwise(0).fill_null(0)))


def _example_age(events: Events, moment: pl.Series) -> NDArray[np.float32]:
    """Return days before the newest completed watch, by the quantiles of a sample of all completed watches."""
    completed = events.watches["time"].filter(events.watches["completed"]).to_numpy()
    sample, newest = completed[:: len(completed) // AGES_SORTED + 1], completed.max()
    boundaries = np.quantile(newest - sample, QUANTILES)
    ages = newest - moment.to_numpy()
    return np.asarray(np.interp(ages, boundaries, np.linspace(0, 1, len(QUANTILES))), np.float32)


def records(pointers: pl.DataFrame, pasts: dict[str, Past], users: pl.Series) -> pl.DataFrame:
    """Return pointers grouped by user: one row per user in the format of `transforms.contracts.example_spec`."""
    ends = ["watches_end", "tokens_end"]
    of_user = pointers.group_by("user", maintain_order=True).agg(pl.len().alias("n"), pl.col(ends).max())
    user, n = of_user["user"].to_numpy(), of_user["n"].to_numpy().astype(np.int64)
    columns = {"user_id": users[user]}
    for name, past in pasts.items():
        last = of_user[f"{name}_end"].to_numpy()
        shown = pointers[f"{name}_end"].to_numpy() - np.repeat(np.maximum(last - MAX_SEQUENCE, 0), n)
        columns |= {name: past.last(user, last), f"{name}_end": lists(np.maximum(shown, 0), n)}
    for name in ("example_age", *CATEGORIES):
        columns[name] = lists(pointers[name].to_numpy(), n)
    labels = pointers["label"].to_numpy() if "label" in pointers.columns else np.zeros(0, np.int64)
    return pl.DataFrame(columns).with_columns(label=lists(labels, n if len(labels) else 0 * n))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    main(parser.parse_args().out)
