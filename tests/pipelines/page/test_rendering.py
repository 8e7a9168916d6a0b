from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.page.rendering import LONGEST_LINK, LONGEST_TEXT, link, seconds, shown


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, ""),
        ("plain <b>", "plain <b>"),
        ("a\0b\x1b", "a\\x00b\\x1b"),
        ("\u202egpj", "\\u202egpj"),
        ("x" * 301, "x" * LONGEST_TEXT + "…"),
        ("é深😀", "é深😀"),
    ],
)
def test_text_is_shown_without_control_characters_and_cut(text: str | None, wanted: str) -> None:
    assert shown(text) == wanted


@given(st.text())
def test_shown_text_is_one_that_a_page_may_contain(text: str) -> None:
    assert not {*shown(text)} & {
        chr(code) for code in (*range(9), 0x0B, *range(0x0E, 0x20), 0x7F, 0x85, 0x2028, 0x202E)
    }


def test_an_address_has_the_values_that_are_given() -> None:
    assert link("/user", id="a/../b&c=d é\0", k=None) == "/user?id=a%2F..%2Fb%26c%3Dd+%C3%A9%00"
    assert link("/nights") == "/nights" and link("/user", k=3) == "/user?k=3"
    assert link("/user", id="x" * LONGEST_LINK) == ""


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(None, ""), (0.4, "0:00"), (59.4, "0:59"), (599.5, "10:00"), (3_599.6, "1:00:00"), (36_061.0, "10:01:01")],
)
def test_seconds_are_formatted(value: float | None, wanted: str) -> None:
    assert seconds(value) == wanted
