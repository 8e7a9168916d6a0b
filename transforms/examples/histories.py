"""One bucket's users' pasts: their events with the ids that the vocabularies give, and how much came up to each.

    pasts = Pasts.of(watches, searches, users, Vocabularies.of(videos, tokens))

The long tail, videos out of vocabulary, is never a label or a candidate. In a history it is nothing at all, or with
shared rows (`Vocabularies`) one of these rows by the digest of its id. Those are of the input alone: a row that stands
for many videos is something to know of a user, but nothing that could be shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from transforms.core.frames import id_digests
from transforms.examples.tokens import tokenize

WATCH_CATEGORIES = ("country", "device", "signed_in")


@dataclass(frozen=True, kw_only=True)
class Vocabularies:
    """Ids of the tokens that have embeddings: `token`, `id` from 1; and how many rows the other videos share."""

    videos: pl.DataFrame
    tokens: pl.DataFrame
    shared_rows: int = 0

    @classmethod
    def of(cls, videos: pl.DataFrame, tokens: pl.DataFrame, *, shared_rows: int = 0) -> Vocabularies:
        """From the vocabulary's frames, whose row order gives the ids."""
        number = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("id")
        return cls(
            videos=videos.select("token", number), tokens=tokens.select("token", number), shared_rows=shared_rows
        )

    def with_ids(self, watches: pl.DataFrame) -> pl.DataFrame:
        """Watches with `id`, 0 out of vocabulary, and `input`, the row that their video has in a history: the id, or
        out of vocabulary one of the shared rows from `videos` + 1, by XXH64 of the video's id; 0 without shared rows.
        """
        known = watches.join(self.videos, left_on="video_id", right_on="token", how="left", maintain_order="left")
        if not self.shared_rows:
            return known.with_columns(pl.col("id").fill_null(0)).with_columns(input="id")
        others = known.filter(pl.col("id").is_null()).select(pl.col("video_id").unique())
        row = (id_digests(others["video_id"]) % self.shared_rows).cast(pl.Int64) + self.videos.height + 1
        shared = known.join(others.with_columns(row.alias("row")), on="video_id", how="left", maintain_order="left")
        return shared.with_columns(pl.col("id").fill_null(0), input=pl.coalesce("id", "row")).drop("row")


@dataclass(frozen=True, kw_only=True)
class UserHistories:
    """One bucket's users' pasts.

    watches: user_id, time, video_id, completed, `id` and `input` (`Vocabularies.with_ids`), the context as last known
        at that event, and `watches_end`, the number of the user's completed watches up to and with this event
    tokens: user_id, time, `input`: search tokens in vocabulary
    searches: user_id, time, `tokens_end`: the number of the user's tokens up to and with the searches of that time
    users: user_id and the columns of the users table
    active: ids of all users with an event, each once, in order
    searches_used: how many searches have a token in vocabulary
    """

    watches: pl.DataFrame
    tokens: pl.DataFrame
    searches: pl.DataFrame
    users: pl.DataFrame
    active: pl.Series
    searches_used: int

    @classmethod
    def of(
        cls, watches: pl.DataFrame, searches: pl.DataFrame, users: pl.DataFrame, vocabularies: Vocabularies
    ) -> UserHistories:
        """From events ordered by user and time, as `Window` reads them, and the users of the bucket."""
        context = [_last_known(watches[name]) for name in WATCH_CATEGORIES]
        asked = with_tokens(searches, vocabularies.tokens)
        tokens = asked.explode("input", empty_as_null=False, keep_nulls=False)
        ends = tokens.group_by("user_id", "time", maintain_order=True).agg(n=pl.len().cast(pl.Int64))
        return cls(
            watches=vocabularies.with_ids(watches).with_columns(
                *context, watches_end=pl.col("completed").cast(pl.Int64).cum_sum().over("user_id")
            ),
            tokens=tokens,
            searches=ends.select("user_id", "time", tokens_end=pl.col("n").cum_sum().over("user_id")),
            users=users.with_columns(pl.col("user_id").cast(watches.schema["user_id"], strict=False)).drop_nulls(
                "user_id"
            ),
            active=pl.concat([watches["user_id"], searches["user_id"]]).unique().sort(),
            searches_used=asked["input"].count(),
        )


def _last_known(values: pl.Series) -> pl.Expr:
    """A category of ordered watches, as text: where it is null, the user's last one before."""
    text = pl.col(values.name).cast(pl.String)
    return text.forward_fill().over("user_id") if 0 < values.null_count() < values.len() else text


def with_tokens(searches: pl.DataFrame, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """user_id, time and `input`, the ids of its tokens in vocabulary, null without; distinct queries are cut once."""
    queries = searches.select(pl.col("query").unique(maintain_order=True)).with_row_index("at")
    cut = tokenize(queries["query"]).join(vocabulary, on="token", maintain_order="left")
    ids = cut.group_by("at", maintain_order=True).agg(input="id")
    found = searches.join(queries, on="query", maintain_order="left")
    return found.join(ids, on="at", how="left", maintain_order="left").select("user_id", "time", "input")
