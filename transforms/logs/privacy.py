"""Protect users before rows enter the store: drop users to forget, and replace user ids with pseudonyms.

Both happen when a raw frame is read, before any row is shuffled or written.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from transforms.logs import spellings
from transforms.logs.columns import parse_ids
from transforms.logs.key_source import KeySource
from transforms.logs.readers import LogError, LogTable, read_log

FORGET = LogTable(name="forget", required=("user_id",))

Span = tuple[dt.datetime, dt.datetime]  # start <= time < end


@dataclass(frozen=True)
class ForgetList:
    """Files that list the raw ids of users to forget. Workers read them.

    `digest` identifies the content of the files, so that a process reads each version once.
    """

    paths: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    digest: str = ""

    def ids(self) -> pl.Series:
        """Return the distinct, sorted ids: `user_id`, String. Raises LogError if a row has no readable id."""
        return _read_ids(self)[0]

    def spellings(self) -> pl.Series:
        """Return `ids`, and their forms that earlier versions may have stored: as written, and 2.0 for 2."""
        ids, written = _read_ids(self)
        whole = ids.filter(ids.str.contains(r"^-?\d+$")) + ".0"
        return pl.concat([ids, written, whole]).unique().sort()


@dataclass(frozen=True, kw_only=True)
class PrivacyFilter:
    """Filter rows of users to forget and of other days, and hide user ids. The default changes nothing."""

    forget: ForgetList = ForgetList()
    key: KeySource | None = None  # the key for pseudonyms, which each worker reads
    spans: tuple[Span, ...] = ()  # if not empty, only events within these are kept
    tracks_forgotten: bool = False  # whether to report which ids of the forget list have rows

    def drop_forgotten(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a raw frame without those of users to forget."""
        if not self.forget.paths or "user_id" not in rows.columns:
            return rows
        ids = parse_ids(rows["user_id"])
        return rows.filter(~ids.is_in(self.forget.ids().implode()).fill_null(False))

    def forgotten_ids(self, rows: pl.DataFrame) -> tuple[int, ...]:
        """Return the positions in the forget list of users with rows in a raw frame; empty if not tracked."""
        if not self.tracks_forgotten or not self.forget.paths or "user_id" not in rows.columns:
            return ()
        ids = parse_ids(rows["user_id"]).unique()
        return tuple(self.forget.ids().is_in(ids.implode()).arg_true())

    def pseudonymise(self, valid: pl.DataFrame) -> pl.DataFrame:
        """Return valid rows with user ids replaced by pseudonyms, if there is a key."""
        if self.key is None or "user_id" not in valid.columns:
            return valid
        return valid.with_columns(pseudonyms(valid["user_id"], self.key.key()))

    def redact(self, rejected: pl.DataFrame) -> pl.DataFrame:
        """Return rejected rows with `text` set to null if it may contain the id of a user to forget.

        With a key for pseudonyms every text is removed, as an unreadable row may contain an id anywhere. Its file and
        row number still identify the row.
        """
        if self.key is not None:
            return rejected.with_columns(text=pl.lit(None, pl.String))
        if not self.forget.paths or rejected.is_empty():
            return rejected
        return redact_texts(rejected, self.forget.ids())

    def select_spans(self, valid: pl.DataFrame) -> pl.DataFrame:
        """Return valid rows within the spans."""
        if not self.spans or "time" not in valid.columns:
            return valid
        in_span = (pl.col("time").is_between(start, end, closed="left") for start, end in self.spans)
        return valid.filter(pl.any_horizontal(*in_span))

    def forgotten_users(self) -> pl.Series:
        """Return the users to forget by their ids in the store."""
        return self._as_stored(self.forget.ids())

    def stored_names(self) -> pl.Series:
        """Return the users to forget by their ids in the store, including the forms that earlier versions stored."""
        return self._as_stored(self.forget.spellings())

    def _as_stored(self, user_ids: pl.Series) -> pl.Series:
        return pseudonyms(user_ids, self.key.key()) if self.key is not None else user_ids


def pseudonyms(user_ids: pl.Series, key: bytes) -> pl.Series:
    """Return HMAC-SHA-256 of each id's UTF-8 bytes as 64 hexadecimal digits. Each distinct id is hashed once."""
    distinct = user_ids.unique().drop_nulls()
    digests = pl.Series([pseudonym(text, key) for text in distinct.to_list()], dtype=pl.String)
    return user_ids.replace_strict(distinct, digests, default=None, return_dtype=pl.String)


def pseudonym(user_id: str, key: bytes) -> str:
    """Return the pseudonym of one user."""
    return hmac.digest(key, user_id.encode(), hashlib.sha256).hex()


def redact_texts(rejected: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """Return rejected rows with `text` set to null if it contains one of the ids, even within a longer word.

    Ids are recognised in all spellings of JSON, CSV and numbers. A text whose escapes cannot be decoded may contain an
    id, and is removed too.
    """
    if ids.is_empty():
        return rejected
    listed = ids.to_list()
    texts = rejected["text"].set(rejected["text"].str.contains_any(listed).fill_null(False), None)
    escaped = texts.filter(texts.str.contains(spellings.ESCAPED).fill_null(False)).unique()
    values = pl.Series([spellings.decode_values(text) for text in escaped], dtype=pl.String)
    unsafe = escaped.filter(values.is_null() | values.str.contains_any(listed).fill_null(False))
    return rejected.with_columns(text=texts.set(texts.is_in(unsafe.implode()).fill_null(False), None))


@lru_cache(maxsize=2)
def _read_ids(listed: ForgetList) -> tuple[pl.Series, pl.Series]:
    """Return the distinct, sorted ids of the list, and their texts as written."""
    all_ids, written = [pl.Series("user_id", [], pl.String)], [pl.Series("user_id", [], pl.String)]
    for path in listed.paths:
        for raw in read_log(path, FORGET, dict(listed.renamed)):
            ids = parse_ids(raw.rows["user_id"]).alias("user_id")
            bad = [*raw.rows["row"].filter(ids.is_null()), *raw.broken["row"]]
            if bad:
                raise LogError(
                    f"{path}: row {min(bad)} has no readable user_id: correct it, or the user is not forgotten"
                )
            all_ids.append(ids)
            if raw.rows["user_id"].dtype == pl.String:
                written.append(raw.rows["user_id"])
    return pl.concat(all_ids).unique().sort(), pl.concat(written)
