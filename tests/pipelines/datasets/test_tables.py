"""Text whose columns are separated, compressed or not, in blocks of any size."""

from __future__ import annotations

import bz2
import gzip
import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.datasets import tables
from pipelines.datasets.tables import DataSetError, Separated, read_table, read_whole
from transforms.logs.readers import LogError

AB = {"a": "a", "b": "b"}
LAYOUT = Separated(separator="::", columns=("a", "b"))
VALUE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\ufeff:"), min_size=1, max_size=5)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@given(rows=st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=20), block=st.integers(1, 50), end=st.booleans())
def test_rows_do_not_depend_on_the_size_of_blocks(
    rows: list[tuple[str, str]], block: int, end: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.dat"
    write(path, "\n".join(f"{a}::{b}" for a, b in rows) + ("\n" if end else ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BLOCK_BYTES", block)
        assert read_whole(path, AB, layout=LAYOUT).rows() == rows


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".zst"])
def test_compressed_text_is_read_and_a_truncated_file_is_an_error(ending: str, tmp_path: Path) -> None:
    randomness = random.Random(1)
    text = "".join(f"{randomness.random()}::{n}\n" for n in range(1000)).encode()
    compressed = {
        "": text,
        ".gz": gzip.compress(text),
        ".bz2": bz2.compress(text),
        ".zst": pa.Codec("zstd").compress(text, asbytes=True),
    }[ending]
    path = write(tmp_path / f"x.dat{ending}", compressed)
    assert read_whole(path, AB, layout=LAYOUT)["b"].to_list() == [str(n) for n in range(1000)]
    if ending:
        write(path, compressed[: len(compressed) // 2])
        with pytest.raises(LogError, match=r"x\.dat.*: not a complete file .*; download it again"):
            read_whole(path, AB, layout=LAYOUT)
        write(path, b"<html>not found</html>")
        with pytest.raises(LogError, match="not a complete file"):
            read_whole(path, AB, layout=LAYOUT)


def test_line_ends_byte_order_marks_and_empty_values(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", "\ufeffa\tb\r\n1\t2\r\n\r\n\t3\r\n4\t\n")
    assert read_whole(path, AB, layout=Separated(separator="\t")).rows() == [("1", "2"), (None, "3"), ("4", None)]


def test_rows_with_another_number_of_values_are_counted(tmp_path: Path) -> None:
    (block,) = read_table(write(tmp_path / "x.dat", "1::2\n1\n1::2::3\n3::4\n"), AB, layout=LAYOUT)
    assert block.rows.rows() == [("1", "2"), ("3", "4")] and block.broken == 2


def test_text_in_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "x.dat", "1::a\n2::b\n3::Amélie\n".encode("latin-1"))
    with pytest.raises(LogError, match="row 3 is not UTF-8 text but probably"):
        read_whole(path, AB, layout=LAYOUT)
    latin = Separated(separator="::", columns=("a", "b"), encoding="latin-1")
    assert read_whole(path, AB, layout=latin)["b"].to_list() == ["a", "b", "Amélie"]
    write(path, "1::Amélie\n")
    assert read_whole(path, AB, layout=latin)["b"].to_list() == ["Amélie"]


def test_a_row_without_an_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BLOCK_BYTES", 16)
    monkeypatch.setattr(tables, "MAX_ROW_BYTES", 1 << 20)
    with pytest.raises(LogError, match="a row is longer than 1 MiB"):
        read_whole(write(tmp_path / "x.dat", b"x" * (1 << 21)), AB, layout=LAYOUT)


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.tsv"])
def test_an_empty_file_is_an_error(name: str, tmp_path: Path) -> None:
    layout = Separated(separator="\t") if name == "x.tsv" else None
    with pytest.raises(DataSetError, match="is empty"):
        read_whole(write(tmp_path / name, ""), AB, layout=layout)


@pytest.mark.parametrize(
    ("name", "text"), [("x.csv", "a,c\n1,2\n"), ("x.jsonl", '{"a": 1, "c": 2}'), ("x.tsv", "a\tc\n")]
)
def test_a_missing_column_is_an_error_that_lists_the_others(name: str, text: str, tmp_path: Path) -> None:
    layout = Separated(separator="\t") if name == "x.tsv" else None
    with pytest.raises(DataSetError, match="has no column 'b'; its columns are a, c"):
        read_whole(write(tmp_path / name, text), AB, layout=layout)


def test_optional_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "a,b\n1,2\n")
    assert read_whole(path, {"a": "a"}, optional={"other": "b", "absent": "c"}).to_dicts() == [{"a": "1", "other": "2"}]


def test_a_file_with_another_ending_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="the ending must be"):
        read_whole(write(tmp_path / "x.xlsx", "a"), AB)
