"""Decode the values in the text of an unreadable row in every possible spelling, to find ids of users in it.

JSON escapes characters, CSV doubles quotes, and numbers have several spellings.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from decimal import Decimal

# A text that does not match contains each of its values literally, possibly followed by more digits as in 2.0.
ESCAPED = r'\\|""|[0-9]\.?[eE]\+?[0-9]'
_MAX_READINGS = 10_000  # of one text, including nested values
_MAX_DIGITS = 40  # of a numeric id
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_NUMBER = re.compile(r"[+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:[eE][+-]?\d{1,9})?", re.ASCII)
_CHARACTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def decode_values(text: str) -> str | None:
    """Return all decoded values in the text of a row, one per line.

    The result is None if the values cannot be determined: the text has escapes and is not valid JSON, or it contains
    too many nested texts.
    """
    if "\\" in text and not _is_json(text):
        return None
    readings, queue = {text}, [text]
    while queue:
        reading = queue.pop()
        unescaped = {reading.replace('""', '"'), _without_escapes(reading), _number(reading)}
        new = {*unescaped, *_fields(reading), *_json_texts(reading)} - readings
        readings |= new
        queue += new
        if len(readings) > _MAX_READINGS:
            return None
    return "\n".join(readings).encode(errors="replace").decode()  # lone surrogates cannot be encoded as UTF-8


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _without_escapes(text: str) -> str:
    plain = _ESCAPE.sub(lambda e: chr(int(e[1], 16)) if e[1] else _CHARACTERS.get(e[2], e[2]), text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # joins surrogate pairs


def _fields(text: str) -> list[str]:
    """Return the fields of a text that is read as CSV."""
    try:
        return [field for row in csv.reader([text]) for field in row]
    except csv.Error:
        return []


def _json_texts(text: str) -> list[str]:
    """Return the names and values at any depth of a text that is JSON, including repeated names."""
    if text[:1] not in '{["':
        return []
    try:
        return list(_leaves(json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str)))
    except (ValueError, RecursionError):
        return []


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, str):
        yield value


def _number(text: str) -> str:
    """Return a whole number as an integer, which is the form of ids; empty for any other text."""
    if not _NUMBER.fullmatch(text.strip()):
        return ""
    number = Decimal(text.strip())
    return str(int(number)) if number.adjusted() < _MAX_DIGITS and number == int(number) else ""
