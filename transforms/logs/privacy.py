"""What is let into the store, and under which name: users to forget are left out, user ids become pseudonyms.

Both happen where a raw frame is read, before anything is shuffled or written.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from transforms.logs import spellings
from transforms.logs.columns import ident
from transforms.logs.key_source import KeySource
from transforms.logs.parsing import Parsed
from transforms.logs.readers import LogError, LogTable, read_log

FORGET = LogTable(name="forget", required=("user_id",))

Span = tuple[dt.datetime, dt.datetime]  # start <= time < end


@dataclass(frozen=True)
class ForgetList:
    """Files that list the raw ids of users to forget, read where they are needed.

    `digest` tells one content of the files from another, so that a process reads each once.
    """

    paths: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    digest: str = ""

    def ids(self) -> pl.Series:
        """The raw ids: `user_id`, String, distinct, in order. Raises LogError for a row without a readable one."""
        return _read_ids(self)[0]

    def spellings(self) -> pl.Series:
        """`ids`, and as versions before one rule for ids may have stored them: as they are written, and 2.0 for 2."""
        ids, written = _read_ids(self)
        whole = ids.filter(ids.str.contains(r"^-?\d+$")) + ".0"
        return pl.concat([ids, written, whole]).unique().sort()


@dataclass(frozen=True, kw_only=True)
class PrivacyFilter:
    """What becomes of the rows of a raw frame, besides being parsed."""

    forget: ForgetList = ForgetList()
    key: KeySource | None = None  # of pseudonyms: where each worker reads it
    spans: tuple[Span, ...] = ()  # where there are some, only events within them are taken
    tracks_forgotten: bool = False  # whether to find out which ids of the list have rows

    def admitted(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows of a raw frame but for those of users to forget."""
        if not self.forget.paths or "user_id" not in rows.columns:
            return rows
        ids = ident(rows["user_id"])
        return rows.filter(~ids.is_in(self.forget.ids().implode()).fill_null(False))

    def forgotten_ids(self, rows: pl.DataFrame) -> tuple[int, ...]:
        """The places, in the list of users to forget, of those who have rows in a raw frame; none if not tracked."""
        if not self.tracks_forgotten or not self.forget.paths or "user_id" not in rows.columns:
            return ()
        ids = ident(rows["user_id"]).unique()
        return tuple(self.forget.ids().is_in(ids.implode()).arg_true())

    def named(self, valid: pl.DataFrame) -> pl.DataFrame:
        """Valid rows with pseudonyms for their users, where there is a key."""
        if self.key is None or "user_id" not in valid.columns:
            return valid
        return valid.with_columns(pseudonyms(valid["user_id"], self.key.key()))

    def told(self, refused: pl.DataFrame) -> pl.DataFrame:
        """Refused rows with their `text`, but where it may name a user it must not.

        With pseudonyms that is every text: in a row that could not be read, an id may stand anywhere. Its file and its
        number still say which row it is.
        """
        if self.key is not None:
            return refused.with_columns(text=pl.lit(None, pl.String))
        if not self.forget.paths or refused.is_empty():
            return refused
        return without_texts(refused, self.forget.ids())

    def dated(self, valid: pl.DataFrame) -> pl.DataFrame:
        """Valid rows within the spans."""
        if not self.spans or "time" not in valid.columns:
            return valid
        return valid.filter(within_any(self.spans))

    def forgotten(self) -> pl.Series:
        """The users to forget as the store names them."""
        ids = self.forget.ids() if self.forget.paths else pl.Series("user_id", [], pl.String)
        return pseudonyms(ids, self.key.key()) if self.key is not None else ids

    def names_to_remove(self) -> pl.Series:
        """`forgotten`, and as stores of older versions may name them."""
        names = self.forget.spellings() if self.forget.paths else pl.Series("user_id", [], pl.String)
        return pseudonyms(names, self.key.key()) if self.key is not None else names


def screened(parsed: Parsed, screen: PrivacyFilter, *, forgotten: int) -> Parsed:
    """A parsed frame as the screen lets it through; `forgotten`: its rows that were left out before."""
    dated = screen.dated(parsed.valid)
    other_days = parsed.valid.height - dated.height
    return Parsed(screen.named(dated), screen.told(parsed.refused), forgotten=forgotten, other_days=other_days)


def pseudonyms(user_ids: pl.Series, key: bytes) -> pl.Series:
    """HMAC-SHA-256 of each id's UTF-8 bytes, as 64 hexadecimal digits; each distinct id is hashed once."""
    distinct = user_ids.unique().drop_nulls()
    digests = pl.Series([pseudonym(text, key) for text in distinct.to_list()], dtype=pl.String)
    return user_ids.replace_strict(distinct, digests, default=None, return_dtype=pl.String)


def pseudonym(user_id: str, key: bytes) -> str:
    """The pseudonym of one user."""
    return hmac.digest(key, user_id.encode(), hashlib.sha256).hex()


def without_texts(refused: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """Refused rows, with null for each `text` in which one of the ids occurs, as a part of a longer word too.

    Ids are found in whatever way JSON, CSV and numbers spell them. A text with escapes that cannot be read may hide
    one, and goes too.
    """
    if ids.is_empty():
        return refused
    listed = ids.to_list()
    kept = refused["text"].set(refused["text"].str.contains_any(listed).fill_null(False), None)
    written = kept.filter(kept.str.contains(spellings.ESCAPED).fill_null(False)).unique()
    values = pl.Series([spellings.values_of(text) for text in written], dtype=pl.String)
    hides = written.filter(values.is_null() | values.str.contains_any(listed).fill_null(False))
    return refused.with_columns(text=kept.set(kept.is_in(hides.implode()).fill_null(False), None))


def within_any(spans: tuple[Span, ...]) -> pl.Expr:
    """Whether `time` lies in one of the spans."""
    return pl.any_horizontal(*(pl.col("time").is_between(start, end, closed="left") for start, end in spans))


@lru_cache(maxsize=2)
def _read_ids(listed: ForgetList) -> tuple[pl.Series, pl.Series]:
    """(the ids of the list, distinct and in order; their texts as they are written)."""
    found, written = [pl.Series("user_id", [], pl.String)], [pl.Series("user_id", [], pl.String)]
    for path in listed.paths:
        for raw in read_log(path, FORGET, dict(listed.renamed)):
            ids = ident(raw.rows["user_id"]).alias("user_id")
            bad = [*raw.rows["row"].filter(ids.is_null()), *raw.broken["row"]]
            if bad:
                raise LogError(f"{path}: row {min(bad)} has no user_id that can be read: nobody may be overlooked here")
            found.append(ids)
            if raw.rows["user_id"].dtype == pl.String:
                written.append(raw.rows["user_id"])
    return pl.concat(found).unique().sort(), pl.concat(written)
