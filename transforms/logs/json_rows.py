"""Lines of JSON as frames of strings, and the lines that are no rows, each with its reason.

The fast reader takes a block of lines at a time. What it would misread is looked at again in Python, line by line:
objects and lists in place of one value, half of a surrogate pair, and ids that are no ids.
"""

from __future__ import annotations

import io
import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from transforms.core.frames import concat
from transforms.logs.arrow_values import IDS
from transforms.logs.csv_rows import FormatError, TextError, encoding_of, size_text, without_mark
from transforms.logs.id_text import has_byte

NumberedLines = list[tuple[int, bytes]]
BrokenRows = list[tuple[int, str, str]]  # row, reason, text

_ARRAY = re.compile(rb"\[\s*(\{|\]?\s*$)")
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F]"
_LONE = re.compile(_HIGH + rb"(?!" + _LOW + rb")|(?<!" + _HIGH + rb")" + _LOW)
_SURROGATE = re.compile("[\ud800-\udfff]")
_NAMED_LINES = 100  # whose names are taken for those of the file


def line_blocks(source: Any, block_bytes: int, longest: int) -> Iterator[tuple[list[bytes], bool]]:
    """(some lines, whether they hold characters written as numbers: \\u00e9) of a text, in order.

    Raises TextError for a line of more than `longest` bytes, for a JSON array and for UTF-16.
    """
    tail, lines_before = source.read(len(BOM_UTF8) + 1), 0
    checked = False
    while True:
        block = source.read(block_bytes)
        text = tail + block
        end = (text.rfind(b"\n") + 1 or text.rfind(b"\r", 0, len(text) - 1) + 1) if block else len(text)
        if not checked and (end or len(text) > longest):
            text, before = without_mark(text), len(text)
            end -= before - len(text)
            checked = bool(text[:end].strip())
            if checked and _ARRAY.match(text.lstrip().partition(b"\n")[0].rstrip()):
                raise FormatError("it holds a JSON array, not JSON lines: write one object a line (jq -c '.[]')")
        tail = text[end:]
        if len(tail) > longest:
            row = lines_before + len(text[:end].splitlines()) + 1
            raise TextError(f"row {row} is longer than {size_text(longest)}")
        if lines := text[:end].splitlines():
            yield lines, b"\\u" in text
            lines_before += len(lines)
        if not block:
            return


def names_of(lines: Sequence[bytes]) -> list[str]:
    """The names in the first objects among some lines, sorted; one that an object has twice is there twice."""
    names, repeated, objects = set[str](), set[str](), 0
    for line in lines:
        if (pairs := _pairs(line)) is not None:
            keys = [key for key, _ in pairs]
            repeated.update(key for key in keys if keys.count(key) > 1)
            names.update(keys)
            objects += 1
        if objects == _NAMED_LINES:
            break
    return sorted([*names, *repeated])


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON as its names and values, repeated ones too."""


def _pairs(line: bytes) -> _Pairs | None:
    value = _value(line, object_pairs_hook=_Pairs)
    return value if isinstance(value, _Pairs) else None


def parse_lines(
    lines: list[bytes], columns: dict[str, str], first: int, lists: tuple[str, ...], *, has_escapes: bool = True
) -> tuple[pl.DataFrame, BrokenRows]:
    """(the lines that are rows, as strings under our names with `row`, the others); empty lines are neither.

    columns: the file's name -> ours; first: the number of the first line; lists: our columns that may hold lists;
    has_escapes: whether characters may be written as numbers.
    """
    numbered = [(first + at, line) for at, line in enumerate(lines) if line.strip()]
    frames, bad = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String) | {"row": pl.Int64})], NumberedLines()
    for frame, refused in _parse_objects(numbered, list(columns)):
        frames.append(frame)
        bad += refused
    rows = concat(frames).rename(columns)
    texts = [(number, _why_no_object(line, columns, lists), _text(line)) for number, line in sorted(bad)]
    halved = {number for number, line in numbered if b"\\u" in line and _LONE.search(line)} if has_escapes else set()
    doubtful = sorted({*_doubtful_rows(rows, lists), *halved} - {number for number, _ in bad})
    found = {number: _why_no_row(lines[number - first], columns, lists) for number in doubtful}
    refused_rows = {number: reason for number, reason in found.items() if reason}
    if refused_rows:
        rows = rows.filter(~pl.col("row").is_in(list(refused_rows)))
        texts += [(number, reason, _text(lines[number - first])) for number, reason in refused_rows.items()]
    return rows, sorted(texts)


def _text(line: bytes) -> str:
    return line.decode(errors="replace")


def _why_no_object(line: bytes, columns: dict[str, str], lists: tuple[str, ...]) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 text but probably {encoding_of(line[error.start :])}"
    return _why_no_row(line, columns, lists) or "not a JSON object"


def _doubtful_rows(rows: pl.DataFrame, lists: tuple[str, ...]) -> Iterator[int]:
    """The numbers of rows with a text that may be an object, a list, or a number or truth value as an id."""
    for name in rows.columns:
        if name == "row" or rows[name].null_count() == rows.height:
            continue
        values = rows[name]
        mask = values >= "{"  # comparisons are faster than starts_with
        for start, end in (("[[", "[\\"), ("[{", "[|")) if name in lists else (("[", "\\"),):
            mask |= (values >= start) & (values < end)
        if name in IDS:
            mask |= (values == "true") | (values == "false")
            if has_byte(values, "."):
                mask |= values.str.contains(r"^-?\d+\.\d+$")
        if mask.any():
            mask &= values.str.contains(r"^[\[{]|^(?:true|false|-?\d+\.\d+)$")
            yield from rows["row"].filter(mask)


def _why_no_row(line: bytes, columns: dict[str, str], lists: tuple[str, ...]) -> str | None:
    """Why an object is no row; None if it is one."""
    value = _value(line)
    for theirs, ours in columns.items():
        given = value.get(theirs) if isinstance(value, dict) else None
        if isinstance(given, dict):
            return f"{ours} is an object, not one value"
        if isinstance(given, list) and ours not in lists:
            return f"{ours} is a list, not one value"
        if isinstance(given, list) and any(isinstance(item, dict | list) for item in given):
            return f"{ours} is a list of objects or lists"
        if ours in IDS and _is_no_id(given):
            return f"{ours} cannot be read"
        if _SURROGATE.search(given if isinstance(given, str) else str(given)):
            return f"{ours} holds half of a surrogate pair: its text was cut within a character"
    return None


def _is_no_id(value: Any) -> bool:
    """Whether a value is true, false or a number with a fraction."""
    fraction = isinstance(value, float) and math.isfinite(value) and not value.is_integer()
    return isinstance(value, bool) or fraction


def _parse_objects(lines: NumberedLines, columns: list[str]) -> Iterator[tuple[pl.DataFrame, NumberedLines]]:
    """Frames of the lines, and lines that are no object, each looked at alone if the reader refuses them together.

    What Python takes and the reader does not (1e999) is found by halving: a call of the reader costs about 1 ms.
    """
    if not lines:
        return
    schema = dict.fromkeys(columns, pl.String)
    try:
        frame = pl.read_ndjson(io.BytesIO(b"\n".join(line for _, line in lines)), schema=schema)
        yield frame.with_columns(pl.Series("row", [number for number, _ in lines], dtype=pl.Int64)), []
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        objects = [(number, line) for number, line in lines if isinstance(_value(line), dict)]
        half = len(objects) // 2 if len(objects) == len(lines) else len(objects)
        yield pl.DataFrame(schema=schema | {"row": pl.Int64}), sorted(set(lines) - set(objects)) if half else lines
        if half:
            yield from _parse_objects(objects[:half], columns)
            yield from _parse_objects(objects[half:], columns)


def _value(line: bytes, **hooks: Any) -> Any:
    """The JSON value a line holds; None if it holds none."""
    try:
        return json.loads(line, parse_constant=_no_constant, **hooks)
    except (ValueError, RecursionError):
        return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON, though Python writes it")
