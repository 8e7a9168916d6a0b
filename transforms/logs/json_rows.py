"""Parse JSON lines to frames of strings, and report the lines that are not rows, each with a reason.

polars parses blocks of lines. Python checks again the lines that polars would misread: objects and lists instead of
one value, lone surrogates, and values that are invalid as ids.
"""

from __future__ import annotations

import io
import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence

import polars as pl

from transforms.core.digests import concat
from transforms.logs.arrow_values import IDS
from transforms.logs.csv_rows import FormatError, TextError, format_size, guess_encoding, strip_byte_order_mark
from transforms.logs.id_text import has_byte

NumberedLines = list[tuple[int, bytes]]
BrokenRows = list[tuple[int, str, str]]  # row, reason, text

_ARRAY = re.compile(rb"\[\s*(\{|\]?\s*$)")
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F]"
_LONE = re.compile(_HIGH + rb"(?!" + _LOW + rb")|(?<!" + _HIGH + rb")" + _LOW)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SAMPLED_OBJECTS = 100  # the names of these are taken as the columns of the file


def line_blocks(source: io.BufferedIOBase, block_bytes: int, max_row_bytes: int) -> Iterator[tuple[list[bytes], bool]]:
    """Yield blocks of lines of a text, and whether a block contains Unicode escapes such as \\u00e9.

    Raises TextError if a line is longer than `max_row_bytes`, and FormatError for a JSON array and for UTF-16.
    """
    tail, lines_before = source.read(len(BOM_UTF8) + 1), 0
    checked = False
    while True:
        block = source.read(block_bytes)
        text = tail + block
        end = (text.rfind(b"\n") + 1 or text.rfind(b"\r", 0, len(text) - 1) + 1) if block else len(text)
        if not checked and (end or len(text) > max_row_bytes):
            text, before = strip_byte_order_mark(text), len(text)
            end -= before - len(text)
            checked = bool(text[:end].strip())
            if checked and _ARRAY.match(text.lstrip().partition(b"\n")[0].rstrip()):
                raise FormatError("it contains a JSON array, not JSON lines: write one object per line (jq -c '.[]')")
        tail = text[end:]
        if len(tail) > max_row_bytes:
            row = lines_before + len(text[:end].splitlines()) + 1
            raise TextError(f"row {row} is longer than {format_size(max_row_bytes)}")
        if lines := text[:end].splitlines():
            yield lines, b"\\u" in text
            lines_before += len(lines)
        if not block:
            return


def field_names(lines: Sequence[bytes]) -> list[str]:
    """Return the names in the first objects of some lines, sorted. A name that an object repeats is listed twice."""
    names, repeated, objects = set[str](), set[str](), 0
    for line in lines:
        pairs = _value(line, pairs=_Pairs)
        if isinstance(pairs, _Pairs):
            keys = [key for key, _ in pairs]
            repeated.update(key for key in keys if keys.count(key) > 1)
            names.update(keys)
            objects += 1
        if objects == _SAMPLED_OBJECTS:
            break
    return sorted([*names, *repeated])


class _Pairs(list[tuple[str, object]]):
    """A JSON object as a list of its names and values, including repeated names."""


def parse_lines(
    lines: list[bytes], columns: dict[str, str], first: int, lists: tuple[str, ...], *, has_escapes: bool = True
) -> tuple[pl.DataFrame, BrokenRows]:
    """Return the rows of some lines (strings under our names, and `row`) and the broken lines. Empty lines are skipped.

    columns: the file's names -> ours. first: the number of the first line. lists: our columns that may contain lists.
    has_escapes: whether lines may contain Unicode escapes.
    """
    numbered = [(first + index, line) for index, line in enumerate(lines) if line.strip()]
    frames, bad = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String) | {"row": pl.Int64})], NumberedLines()
    for frame, not_parsed in _parse_objects(numbered, list(columns)):
        frames.append(frame)
        bad += not_parsed
    rows = concat(frames).rename(columns)
    broken = [(number, _line_problem(line, columns, lists), _text(line)) for number, line in sorted(bad)]
    escaped = [(number, line) for number, line in numbered if b"\\u" in line] if has_escapes else []
    surrogates = {number for number, line in escaped if _LONE.search(line)}
    doubtful = sorted({*_doubtful_rows(rows, lists), *surrogates} - {number for number, _ in bad})
    problems = {number: _row_problem(lines[number - first], columns, lists) for number in doubtful}
    rejected = {number: problem for number, problem in problems.items() if problem}
    if rejected:
        rows = rows.filter(~pl.col("row").is_in(list(rejected)))
        broken += [(number, problem, _text(lines[number - first])) for number, problem in rejected.items()]
    return rows, sorted(broken)


def _text(line: bytes) -> str:
    return line.decode(errors="replace")


def _line_problem(line: bytes, columns: dict[str, str], lists: tuple[str, ...]) -> str:
    """Return why polars could not parse a line."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 text but probably {guess_encoding(line[error.start :])}"
    return _row_problem(line, columns, lists) or "not a JSON object"


def _doubtful_rows(rows: pl.DataFrame, lists: tuple[str, ...]) -> Iterator[int]:
    """Yield the numbers of rows with a text that may be an object or a list, or a fraction or boolean as an id."""
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


def _row_problem(line: bytes, columns: dict[str, str], lists: tuple[str, ...]) -> str | None:
    """Return why an object is not a valid row; None if it is valid."""
    row = _value(line)
    for theirs, ours in columns.items():
        value = row.get(theirs) if isinstance(row, dict) else None
        if isinstance(value, dict):
            return f"{ours} is an object, not one value"
        if isinstance(value, list) and ours not in lists:
            return f"{ours} is a list, not one value"
        if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            return f"{ours} is a list of objects or lists"
        if ours in IDS and _is_invalid_id(value):
            return f"{ours} cannot be read"
        if _SURROGATE.search(value if isinstance(value, str) else str(value)):
            return f"{ours} holds half of a surrogate pair: its text was cut within a character"
    return None


def _is_invalid_id(value: object) -> bool:
    """Return whether a value is a boolean or a number with a fraction."""
    fraction = isinstance(value, float) and math.isfinite(value) and not value.is_integer()
    return isinstance(value, bool) or fraction


def _parse_objects(lines: NumberedLines, columns: list[str]) -> Iterator[tuple[pl.DataFrame, NumberedLines]]:
    """Yield frames of the lines with `row`, and the lines that cannot be parsed.

    Lines that Python parses and polars does not (1e999) are found by bisection: a call of polars takes about 1 ms.
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


def _value(line: bytes, pairs: type[_Pairs] | None = None) -> object:
    """Return the JSON value of a line; None if the line is not valid JSON. pairs: the class of objects; None: dict."""
    try:
        return json.loads(line, parse_constant=_reject_constant, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return None


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON, although Python writes it")
