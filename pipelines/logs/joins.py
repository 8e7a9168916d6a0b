"""How many ids of one table have a partner in the others: what does not match is often written in another form.

The catalogue, the users table and the hidden pairs are compared with the events of the store, or of some of its buckets
if these are many; the list of users to forget with the store as it was before and with the rows that are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from pipelines.base import paths
from pipelines.base.snapshot_store import Snapshot, path_to_read
from transforms.core import files
from transforms.core.frames import id_digests
from transforms.core.printable import printable
from transforms.logs import countries

LOCAL_ROWS, REMOTE_ROWS = 2_000_000, 500_000  # events that are compared, or those of one bucket if it has more
EXAMPLES = 5  # ids that are shown


@dataclass(frozen=True, kw_only=True)
class Match:
    """The distinct values of one table, and those without a partner."""

    values: int
    unmatched: int
    examples: tuple[str, ...] = ()  # the first of the unmatched ones, by value

    @classmethod
    def of(cls, values: pl.Series, known: pl.Series) -> Match:
        """Distinct `values` against `known` ones, both String without nulls."""
        distinct = values.unique()
        lacking = distinct.filter(~distinct.is_in(known.implode())).sort()
        return cls(values=len(distinct), unmatched=len(lacking), examples=tuple(lacking.head(EXAMPLES)))

    def merge(self, other: Match) -> Match:
        """Both of disjoint values as one."""
        return Match(
            values=self.values + other.values,
            unmatched=self.unmatched + other.unmatched,
            examples=tuple(sorted((*self.examples, *other.examples))[:EXAMPLES]),
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What of the tables that are read anew matches the events of some user buckets."""

    matches: Mapping[str, Match] = field(default_factory=dict)
    buckets: int = 0  # compared
    all_buckets: int = 0


class _Distinct:
    """The distinct values of some columns, without null."""

    def __init__(self) -> None:
        self.values = pl.Series([], dtype=pl.String)

    def add(self, column: pl.Series | None) -> None:
        if column is not None:
            self.values = pl.concat([self.values, column.cast(pl.String).drop_nulls().unique()]).unique()


@dataclass(kw_only=True)
class _Sides:
    """What is known after some buckets."""

    matches: dict[str, Match] = field(default_factory=dict)
    watched: _Distinct = field(default_factory=_Distinct)  # videos
    hidden: _Distinct = field(default_factory=_Distinct)  # videos
    places: _Distinct = field(default_factory=_Distinct)  # countries of watches and users

    def add(self, table: str, listed: pl.DataFrame, users: pl.Series) -> None:
        """A bucket of the users table or of the hidden pairs, and the users of its events."""
        name, match = "hidden users" if table == "hidden" else table, Match.of(listed["user_id"].drop_nulls(), users)
        self.matches[name] = self.matches[name].merge(match) if name in self.matches else match
        self.hidden.add(listed["video_id"] if table == "hidden" else None)
        self.places.add(listed["country"] if "country" in listed.columns else None)


def compare(store: str, snapshot: Snapshot, side: Mapping[str, Sequence[str]]) -> Comparison:
    """Compare the side tables with the store's events.

    side: `videos`, `users`, `hidden` -> paths of the table's files; the latter two have one a bucket. Gives matches of
    `users` (users table), `hidden users` and `hidden videos` (pairs), `videos` (watched, against the catalogue) and
    `countries` (the catalogue's, against those of watches and users); each if there are such files.
    """
    if not any(side.values()):
        return Comparison()
    chosen = _chosen_buckets(snapshot, LOCAL_ROWS if files.is_local(store) else REMOTE_ROWS)
    of_bucket = {name: {paths.shard_index(path): path for path in side.get(name, ())} for name in ("users", "hidden")}
    found = _Sides()
    for bucket in chosen:
        users, videos, where = _events(store, snapshot, bucket)
        found.watched.add(videos)
        found.places.add(where)
        for name, listed in of_bucket.items():
            if bucket in listed:
                found.add(name, files.read_parquet(listed[bucket]), users)
    catalogue = [files.read_parquet(path) for path in side.get("videos", ())]
    matches = found.matches | _of_videos(pl.concat(catalogue) if catalogue else None, found)
    return Comparison(matches=matches, buckets=len(chosen), all_buckets=snapshot.buckets)


def unmatched_notes(compared: Comparison) -> Iterator[str]:
    """A sentence for each table with values that have no partner; none of them names a user."""
    some = f" (users of {compared.buckets:,} of {compared.all_buckets:,} buckets were compared)"
    scope = some if compared.buckets < compared.all_buckets else ""
    for name, match in compared.matches.items():
        if match.unmatched:
            shown = "" if name in OF_USERS else f": {shown_values(match)}"
            yield f"{sentence(name, match)}{shown}{scope}"


OF_USERS = ("users", "hidden users")
_SENTENCES = {
    "users": "logs.users: {} users of the table are nobody in these logs",
    "hidden users": "logs.hidden: {} users with hidden videos are nobody in these logs",
    "hidden videos": "logs.hidden: {} hidden videos are neither in the catalogue nor watched",
    "videos": "logs.videos: {} videos that were watched are not in the catalogue, and so never shown",
    "countries": "logs.videos: {} codes in countries are the country of no watch and no user",
    "forget": "privacy.forget: {} ids on the list are of nobody in these logs",
}


def sentence(name: str, match: Match) -> str:
    """How many of which values have no partner."""
    return _SENTENCES[name].format(f"{match.unmatched:,} of {match.values:,}")


def match_forget_list(ids: pl.Series, found: set[int]) -> Match:
    """A list of users to forget, by the places in it of those who were found."""
    return Match.of(ids, ids.gather(sorted(found)))


def forget_notes(match: Match, *, earlier: bool) -> Iterator[str]:
    """What to say of a list of users to forget that is new or changed. earlier: a list was applied before, so that some
    of these users may be gone already. No id is named: notes are kept, and these users are to be forgotten."""
    if match.unmatched:
        gone = "; who was forgotten on an earlier night counts as nobody" if earlier else ""
        yield (
            f"{sentence('forget', match)} (compared with the store and the rows that were read{gone}); "
            "watchnext doctor names them"
        )


def shown_values(match: Match) -> str:
    """Some of the values without a partner, as they may be printed."""
    more = ", ..." if match.unmatched > len(match.examples) else ""
    return ", ".join(map(printable, match.examples)) + more


def forgotten_in_store(store: str, snapshot: Snapshot, users: pl.Series) -> set[int]:
    """The places, in a list of users as the store names them, of those who have events in the store."""
    buckets = id_digests(users) % snapshot.buckets
    found: set[int] = set()
    for bucket in set(buckets.to_list()):
        known, _, _ = _events(store, snapshot, bucket, columns=("user_id",))
        found |= set((users.is_in(known.implode()) & (buckets == bucket)).arg_true().to_list())
    return found


def users_of_small_store(store: str, snapshot: Snapshot) -> pl.Series | None:
    """The users of a store; None of one that is too large to be read on the spot."""
    chosen = _chosen_buckets(snapshot, LOCAL_ROWS if files.is_local(store) else REMOTE_ROWS)
    if len(chosen) < snapshot.buckets:
        return None
    every = [_events(store, snapshot, bucket, columns=("user_id",))[0] for bucket in chosen]
    return pl.concat(every)


def _chosen_buckets(snapshot: Snapshot, most_rows: int) -> list[int]:
    """The first buckets, at least one, with at most so many events: users fall into buckets by a digest."""
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
    """The distinct users of all events of a bucket; the videos and the countries of its watches."""
    found = {name: _Distinct() for name in columns}
    for file in snapshot.files:
        if file.bucket == bucket:
            names = [name for name in columns if name == "user_id" or file.table == "watches"]
            frame = files.read_parquet(path_to_read(store, file), names)
            for name in names:
                found[name].add(frame[name])
    users, videos, where = (found.get(name, _Distinct()).values for name in ("user_id", "video_id", "country"))
    return users, videos, where


def _of_videos(catalogue: pl.DataFrame | None, found: _Sides) -> dict[str, Match]:
    """The matches of videos and countries: what is watched and hidden, against the catalogue if there is one."""
    matches, watched, hidden = dict[str, Match](), found.watched.values, found.hidden.values
    known = catalogue["video_id"] if catalogue is not None else watched.clear()
    if catalogue is not None:
        matches["videos"] = Match.of(watched, known)
        if len(codes := catalogue_country_codes(catalogue)):
            matches["countries"] = Match.of(codes, country_codes(found.places.values))
    if len(hidden):
        matches["hidden videos"] = Match.of(hidden, pl.concat([known, watched]))
    return matches


def catalogue_country_codes(catalogue: pl.DataFrame) -> pl.Series:
    """The codes of `countries`, some of them several times."""
    return catalogue["countries"].drop_nulls().unique().str.split(",").explode().drop_nulls()


def country_codes(places: pl.Series) -> pl.Series:
    """The codes of countries as they are compared, of values without null."""
    return places.to_frame("country").select(countries.country_code(pl.col("country"))).to_series().drop_nulls()
