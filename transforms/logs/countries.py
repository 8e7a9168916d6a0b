"""Countries: those a video may be shown in, and the one a user is in. Both are compared in one form, upper case."""

from __future__ import annotations

import polars as pl


def code(country: pl.Expr) -> pl.Expr:
    """A country as countries are compared: upper case, without blanks around it; null for an empty one."""
    return country.str.strip_chars().str.to_uppercase().replace("", None)


def normalised(text: pl.Expr) -> pl.Expr:
    """Of a text such as "at, DE,,de" or '["at", "DE", null]', the distinct codes in order: "AT,DE"; null where there is
    none, which is everywhere."""
    codes = text.str.strip_chars("[] ").str.split(",").list.eval(code(pl.element().str.strip_chars(" '\"")))
    known = codes.list.eval(pl.element().replace("NULL", None)).list.drop_nulls()  # null: of a list in JSON
    return known.list.unique().list.sort().list.join(",").replace("", None)


def last_known(watches: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """user_id, country of every user of whom a country is known: that of the last watch that has one, of several at the
    same time the last in order; else that of the users table.

    watches: user_id, time, country; users: user_id, and country where the table has it.
    """
    seen = watches.select("user_id", "time", code(pl.col("country"))).drop_nulls("country").sort("time", "country")
    last = seen.unique("user_id", keep="last").select("user_id", "country")
    if "country" not in users.columns:
        return last
    told = users.select("user_id", code(pl.col("country"))).drop_nulls("country")
    return pl.concat([last, told.join(last, on="user_id", how="anti")])
