"""Country codes and countries of users, compared with plain Python."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import watch, watches_frame

from transforms.logs import countries


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DE", "DE"),
        (" at, DE,,de ", "AT,DE"),
        ('["at", "DE"]', "AT,DE"),
        ("['SE']", "SE"),
        ("United States,de", "DE,UNITED STATES"),
        ("", None),
        (" , ", None),
        ("[]", None),
        (None, None),
    ],
)
def test_codes_are_distinct_upper_case_and_sorted(text: str | None, expected: str | None) -> None:
    frame = pl.DataFrame({"text": [text]}, schema={"text": pl.String})
    assert frame.select(countries.normalise_codes(pl.col("text"))).item() == expected


WATCHES = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.sampled_from([None, "", " ", "de", "SE ", "AT"])),
    max_size=10,
)


@given(WATCHES, st.sampled_from([None, "", "fr"]))
def test_country_of_a_user_comes_from_watches_or_else_from_the_users_table(
    rows: list[tuple[str, int, str | None]], message: str | None
) -> None:
    watches = watches_frame([watch(user, hour, "v", country=country) for user, hour, country in rows])
    users = pl.DataFrame({"user_id": ["a", "c"], "country": [message, "NO"]}, schema_overrides={"country": pl.String})
    expected: dict[str, Any] = {"c": "NO"} | ({"a": "FR"} if message else {})
    for user in "ab":
        known = [(hour, (c or "").strip().upper()) for who, hour, c in rows if who == user and (c or "").strip()]
        expected |= {user: max(known)[1]} if known else {}
    assert dict(countries.last_known_countries(watches, users).sort("user_id").rows()) == expected


def test_users_table_without_countries() -> None:
    watches = watches_frame([watch("a", 1, "v", country="de")])
    assert countries.last_known_countries(watches, pl.DataFrame({"user_id": ["a", "b"]})).rows() == [("a", "DE")]
