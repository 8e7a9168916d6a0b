"""Find the rows of a CSV file before a reader parses them.

A quote that is never closed turns all lines after it into one value, which a reader that accepts line ends in values
does not detect. `CompleteRows` passes on the same bytes in complete rows and counts them. It raises `TextError` if a
quote is never closed, or only within a later row, or if a row is too long, so that memory is bounded for any content of
a compressed file. As in Arrow's reader, lines end with LF, CR LF or CR, and quotes are special only at the start of a
value. Blocks are processed with numpy; Python parses only rows around an odd number of quotes.
"""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Positions = NDArray[np.int64]
_LINE_ENDS = b"\r\n"
# By delimiter: the content and closing quote of a quoted value, and the text after them or of an unquoted value.
_VALUE = {
    delimiter: re.compile(rb'(?:"((?:[^"]++|"")*+)("?+))?+([^' + delimiter.encode() + rb"\r\n]*+)")
    for delimiter in (",", "\t")
}
_TIME = re.compile(r"\s*(\d{4}-\d\d-\d\d|\d{9,})")
_UTF_16 = {BOM_UTF32_LE: "UTF-32", BOM_UTF32_BE: "UTF-32", BOM_UTF16_LE: "UTF-16", BOM_UTF16_BE: "UTF-16"}
_HEAD_BYTES = 1_000


class TextError(ValueError):
    """A text file is damaged. The message does not name the file."""


class FormatError(TextError):
    """A text file is complete but has another format or encoding than expected. The message says what to do."""


def strip_byte_order_mark(head: bytes) -> bytes:
    """Remove the byte order mark from the start of a UTF-8 text. Raises FormatError for UTF-16 and UTF-32."""
    encoding = next((name for mark, name in _UTF_16.items() if head.startswith(mark)), None)
    if encoding:
        raise FormatError(
            f"it is {encoding} text by its byte order mark, but must be UTF-8: iconv -f {encoding} -t UTF-8"
        )
    start = head[:_HEAD_BYTES]
    if len(start) >= 8 and any(start) and (not any(start[::2]) or not any(start[1::2])):
        name = "UTF-16BE" if not any(start[::2]) else "UTF-16LE"
        raise FormatError(f"it is probably UTF-16 text, but must be UTF-8: iconv -f {name} -t UTF-8")
    return head.removeprefix(BOM_UTF8)


def guess_encoding(text: bytes) -> str:
    """Return the most probable encoding of a text that is not UTF-8."""
    return "WINDOWS-1252" if re.search(rb"[\x80-\x9f]", text[:_HEAD_BYTES]) else "ISO-8859-1 (Latin-1)"


def _not_utf_8(what: str, text: bytes) -> FormatError:
    encoding = guess_encoding(text)
    convert = f"iconv -f {encoding.partition(' ')[0]} -t UTF-8"
    return FormatError(f"{what} is not UTF-8 text but probably {encoding}, all of it must be UTF-8: {convert}")


def read_header(
    source: io.BufferedIOBase, *, delimiter: str = ",", block_bytes: int, max_row_bytes: int
) -> tuple[list[str], bytes]:
    """Return the column names of a CSV file (empty if the file is blank), and the text read after the header.

    delimiter: a comma or a tab.

    Raises TextError if the header is longer than `max_row_bytes` or is not UTF-8.
    """
    head = b""
    while block := source.read(block_bytes):
        head += block
        if len(head) > max_row_bytes or _line_end(head) >= 0:
            break
    head = strip_byte_order_mark(head)
    if not head.strip():
        return [], b""
    end = _line_end(head)
    end = len(head) if end < 0 else end
    if end > max_row_bytes:
        raise TextError(f"the header is longer than {format_size(max_row_bytes)}")
    try:
        names = next(csv.reader([head[:end].decode()], delimiter=delimiter), [])
    except UnicodeDecodeError as error:
        raise _not_utf_8("the header", head[error.start : end]) from error
    except csv.Error as error:
        raise TextError(f"the header cannot be read: {error}") from error
    return names, head[end:]


def _line_end(text: bytes) -> int:
    """Return the position of the first line end outside of quotes; -1 if there is none."""
    quoted = False
    for match in re.finditer(rb'["\r\n]', text):
        if match[0] == b'"':
            quoted = not quoted
        elif not quoted:
            return match.start()
    return -1


def format_size(number: int) -> str:
    """Format a number of bytes for a message."""
    return f"{number >> 20} MiB" if number >= 1 << 20 else f"{number} bytes"


class CompleteRows(io.RawIOBase):
    """A stream of the bytes of a CSV file's rows, without its header. `rows` counts the rows passed on.

    head: the text already read after the header. columns: the number of values per row. time: the index of the column
    of times, or None; a line within a value is recognised as a row by its time. delimiter: a comma or a tab.
    """

    def __init__(
        self,
        source: io.BufferedIOBase,
        head: bytes,
        *,
        columns: int,
        time: int | None,
        delimiter: str = ",",
        block_bytes: int,
        max_row_bytes: int,
    ) -> None:
        super().__init__()
        self.rows = 0
        self._source, self._rest = source, head
        self._block_bytes, self._max_row_bytes = block_bytes, max_row_bytes
        self._columns, self._time = columns, time
        self._delimiter, self._value = delimiter, _VALUE[delimiter]
        self._ready = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        into = memoryview(buffer).cast("B")
        while not self._ready and not self._ended:
            self._fill()
        size = min(len(into), len(self._ready))
        into[:size] = self._ready[:size]
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
        if len(self._rest) > self._max_row_bytes:
            self._raise_too_long(self._rest)

    def _raise_too_long(self, text: bytes) -> None:
        row, size = self.rows + 1, format_size(self._max_row_bytes)
        if any(value[1] is not None and not value[2] for value in _values(text, 0, self._value)):
            raise TextError(f"the quote opened in row {row} is never closed, or {size} later")
        raise TextError(f"row {row} is longer than {size}")

    def _end_of_rows(self, text: bytes) -> int:
        """Count the complete rows of a text that starts with a row, and return where the last of them ends."""
        if b'"' not in text and self._ended is False and (end := self._plain_rows(text)) is not None:
            return end
        codes = np.frombuffer(text, np.uint8)
        is_end = codes == ord("\n")
        if b"\r" in text:
            is_end |= codes == ord("\r")
        ends = np.flatnonzero(is_end)
        is_row_end, end = self._row_ends(text, ends, np.flatnonzero(codes == ord('"')))
        self.rows += _count_rows(ends[is_row_end])
        if self._ended and end < len(text):  # the last row has no line end
            self.rows += 1
            return len(text)
        return end

    def _plain_rows(self, text: bytes) -> int | None:
        """Do the same for a text without quotes, blank lines and lone carriage returns; None for other texts."""
        if b"\r" in text and (text.count(b"\r") != text.count(b"\r\n") or b"\n\r" in text):
            return None
        if b"\n\n" in text or text[:1] in (b"\n", b"\r"):
            return None
        self.rows += text.count(b"\n")
        return text.rfind(b"\n") + 1

    def _row_ends(self, text: bytes, ends: Positions, quotes: Positions) -> tuple[NDArray[np.bool_], int]:
        """Return a mask of the line ends that end a row, and where the last of these rows ends.

        ends, quotes: positions of line ends and of quotes. A line end after an even number of quotes since the last
        parsed row ends a row; a row around any other line end is parsed.
        """
        odd = np.searchsorted(quotes, ends) & 1
        doubtful = {parity: np.flatnonzero(odd != parity) for parity in (0, 1)}
        is_row_end, next_line, parity = np.ones(len(ends), bool), 0, 0
        while (position := np.searchsorted(doubtful[parity], next_line)) < len(doubtful[parity]):
            line = int(doubtful[parity][position])
            start = int(ends[line - 1]) + 1 if line else 0
            end = self._row_end(text, start, ends[:line][is_row_end[:line]])
            if end < 0:
                is_row_end[line:] = False
                break
            last_line = int(np.searchsorted(ends, end))
            is_row_end[line:last_line] = False
            next_line, parity = last_line + 1, int(odd[last_line]) if last_line < len(odd) else parity
        else:
            if self._ended:
                self._row_end(text, _end_of(ends[is_row_end]), ends[is_row_end])
        return is_row_end, _end_of(ends[is_row_end])

    def _row_end(self, text: bytes, start: int, before: Positions) -> int:
        """Return where the row that starts at `start` ends; -1 if it continues after the text.

        before: the ends of the rows before it, for its number in messages.
        """
        for value in _values(text, start, self._value):
            if value[1] is not None and not value[2]:
                if self._ended:
                    raise TextError(f"the quote opened in row {self._number(before)} is never closed")
                return -1
            if value.end() == len(text) and not self._ended:
                return -1
            if (
                value[1] is not None
                and (b"\n" in value[1] or b"\r" in value[1])
                and self._is_damage(text, value, first=value.start() == start)
            ):
                raise TextError(
                    f"the quote opened in row {self._number(before)} is never closed: what follows it would be rows"
                )
        return value.end()

    def _number(self, before: Positions) -> int:
        return self.rows + _count_rows(before) + 1

    def _is_damage(self, text: bytes, value: re.Match[bytes], *, first: bool) -> bool:
        """Return whether a quoted value of several lines, the `first` of its row or another, was meant to be several
        rows.

        The last line of a first value has as many values as a row, whatever was meant, so it says nothing.
        """
        if value[3]:  # text follows the closing quote, so that quote opens a value of another row
            return True
        if self._columns < 2:
            return False
        line_end = re.compile(rb"[\r\n]|\Z").search(text, value.end())
        assert line_end is not None
        lines = text[value.start() : line_end.start()].decode(errors="replace").splitlines()[1 : -1 if first else None]
        rows = [self._is_row(line) for line in lines]
        return any(rows) if self._time is not None else len(rows) > 1 and all(rows)

    def _is_row(self, line: str) -> bool:
        try:
            values = next(csv.reader([line], delimiter=self._delimiter), [])
        except csv.Error:
            return False
        return len(values) == self._columns and (self._time is None or bool(_TIME.match(values[self._time])))


def _check_utf_8(text: bytes, rows: int) -> None:
    """Raise FormatError if a text is not UTF-8. rows: the number of rows before it."""
    if text.isascii():
        return
    try:
        text.decode()
    except UnicodeDecodeError as error:
        lines = re.split(rb"[\r\n]+", text[: error.start].lstrip(_LINE_ENDS))
        raise _not_utf_8(f"row {rows + len(lines)}", text[error.start :]) from error


def _values(text: bytes, start: int, pattern: re.Pattern[bytes]) -> Iterator[re.Match[bytes]]:
    """Yield the values of the row that starts at `start`, as matches of a pattern of `_VALUE`."""
    at = start
    while True:
        value = pattern.match(text, at)
        assert value is not None
        yield value
        at = value.end()
        if at >= len(text) or text[at] in _LINE_ENDS:
            return
        at += 1


def _end_of(ends: Positions) -> int:
    return int(ends[-1]) + 1 if len(ends) else 0


def _count_rows(ends: Positions) -> int:
    """Return the number of rows that end at these positions. Empty lines are not rows."""
    return int(np.count_nonzero(np.diff(ends, prepend=-1) > 1))
