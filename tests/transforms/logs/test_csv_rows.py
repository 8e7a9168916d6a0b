"""Rows of CSV: unclosed quotes are damage; all other rows agree with Python's reader."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.logs import readers
from transforms.logs.csv_rows import CompleteRows, TextError
from transforms.logs.readers import LogError, LogTable, read_log

SEARCHES = LogTable(name="searches", required=("user_id", "time", "query"))
PAIRS = LogTable(name="pairs", required=("a", "b"))
HEADER = "user_id,time,query\n"


def rows(folder: Path, content: bytes, *, table: LogTable = SEARCHES, name: str = "s.csv") -> list[tuple[object, ...]]:
    path = folder / name
    path.write_bytes(content)
    frames = list(read_log(str(path), table, {}))
    assert not [row for frame in frames for row in frame.broken.rows()]
    return [row for frame in frames for row in frame.rows.select(*table.required, "row").rows()]


def line(user: int, query: str) -> str:
    return f"{user},2026-11-20T10:00:0{user}Z,{query}\n"


@pytest.mark.parametrize(
    ("queries", "row"),
    [
        (['"12 inch pan', "cats", "dogs"], 1),
        (["cats", "", "dogs", '"cut he'], 4),
        (["cats", '"a ""b"" c', "dogs"], 2),
        (['"12 inch', "cats", '"14 inch', "dogs"], 1),  # closed by another row's quote
        (["cats", '"12 inch', '14"', "dogs"], 2),
        (["cats", '"12 inch', "dogs", '14"'], 2),
        (['5" pan', '"12 inch', "dogs"], 2),  # a quote within a value is a letter
    ],
)
@pytest.mark.parametrize("block_bytes", [readers.CSV_BLOCK_BYTES, 130])
def test_unclosed_quote_is_damage(
    queries: list[str], row: int, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "CSV_BLOCK_BYTES", block_bytes)
    content = HEADER + "".join(line(user, query) for user, query in enumerate(queries, 1))
    for text in (content, content.rstrip("\n"), content.replace("\n", "\r\n"), content.replace("\n", "\r")):
        with pytest.raises(
            LogError, match=rf"s\.csv: not a complete csv file \(the quote opened in row {row} is never clos"
        ):
            rows(tmp_path, text.encode())


def test_without_times_a_value_is_damage_if_all_its_lines_look_like_rows(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="the quote opened in row 2 is never closed: what follows it would be rows"):
        rows(tmp_path, b'a,b\n1,x\n2,"y\n3,z\n4,w"\n5,v\n', table=PAIRS)
    poem = b'a,b\n1,x\n2,"a line,\nanother, and a third\nwithout one"\n5,v\n'
    assert [row[0] for row in rows(tmp_path, poem, table=PAIRS)] == ["1", "2", "5"]


def test_tabs_separate_the_values_of_tsv(tmp_path: Path) -> None:
    whole = 'user_id\ttime\tquery\n1\t2026-11-20\t"two\nlines\tand, ""a"" tab"\n2\t2026-11-20\ta,b 5" c\n'
    found = rows(tmp_path, whole.encode(), name="s.tsv")
    assert [row[2] for row in found] == ['two\nlines\tand, "a" tab', 'a,b 5" c']
    open_quote = 'user_id\ttime\tquery\n1\t2026-11-20\t"cut\n2\t2026-11-20\tcats"\n3\t2026-11-20\tdogs\n'
    with pytest.raises(LogError, match="the quote opened in row 1 is never closed"):
        rows(tmp_path, open_quote.encode(), name="s.tsv")


def test_multiline_values_are_read(tmp_path: Path) -> None:
    queries = ['"two\nlines"', '"three, with ""quotes""\n\n,and,commas,"', '5" pan', '"a"b', '""', "cats"]
    content = HEADER + "".join(line(user, query) for user, query in enumerate(queries, 1))
    found = rows(tmp_path, content.encode())
    assert [row[2] for row in found] == [
        "two\nlines",
        'three, with "quotes"\n\n,and,commas,',
        '5" pan',
        "ab",
        None,
        "cats",
    ]
    assert [row[3] for row in found] == [1, 2, 3, 4, 5, 6]


def test_multiline_value_in_the_first_column_is_read(tmp_path: Path) -> None:
    """Its last line has as many values as a row, and the time in its place."""
    text = b'query,user_id,time\n"a ""b"", c\nd",1,2026-11-20T10:00:00Z\n'
    assert [row[2] for row in rows(tmp_path, text)] == ['a "b", c\nd']


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_are_read(end: str, tmp_path: Path) -> None:
    queries = ["cats", '"a ""b"" c"', "dogs"]
    content = (HEADER + "".join(line(user, query) for user, query in enumerate(queries, 1))).replace("\n", end)
    expected = [
        (f"{user}", f"2026-11-20T10:00:0{user}Z", text, user)
        for user, text in enumerate(("cats", 'a "b" c', "dogs"), 1)
    ]
    assert rows(tmp_path, content.encode()) == rows(tmp_path, content.removesuffix(end).encode()) == expected


VALUES = st.text(st.sampled_from('a,"\n\r \u00f6'), max_size=6)


@given(
    st.lists(st.tuples(VALUES, VALUES), max_size=12), st.sampled_from(["\n", "\r\n"]), st.integers(1, 40), st.booleans()
)
def test_rows_written_by_python_are_counted_and_passed_on(
    values: list[tuple[str, str]], end: str, block_bytes: int, ended: bool
) -> None:
    """The block size does not matter. In tables of one column no line within a value looks like a row."""
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(values)
    content = text.getvalue() if ended else text.getvalue().removesuffix(end)
    stream = CompleteRows(
        io.BytesIO(content.encode()), b"", columns=1, time=None, block_bytes=block_bytes, max_row_bytes=1 << 20
    )
    assert io.BufferedReader(stream).read() == content.encode()
    assert stream.rows == len(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1," + b"x" * 5_000, "row 1 is longer than 1000 bytes"),
        (b'1,2\n1,"' + b"x\n" * 5_000, "the quote opened in row 2 is never closed, or 1000 bytes later"),
    ],
)
def test_row_that_is_too_long_is_an_error(text: bytes, message: str) -> None:
    stream = CompleteRows(io.BytesIO(text), b"", columns=2, time=None, block_bytes=100, max_row_bytes=1_000)
    with pytest.raises(TextError, match=message):
        io.BufferedReader(stream).read()


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.bz2", "a.csv.zst", "a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.zst"])
def test_memory_is_bounded_for_compressed_files(name: str, tmp_path: Path) -> None:
    zeros = b"\0" * (100 << 20)
    pack = {"gz": lambda text: gzip.compress(text, 1), "bz2": lambda text: bz2.compress(text, 1)}
    pack["zst"] = lambda text: pa.compress(text, "zstd", asbytes=True)
    (tmp_path / name).write_bytes(pack[name.rsplit(".", 1)[1]](HEADER.encode() * name.count("csv") + zeros))
    del zeros
    tracemalloc.start()
    try:
        with pytest.raises(LogError, match=rf"{name}: not a complete .* file \(row 1 is longer than 4 MiB\)"):
            list(read_log(str(tmp_path / name), SEARCHES, {}))
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["s.csv", "s.jsonl"])
def test_other_encodings_are_detected(encoding: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(LogError, match=rf"{name}: it is (probably )?UTF-(16|32)"):
        rows(tmp_path, (HEADER + line(1, "cats") * 3).encode(encoding), name=name)


@pytest.mark.parametrize(("letter", "name"), [("\u20ac", "WINDOWS-1252"), ("\u00f6", r"ISO-8859-1 \(Latin-1\)")])
@pytest.mark.parametrize("block_bytes", [readers.CSV_BLOCK_BYTES, 130])
def test_first_row_that_is_not_utf_8_is_reported(
    letter: str, name: str, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes rows with too few values, and columns that are not read."""
    monkeypatch.setattr(readers, "CSV_BLOCK_BYTES", block_bytes)
    good = (HEADER + line(1, "\u6771") + "\n" + line(2, "cats") * 3).encode()
    message = (
        rf"s\.csv: row 5 is not UTF-8 text but probably {name}, all of it must be UTF-8: iconv -f {name.split()[0]}"
    )
    for bad in (line(3, letter), f"{letter}\n", f"1,2,3,{letter}\n"):
        with pytest.raises(LogError, match=message):
            rows(tmp_path, good + bad.encode("cp1252") + line(4, "x").encode())
    with pytest.raises(LogError, match=r"s\.csv: the header is not UTF-8 text but probably ISO-8859-1"):
        rows(tmp_path, b"user_id,time,query,\xf6\n")


def test_repeated_column_is_refused(tmp_path: Path) -> None:
    message = r"s\.csv: it has several columns 'time': rename or drop all but one"
    with pytest.raises(LogError, match=message):
        rows(tmp_path, b"user_id,time,query,time\n1,2,3,4\n")
    assert rows(tmp_path, b"user_id,time,query,x,x\n1,2,3,4,5\n") == [("1", "2", "3", 1)]
    with pytest.raises(LogError, match=r"s\.jsonl: it has several columns 'time'"):
        rows(tmp_path, b'{"user_id":1,"time":2,"query":"a","time":3}\n', name="s.jsonl")
