"""Country codes in one form, upper case: the countries in which a video may be shown, and the country of a user."""

from __future__ import annotations

import polars as pl


def country_code(country: pl.Expr) -> pl.Expr:
    """Return a country in upper case without surrounding blanks; null if it is empty."""
    return country.str.strip_chars().str.to_uppercase().replace("", None)


def normalise_codes(text: pl.Expr) -> pl.Expr:
    """Return the distinct, sorted codes of a text such as "at, DE,,de" or '["at", "DE", null]': "AT,DE".

    A text without codes gives null, which means every country.
    """
    codes = text.str.strip_chars("[] ").str.split(",").list.eval(country_code(pl.element().str.strip_chars(" '\"")))
    known = codes.list.eval(pl.element().replace("NULL", None)).list.drop_nulls()  # JSON lists may contain null
    return known.list.unique().list.sort().list.join(",").replace("", None)


def last_known_countries(watches: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Return `user_id` and `country` of each user whose country is known.

    It is the country of the user's last watch that has one (the last in alphabetical order if several have the same
    time), or else that of the users table.

    watches: user_id, time, country. users: user_id and optionally country.
    """
    seen = (
        watches.select("user_id", "time", country_code(pl.col("country"))).drop_nulls("country").sort("time", "country")
    )
    last = seen.unique("user_id", keep="last").select("user_id", "country")
    if "country" not in users.columns:
        return last
    registered = users.select("user_id", country_code(pl.col("country"))).drop_nulls("country")
    return pl.concat([last, registered.join(last, on="user_id", how="anti")])
