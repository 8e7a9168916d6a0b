"""What the text of a row that could not be read says, however it is written: to find the ids of users in it.

JSON writes characters as escapes, CSV doubles quotes, and numbers have several spellings.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

# A text without these has each of its values in it as it reads, perhaps with more digits behind it, as in 2.0.
ESCAPED = r'\\|""|[0-9]\.?[eE]\+?[0-9]'
_MOST_READINGS = 10_000  # of one text, its values, and the texts and values in those
_MOST_DIGITS = 40  # of an id that is a number
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_NUMBER = re.compile(r"[+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:[eE][+-]?\d{1,9})?", re.ASCII)
_CHARACTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def values_of(text: str) -> str | None:
    """The values in the text of a row, as they read, one a line; None if the text has escapes and is not whole JSON, or
    has texts in texts without end, so that it may hide anything."""
    if "\\" in text and not _is_json(text):
        return None
    met, waiting = {text}, [text]
    while waiting:
        one = waiting.pop()
        found = {one.replace('""', '"'), _without_escapes(one), _number(one), *_fields(one), *_leaves_of(one)} - met
        met |= found
        waiting += found
        if len(met) > _MOST_READINGS:
            return None
    return "\n".join(met).encode(errors="replace").decode()  # lone surrogates are no UTF-8


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _without_escapes(text: str) -> str:
    plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _character(found[2]), text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # two escapes make one emoji


def _character(letter: str) -> str:
    return _CHARACTERS.get(letter, letter)


def _fields(text: str) -> list[str]:
    """The fields of a row of CSV."""
    try:
        return [field for row in csv.reader([text]) for field in row]
    except csv.Error:
        return []


def _leaves_of(text: str) -> list[str]:
    """Names and values at any depth of a text in JSON; of a name that stands twice, both values."""
    if text[:1] not in '{["':
        return []
    try:
        return list(_leaves(json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str)))
    except (ValueError, RecursionError):
        return []


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, str):
        yield value


def _number(text: str) -> str:
    """A number without a fraction as its integer, the form that ids have; empty for any other text."""
    if not _NUMBER.fullmatch(text.strip()):
        return ""
    number = Decimal(text.strip())
    return str(int(number)) if number.adjusted() < _MOST_DIGITS and number == int(number) else ""
