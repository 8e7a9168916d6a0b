"""Any bytes in a log file give rows, rejected rows or a LogError with the path; no row is lost silently."""

from __future__ import annotations

import csv
import gzip
import io
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from arrow_types import BEFORE, TYPES
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.logs import readers
from transforms.logs.ingest import parse_log
from transforms.logs.parsing import ParseRules, parse_watches
from transforms.logs.readers import LogError, estimate_file_rows
from transforms.logs.schemas import WATCHES

PARSE = partial(parse_watches, rules=ParseRules(before=BEFORE))
HEAD = b"user_id,video_id,time,completed\n"
ROW = b"7,v1,2026-11-20T10:00:00Z,1\n"
PIECES = [
    ROW,
    *(bytes([code]) for code in b'",\n\r\x00\xff{}[]:a7\\'),
    b'"\n',
    b'"a\nb"',
    b"7,,,\n",
    b"\xef\xbb\xbf",
    b"\xc3",
]
JSON_ROW = b'{"user_id":7,"video_id":"v1","time":"2026-11-20T10:00:00Z","completed":true}\n'
JSON_PIECES = [
    JSON_ROW,
    JSON_ROW[:30],
    b"\n",
    b"\r",
    b"{}\n",
    b"[",
    b'\\ud83d"',
    b"\xff\n",
    b"\x00",
    b"null\n",
    b'{"user_id":{}}\n',
]


def accounted(path: Path) -> int | None:
    """Return the number of rows read or rejected; None if the file was refused. Fails for any other error."""
    try:
        parts = list(parse_log(str(path), WATCHES, {}, PARSE))
    except LogError as error:
        assert str(path) in str(error)
        return None
    rejected = [row for part in parts for row in part.rejected["row"]]
    assert len(rejected) == len(set(rejected))
    return sum(part.valid.height for part in parts) + len(rejected)


@settings(max_examples=fewer(150), deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25), st.sampled_from([60, 150, readers.CSV_BLOCK_BYTES]))
def test_csv(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], block_bytes: int) -> None:
    path, text = tmp_path_factory.mktemp("csv") / "a.csv", b"".join(pieces)
    path.write_bytes(HEAD + text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "CSV_BLOCK_BYTES", block_bytes)
        patch.setattr(readers, "MAX_ROW_BYTES", block_bytes)
        found = accounted(path)
    if found is not None and b"\x00" not in text:
        oracle = csv.reader(io.StringIO(text.decode("latin-1"), newline=""))
        assert found == sum(bool(row) for row in oracle)


@settings(max_examples=fewer(150), deadline=None)
@given(st.lists(st.sampled_from(JSON_PIECES), max_size=25), st.sampled_from([1, 50, readers.TEXT_BLOCK_BYTES]))
def test_json_lines(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], block_bytes: int) -> None:
    path, text = tmp_path_factory.mktemp("json") / "a.jsonl", JSON_ROW + b"".join(pieces)
    path.write_bytes(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "TEXT_BLOCK_BYTES", block_bytes)
        found = accounted(path)
    if found is not None:
        assert found == sum(bool(line.strip()) for line in text.splitlines())


def whole_parquet() -> bytes:
    columns = {
        "user_id": TYPES["string words"],
        "video_id": TYPES["binary uuids"],
        "time": TYPES["timestamp[us, tz=UTC]"],
    }
    out = io.BytesIO()
    pa_parquet.write_table(pa.table(columns | {"completed": TYPES["bool"]}), out)
    return out.getvalue()


PARQUET, GZIP = whole_parquet(), gzip.compress(HEAD + ROW * 50)


@settings(max_examples=fewer(150), deadline=None)
@given(st.data(), st.sampled_from(["a.parquet", "a.csv.gz"]))
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str) -> None:
    whole = bytearray(PARQUET if name.endswith("parquet") else GZIP)
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(whole), data.draw(st.integers(0, len(whole)))]))
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(whole[:cut])
    accounted(path)
    try:
        estimate_file_rows(str(path), max(1, cut))
    except LogError as error:
        assert str(path) in str(error)
