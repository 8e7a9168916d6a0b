"""The rows of a CSV file, told apart before a reader parses them.

A quote that is never closed makes one value of all the lines behind it, and a reader that takes line ends in values
cannot see that. `WholeRows` hands on the same bytes, in whole rows, counts the rows, and raises `TextError` for a quote
that is never closed, for one that is closed only among later rows, and for a row longer than its limit, so that memory
stays bounded whatever a compressed file holds. Lines end with LF, CR LF or CR, as the reader has it; quotes count only
at the start of a value. Work is done on blocks; only rows around an odd number of quotes are looked at in Python.
"""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from typing import Any

import numpy as np

_LINE_ENDS = b"\r\n"
# A quoted value's content and closing quote, if it is quoted, and what stands behind or instead.
_VALUE = re.compile(rb'(?:"((?:[^"]++|"")*+)("?+))?+([^,\r\n]*+)')
_TIME = re.compile(r"\s*(\d{4}-\d\d-\d\d|\d{9,})")
_UTF_16 = {BOM_UTF32_LE: "UTF-32", BOM_UTF32_BE: "UTF-32", BOM_UTF16_LE: "UTF-16", BOM_UTF16_BE: "UTF-16"}
_HEAD_BYTES = 1_000


class TextError(ValueError):
    """A text file that is damaged; the message does not name the file."""


class FormatError(TextError):
    """A text file that is whole, but not what its name says; the message says what to do."""


def without_mark(head: bytes) -> bytes:
    """The first bytes of a UTF-8 text without its byte order mark. Raises TextError for UTF-16 and UTF-32."""
    found = next((name for mark, name in _UTF_16.items() if head.startswith(mark)), None)
    if found:
        raise FormatError(f"it is {found} text by its byte order mark, but must be UTF-8: iconv -f {found} -t UTF-8")
    start = head[:_HEAD_BYTES]
    if len(start) >= 8 and any(start) and (not any(start[::2]) or not any(start[1::2])):
        name = "UTF-16BE" if not any(start[::2]) else "UTF-16LE"
        raise FormatError(f"it is probably UTF-16 text, but must be UTF-8: iconv -f {name} -t UTF-8")
    return head.removeprefix(BOM_UTF8)


def encoding_of(text: bytes) -> str:
    """The encoding that some text which is not UTF-8 probably has."""
    return "WINDOWS-1252" if re.search(rb"[\x80-\x9f]", text[:_HEAD_BYTES]) else "ISO-8859-1 (Latin-1)"


def _not_utf_8(what: str, text: bytes) -> FormatError:
    encoding = encoding_of(text)
    convert = f"iconv -f {encoding.partition(' ')[0]} -t UTF-8"
    return FormatError(f"{what} is not UTF-8 text but probably {encoding}, all of it must be UTF-8: {convert}")


def read_header(source: Any, *, block_bytes: int, longest: int) -> tuple[list[str], bytes]:
    """(the names of the columns, the text read behind them) of a CSV file; no names if the file is blank.

    Raises TextError for a header of more than `longest` bytes, and for one that is not UTF-8.
    """
    head = b""
    while block := source.read(block_bytes):
        head += block
        if len(head) > longest or _line_end(head) >= 0:
            break
    head = without_mark(head)
    if not head.strip():
        return [], b""
    end = _line_end(head)
    end = len(head) if end < 0 else end
    if end > longest:
        raise TextError(f"the header is longer than {size_text(longest)}")
    try:
        names = next(csv.reader([head[:end].decode()]), [])
    except UnicodeDecodeError as error:
        raise _not_utf_8("the header", head[error.start : end]) from error
    except csv.Error as error:
        raise TextError(f"the header cannot be read: {error}") from error
    return names, head[end:]


def _line_end(text: bytes) -> int:
    """Where the first line ends, quotes considered; -1 if it goes on."""
    at, quoted = 0, False
    for match in re.finditer(rb'["\r\n]', text):
        at = match.start()
        if text[at] == ord('"'):
            quoted = not quoted
        elif not quoted:
            return at
    return -1


def size_text(number: int) -> str:
    """A number of bytes for a message."""
    return f"{number >> 20} MiB" if number >= 1 << 20 else f"{number} bytes"


class WholeRows(io.RawIOBase):
    """The rows of a CSV file without its header, as a stream of bytes; `rows` counts those handed on.

    head: what was read of the first rows already; columns: values a row has; time: the number of the column that holds
    times, if one does, by which a line within a value is recognised as a row.
    """

    def __init__(
        self, source: Any, head: bytes, *, columns: int, time: int | None, block_bytes: int, longest: int
    ) -> None:
        super().__init__()
        self.rows = 0
        self._source, self._rest = source, head
        self._block_bytes, self._longest = block_bytes, longest
        self._columns, self._time = columns, time
        self._ready = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            self._fill()
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _fill(self) -> None:
        block = self._source.read(self._block_bytes)
        self._ended = not block
        text = self._rest + block
        rows = self.rows
        end = self._end_of_rows(text)
        ready, self._rest = text[:end], text[end:]
        _check_utf_8(ready, rows)
        self._ready = memoryview(ready)
        if len(self._rest) > self._longest:
            self._too_long(self._rest)

    def _too_long(self, text: bytes) -> None:
        row = self.rows + 1
        if any(value[1] is not None and not value[2] for value in _values(text, 0)):
            raise TextError(f"the quote opened in row {row} is never closed, or {size_text(self._longest)} later")
        raise TextError(f"row {row} is longer than {size_text(self._longest)}")

    def _end_of_rows(self, text: bytes) -> int:
        """Where the last whole row of a text ends that begins with a row; counts these rows."""
        if b'"' not in text and self._ended is False and (end := self._plain_rows(text)) is not None:
            return end
        codes = np.frombuffer(text, np.uint8)
        is_end = codes == ord("\n")
        if b"\r" in text:
            is_end |= codes == ord("\r")
        ends = np.flatnonzero(is_end)
        whole, end = self._whole_rows(text, ends, np.flatnonzero(codes == ord('"')))
        self.rows += _rows_between(ends[whole])
        if self._ended and end < len(text):  # the last row may lack its line end
            self.rows += 1
            return len(text)
        return end

    def _plain_rows(self, text: bytes) -> int | None:
        """`_end_of_rows` of a text without quotes, blank lines and carriage returns of their own; None of another."""
        if b"\r" in text and (text.count(b"\r") != text.count(b"\r\n") or b"\n\r" in text):
            return None
        if b"\n\n" in text or text[:1] in (b"\n", b"\r"):
            return None
        self.rows += text.count(b"\n")
        return text.rfind(b"\n") + 1

    def _whole_rows(self, text: bytes, ends: Any, quotes: Any) -> tuple[Any, int]:
        """(which of the line ends are ends of rows, where the last of these rows ends)."""
        odd = np.searchsorted(quotes, ends) & 1
        doubtful = {parity: np.flatnonzero(odd != parity) for parity in (0, 1)}
        whole, at, parity = np.ones(len(ends), bool), 0, 0
        while (found := np.searchsorted(doubtful[parity], at)) < len(doubtful[parity]):
            line = int(doubtful[parity][found])
            start = int(ends[line - 1]) + 1 if line else 0
            end = self._row_end(text, start, ends[:line][whole[:line]])
            if end < 0:
                whole[line:] = False
                break
            at = int(np.searchsorted(ends, end))
            whole[line:at] = False
            at, parity = at + 1, int(odd[at]) if at < len(odd) else parity
        else:
            if self._ended:
                self._row_end(text, _end_of(ends[whole]), ends[whole])
        return whole, _end_of(ends[whole])

    def _row_end(self, text: bytes, start: int, before: Any) -> int:
        """Where the row that begins at `start` ends; -1 if it goes on behind the text. `before`: the ends of the rows
        before it."""
        for value in _values(text, start):
            if value[1] is not None and not value[2]:
                if self._ended:
                    raise TextError(f"the quote opened in row {self._number(before)} is never closed")
                return -1
            if value.end() == len(text) and not self._ended:
                return -1
            if value[1] is not None and (b"\n" in value[1] or b"\r" in value[1]) and self._is_damage(text, value):
                raise TextError(
                    f"the quote opened in row {self._number(before)} is never closed: what follows it would be rows"
                )
        return value.end()

    def _number(self, before: Any) -> int:
        return self.rows + _rows_between(before) + 1

    def _is_damage(self, text: bytes, value: re.Match[bytes]) -> bool:
        """Whether a quoted value of several lines was meant to be several rows."""
        if value[3]:  # text behind the closing quote: that quote opens another row's value
            return True
        if self._columns < 2:
            return False
        line_end = re.compile(rb"[\r\n]|\Z").search(text, value.end())
        assert line_end is not None
        lines = text[value.start() : line_end.start()].decode(errors="replace").splitlines()[1:]
        rows = [self._is_row(line) for line in lines]
        return any(rows) if self._time is not None else len(rows) > 1 and all(rows)

    def _is_row(self, line: str) -> bool:
        try:
            values = next(csv.reader([line]), [])
        except csv.Error:
            return False
        return len(values) == self._columns and (self._time is None or bool(_TIME.match(values[self._time])))


def _check_utf_8(text: bytes, rows: int) -> None:
    """Raise FormatError for rows that are not UTF-8; `rows`: how many come before them."""
    if text.isascii():
        return
    try:
        text.decode()
    except UnicodeDecodeError as error:
        lines = re.split(rb"[\r\n]+", text[: error.start].lstrip(_LINE_ENDS))
        raise _not_utf_8(f"row {rows + len(lines)}", text[error.start :]) from error


def _values(text: bytes, start: int) -> Any:
    """The values of the row that begins at `start`, as matches of `_VALUE`."""
    at = start
    while True:
        value = _VALUE.match(text, at)
        assert value is not None
        yield value
        at = value.end()
        if at >= len(text) or text[at] in _LINE_ENDS:
            return
        at += 1


def _end_of(ends: Any) -> int:
    return int(ends[-1]) + 1 if len(ends) else 0


def _rows_between(ends: Any) -> int:
    """How many rows end at these places: lines that are not empty."""
    return int(np.count_nonzero(np.diff(ends, prepend=-1) > 1))
