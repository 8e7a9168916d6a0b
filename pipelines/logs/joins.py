"""Count the ids of one table that occur in the others. Ids that do not match are often written in another form.

The catalogue, the users table and the hidden pairs are compared with the events of the store, or with some buckets of a
large store. The list of users to forget is compared with the store before the ingest and with the rows that are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from pipelines.base import paths
from pipelines.base.snapshot_store import Snapshot, path_to_read
from transforms.core import files
from transforms.core.digests import id_digests
from transforms.core.messages import printable
from transforms.logs import countries

LOCAL_ROWS, REMOTE_ROWS = 2_000_000, 500_000  # maximum number of compared events, but at least one bucket
EXAMPLES = 5  # ids in a message


@dataclass(frozen=True, kw_only=True)
class Match:
    """Counts of the distinct values of a column, and of those without a match in other tables."""

    values: int
    unmatched: int
    examples: tuple[str, ...] = ()  # the first unmatched values in order

    @classmethod
    def of(cls, values: pl.Series, known: pl.Series) -> Match:
        """Match distinct `values` with `known` values; both are String columns without nulls."""
        distinct = values.unique()
        lacking = distinct.filter(~distinct.is_in(known.implode())).sort()
        return cls(values=len(distinct), unmatched=len(lacking), examples=tuple(lacking.head(EXAMPLES)))

    def merge(self, other: Match) -> Match:
        """Return the sum of two matches of disjoint values."""
        return Match(
            values=self.values + other.values,
            unmatched=self.unmatched + other.unmatched,
            examples=tuple(sorted((*self.examples, *other.examples))[:EXAMPLES]),
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The matches of the side tables with the events of some user buckets."""

    matches: Mapping[str, Match] = field(default_factory=dict)
    buckets: int = 0  # compared
    all_buckets: int = 0


def distinct_values(*columns: pl.Series) -> pl.Series:
    """Return the distinct non-null values of some columns as String."""
    values = [column.cast(pl.String).drop_nulls().unique() for column in columns]
    return pl.concat([pl.Series([], dtype=pl.String), *values]).unique()


def compare(store: str, snapshot: Snapshot, side: Mapping[str, Sequence[str]]) -> Comparison:
    """Compare the side tables with the store's events.

    side: `videos`, `users`, `hidden` -> paths of the table's files; `users` and `hidden` have one file per bucket. The
    result contains, for each table that has files, matches of `users` (users table), `hidden users` and `hidden videos`
    (pairs), `videos` (watched videos in the catalogue) and `countries` (of the catalogue, in watches and users).
    """
    if not any(side.values()):
        return Comparison()
    chosen = _chosen_buckets(store, snapshot)
    of_bucket = {name: {paths.shard_index(path): path for path in side.get(name, ())} for name in ("users", "hidden")}
    matches: dict[str, Match] = {}
    watched = hidden = places = distinct_values()
    for bucket in chosen:
        users, videos, countries_of_watches = _events(store, snapshot, bucket)
        watched, places = distinct_values(watched, videos), distinct_values(places, countries_of_watches)
        for table, listed in of_bucket.items():
            if bucket not in listed:
                continue
            rows, name = files.read_parquet(listed[bucket]), "hidden users" if table == "hidden" else table
            match = Match.of(rows["user_id"].drop_nulls(), users)
            matches[name] = matches[name].merge(match) if name in matches else match
            if table == "hidden":
                hidden = distinct_values(hidden, rows["video_id"])
            if "country" in rows.columns:
                places = distinct_values(places, rows["country"])
    catalogue = [files.read_parquet(path) for path in side.get("videos", ())]
    matches |= _of_videos(pl.concat(catalogue) if catalogue else None, watched, hidden, places)
    return Comparison(matches=matches, buckets=len(chosen), all_buckets=snapshot.buckets)


def unmatched_notes(compared: Comparison) -> Iterator[str]:
    """Yield a sentence for each table with unmatched values. No sentence contains a user id."""
    some = f" (users of {compared.buckets:,} of {compared.all_buckets:,} buckets were compared)"
    scope = some if compared.buckets < compared.all_buckets else ""
    for name, match in compared.matches.items():
        if match.unmatched:
            shown = "" if name in OF_USERS else f": {shown_values(match)}"
            yield f"{sentence(name, match)}{shown}{scope}"


OF_USERS = ("users", "hidden users")
_SENTENCES = {
    "users": "logs.users: {} users of the table do not occur in the logs",
    "hidden users": "logs.hidden: {} users with hidden videos do not occur in the logs",
    "hidden videos": "logs.hidden: {} hidden videos are neither in the catalogue nor watched",
    "videos": "logs.videos: {} watched videos are not in the catalogue, so they are never recommended",
    "countries": "logs.videos: {} codes in countries occur in no watch and no user",
    "forget": "privacy.forget: {} ids on the list do not occur in the logs",
}


def sentence(name: str, match: Match) -> str:
    """Return the sentence with the number of unmatched values of a table."""
    return _SENTENCES[name].format(f"{match.unmatched:,} of {match.values:,}")


def match_forget_list(ids: pl.Series, found: set[int]) -> Match:
    """Match the ids of a list of users to forget. found: positions in the list of the users who were found."""
    return Match.of(ids, ids.gather(sorted(found)))


def forget_notes(match: Match, *, earlier: bool) -> Iterator[str]:
    """Yield a note about a new or changed list of users to forget. earlier: whether a list was applied before, so that
    some of these users may already be removed. Contains no ids, because notes are stored."""
    if match.unmatched:
        already = "; users who were forgotten on an earlier night also count here" if earlier else ""
        yield (
            f"{sentence('forget', match)} (compared with the store and the rows that were read{already}); "
            "watchnext doctor shows the ids"
        )


def shown_values(match: Match) -> str:
    """Return some unmatched values as printable text."""
    more = ", ..." if match.unmatched > len(match.examples) else ""
    return ", ".join(map(printable, match.examples)) + more


def forgotten_in_store(store: str, snapshot: Snapshot, users: pl.Series) -> set[int]:
    """Return the positions, in a list of stored user ids, of the users who have events in the store."""
    buckets = id_digests(users) % snapshot.buckets
    found: set[int] = set()
    for bucket in set(buckets.to_list()):
        known, _, _ = _events(store, snapshot, bucket, columns=("user_id",))
        found |= set((users.is_in(known.implode()) & (buckets == bucket)).arg_true().to_list())
    return found


def users_of_small_store(store: str, snapshot: Snapshot) -> pl.Series | None:
    """Return the users of a store; None if it is too large to read interactively."""
    chosen = _chosen_buckets(store, snapshot)
    if len(chosen) < snapshot.buckets:
        return None
    return pl.concat(_events(store, snapshot, bucket, columns=("user_id",))[0] for bucket in chosen)


def _chosen_buckets(store: str, snapshot: Snapshot) -> list[int]:
    """Return the first buckets, at least one, that are to be compared. Buckets are random samples of users."""
    most_rows = LOCAL_ROWS if files.is_local(store) else REMOTE_ROWS
    rows = dict.fromkeys(range(snapshot.buckets), 0)
    for file in snapshot.files:
        rows[file.bucket] += file.file.rows
    chosen, total = list[int](), 0
    for bucket, count in rows.items():
        total += count
        if chosen and total > most_rows:
            break
        chosen.append(bucket)
    return chosen


def _events(
    store: str, snapshot: Snapshot, bucket: int, columns: Sequence[str] = ("user_id", "video_id", "country")
) -> tuple[pl.Series, pl.Series, pl.Series]:
    """Return the distinct users of all events of a bucket, and the videos and countries of its watches."""
    found = dict.fromkeys(("user_id", "video_id", "country"), distinct_values())
    for file in snapshot.files:
        if file.bucket == bucket:
            names = [name for name in columns if name == "user_id" or file.table == "watches"]
            frame = files.read_parquet(path_to_read(store, file), names)
            found |= {name: distinct_values(found[name], frame[name]) for name in names}
    return found["user_id"], found["video_id"], found["country"]


def _of_videos(
    catalogue: pl.DataFrame | None, watched: pl.Series, hidden: pl.Series, places: pl.Series
) -> dict[str, Match]:
    """Return the matches of watched and hidden videos, and of countries, with the catalogue, if there is one."""
    matches, known = dict[str, Match](), catalogue["video_id"] if catalogue is not None else watched.clear()
    if catalogue is not None:
        matches["videos"] = Match.of(watched, known)
        if len(codes := catalogue_country_codes(catalogue)):
            matches["countries"] = Match.of(codes, country_codes(places))
    if len(hidden):
        matches["hidden videos"] = Match.of(hidden, pl.concat([known, watched]))
    return matches


def catalogue_country_codes(catalogue: pl.DataFrame) -> pl.Series:
    """Return the codes in the column `countries`; may contain duplicates."""
    return catalogue["countries"].drop_nulls().unique().str.split(",").explode().drop_nulls()


def country_codes(places: pl.Series) -> pl.Series:
    """Return normalised country codes, without nulls."""
    return places.to_frame("country").select(countries.country_code(pl.col("country"))).to_series().drop_nulls()
