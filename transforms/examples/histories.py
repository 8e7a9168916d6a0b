"""The histories of the users of one bucket: events with vocabulary ids, and the length of the history at each event.

    vocabularies = Vocabularies.from_frames(videos, tokens)
    histories = UserHistories.from_events(watches, searches, users, vocabularies)

Videos out of vocabulary (the long tail) are never labels or candidates. In a watch history they have no id, or, with
shared rows (`Vocabularies.shared_rows`), that of one of these rows, by the digest of the video's id. Shared rows are
inputs only: a row that represents many videos describes a user but cannot be recommended.

With `Vocabularies.partial_watches` a history also contains watches that were not completed, of videos in vocabulary.
They have embedding rows of their own, which follow the shared rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from transforms.core.digests import id_digests
from transforms.examples.tokens import tokenize

WATCH_CATEGORIES = ("country", "device", "signed_in")


@dataclass(frozen=True, kw_only=True)
class Vocabularies:
    """Ids of videos and search tokens in vocabulary (`token`, `id` from 1), and the further rows of histories."""

    videos: pl.DataFrame
    tokens: pl.DataFrame
    shared_rows: int = 0
    partial_watches: bool = False

    @classmethod
    def from_frames(
        cls, videos: pl.DataFrame, tokens: pl.DataFrame, *, shared_rows: int = 0, partial_watches: bool = False
    ) -> Vocabularies:
        """Number the rows of vocabulary frames, from 1."""
        number = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("id")
        return cls(
            videos=videos.select("token", number),
            tokens=tokens.select("token", number),
            shared_rows=shared_rows,
            partial_watches=partial_watches,
        )

    def with_ids(self, watches: pl.DataFrame) -> pl.DataFrame:
        """Add `id` (0 out of vocabulary) and `input`, the embedding row of the watch in a history; null: not in it.

        The input of a completed watch is the id, or out of vocabulary one of the shared rows, which follow those of the
        videos, by XXH64 of the video's id; 0 without shared rows. That of another watch is its id plus the number of
        these rows.
        """
        known = self._with_completed_inputs(watches)
        partial = pl.lit(None, pl.Int64)
        if self.partial_watches:
            partial = pl.when(pl.col("id") > 0).then(pl.col("id") + self.videos.height + self.shared_rows)
        return known.with_columns(input=pl.when("completed").then("input").otherwise(partial))

    def _with_completed_inputs(self, watches: pl.DataFrame) -> pl.DataFrame:
        known = watches.join(self.videos, left_on="video_id", right_on="token", how="left", maintain_order="left")
        if not self.shared_rows:
            return known.with_columns(pl.col("id").fill_null(0)).with_columns(input="id")
        tail = known.filter(pl.col("id").is_null()).select(pl.col("video_id").unique())
        row = (id_digests(tail["video_id"]) % self.shared_rows).cast(pl.Int64) + self.videos.height + 1
        shared = known.join(tail.with_columns(row.alias("row")), on="video_id", how="left", maintain_order="left")
        return shared.with_columns(pl.col("id").fill_null(0), input=pl.coalesce("id", "row")).drop("row")


@dataclass(frozen=True, kw_only=True)
class UserHistories:
    """The histories of the users of one bucket. All frames are sorted by user and time.

    watches: user_id, time, video_id, completed, `id` and `input` (`Vocabularies.with_ids`), the context last known at
        the event, and `watches_end`, the number of watches in the user's history up to and including the event
    tokens: user_id, time, `input`: search tokens in vocabulary
    searches: user_id, time, `tokens_end`: the number of the user's tokens up to and including the searches of the time
    users: user_id and the columns of the users table
    active: sorted, distinct ids of all users with an event
    searches_used: number of searches with a token in vocabulary
    """

    watches: pl.DataFrame
    tokens: pl.DataFrame
    searches: pl.DataFrame
    users: pl.DataFrame
    active: pl.Series
    searches_used: int

    @classmethod
    def from_events(
        cls, watches: pl.DataFrame, searches: pl.DataFrame, users: pl.DataFrame, vocabularies: Vocabularies
    ) -> UserHistories:
        """Build histories from events sorted by user and time, as `Window.events` returns them, and a users table."""
        context = [_last_known(watches[name]) for name in WATCH_CATEGORIES]
        tokenized = with_tokens(searches, vocabularies.tokens)
        tokens = tokenized.explode("input", empty_as_null=False, keep_nulls=False)
        ends = tokens.group_by("user_id", "time", maintain_order=True).agg(n=pl.len().cast(pl.Int64))
        return cls(
            watches=vocabularies.with_ids(watches).with_columns(
                *context, watches_end=pl.col("input").is_not_null().cast(pl.Int64).cum_sum().over("user_id")
            ),
            tokens=tokens,
            searches=ends.select("user_id", "time", tokens_end=pl.col("n").cum_sum().over("user_id")),
            users=users.with_columns(pl.col("user_id").cast(watches.schema["user_id"], strict=False)).drop_nulls(
                "user_id"
            ),
            active=pl.concat([watches["user_id"], searches["user_id"]]).unique().sort(),
            searches_used=tokenized["input"].count(),
        )


def _last_known(values: pl.Series) -> pl.Expr:
    """Return a category of sorted watches as text, with nulls replaced by the user's previous value."""
    text = pl.col(values.name).cast(pl.String)
    return text.forward_fill().over("user_id") if 0 < values.null_count() < values.len() else text


def with_tokens(searches: pl.DataFrame, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """Return user_id, time and `input` of each search: the list of ids of its tokens in vocabulary, null if none.

    Each distinct query is tokenized once.
    """
    queries = searches.select(pl.col("query").unique(maintain_order=True)).with_row_index("at")
    tokens = tokenize(queries["query"]).join(vocabulary, on="token", maintain_order="left")
    ids = tokens.group_by("at", maintain_order=True).agg(input="id")
    indexed = searches.join(queries, on="query", maintain_order="left")
    return indexed.join(ids, on="at", how="left", maintain_order="left").select("user_id", "time", "input")
