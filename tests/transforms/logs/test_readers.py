"""Raw logs: every format gives the same rows, rows keep their numbers, and no row is lost without a reason."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.logs import readers
from transforms.logs.readers import LogError, LogTable, RawFrame, count_rows, number_rows, read_log

TABLE = LogTable(name="watches", required=("user_id", "time"), optional=("country", "done"), any_of=("country", "done"))
ROWS: list[dict[str, Any]] = [
    {"user_id": f"user {i}", "time": str(1_700_000_000 + i), "country": None if i % 3 else 'S,"E"\nö', "extra": "x"}
    for i in range(40)
]


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_json(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps({k: v for k, v in row.items() if v is not None}).encode() + b"\n" for row in rows)


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pl.DataFrame(rows).write_parquet(out)
    return out.getvalue()


FORMATS = {
    "a.parquet": as_parquet(ROWS),
    "a.csv": as_csv(ROWS),
    "a.CSV.GZ": gzip.compress(as_csv(ROWS)),
    "a.tsv": as_csv(ROWS, delimiter="\t"),
    "a.TSV.GZ": gzip.compress(as_csv(ROWS, delimiter="\t")),
    "a.jsonl": as_json(ROWS),
    "a.ndjson": as_json(ROWS),
    "a.json.gz": gzip.compress(as_json(ROWS)),
}


def read(path: Path, table: LogTable = TABLE, **renamed: str) -> RawFrame:
    """Return all frames of a file as one."""
    frames = list(read_log(str(path), table, renamed))
    rows = pl.concat([frame.rows for frame in frames], how="diagonal") if frames else pl.DataFrame()
    return RawFrame(rows, pl.concat([frame.broken for frame in frames] or [pl.DataFrame(schema=readers.BROKEN)]))


def read_in_blocks(path: Path, *, frame_rows: int, block_bytes: int) -> RawFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "FRAME_ROWS", frame_rows)
        patch.setattr(readers, "TEXT_BLOCK_BYTES", block_bytes)
        patch.setattr(readers, "CSV_BLOCK_BYTES", block_bytes)
        return read(path)


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("frame_rows", [readers.FRAME_ROWS, 7])
def test_every_format_gives_the_same_rows(
    name: str, frame_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "FRAME_ROWS", frame_rows)
    path = put(tmp_path, name, FORMATS[name])
    found = read(path)
    assert found.rows.select("user_id", "time", "country", "row").rows() == [
        (row["user_id"], row["time"], row["country"], number) for number, row in enumerate(ROWS, 1)
    ]
    assert "extra" not in found.rows.columns
    assert found.broken.is_empty()
    assert max(frame.rows.height for frame in read_log(str(path), TABLE, {})) <= frame_rows


def test_rows_are_counted_without_reading_them(tmp_path: Path) -> None:
    counted = {name: count_rows(str(put(tmp_path, name, content))) for name, content in FORMATS.items()}
    breaks = sum("\n" in (row["country"] or "") for row in ROWS)
    assert counted["a.parquet"] == counted["a.jsonl"] == counted["a.json.gz"] == len(ROWS)
    assert counted["a.csv"] == counted["a.CSV.GZ"] == 1 + len(ROWS) + breaks


def test_columns_may_be_renamed(tmp_path: Path) -> None:
    rows = [{"uid": "a", "ts": "1", "time": "no", "country": "SE"}]
    for name, content in (("a.csv", as_csv(rows)), ("a.jsonl", as_json(rows)), ("a.parquet", as_parquet(rows))):
        found = read(put(tmp_path, name, content), user_id="uid", time="ts").rows
        assert found.select("user_id", "time", "country", "row").rows() == [("a", "1", "SE", 1)]


LINES = st.lists(st.sampled_from(["row", "short", "long", "empty"]), max_size=30)


@given(LINES, st.integers(1, 5), st.integers(60, 200))
def test_csv_rows_are_valid_or_broken_under_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], frame_rows: int, block_bytes: int
) -> None:
    texts = {"row": "u{},1,SE", "short": "u{}", "long": "u{},1,SE,4", "empty": ""}
    kinds = [kind for kind in lines if kind != "empty"]  # lines with nothing on them are no rows of a CSV file
    text = "user_id,time,country\n" + "".join(texts[kind].format(at) + "\n" for at, kind in enumerate(lines))
    path = put(tmp_path_factory.mktemp("csv"), "a.csv", text.encode())
    found = read_in_blocks(path, frame_rows=frame_rows, block_bytes=block_bytes)
    good = found.rows["row"].to_list() if found.rows.width else []
    broken = dict(found.broken.select("row", "reason").rows())
    assert good == [at for at, kind in enumerate(kinds, 1) if kind == "row"]
    assert broken == {
        at: f"{1 if kind == 'short' else 4} values under a header of 3"
        for at, kind in enumerate(kinds, 1)
        if kind != "row"
    }
    assert found.broken.height == len(broken)


JUNK = ["", "   ", "null", "[1]", '"x"', "{", '{"user_id": NaN}', '{"a": 1} {"b": 2}', "\ufffd{}", "[" * 5_000]
JUNK.append('{"user_id": 1e999, "time": 1, "country": "SE"}')  # an object to Python, but not to the reader of frames


@given(st.lists(st.sampled_from(["row", *JUNK]), max_size=30), st.integers(1, 5), st.integers(1, 200), st.booleans())
def test_json_lines_are_valid_or_broken_under_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], frame_rows: int, block_bytes: int, ended: bool
) -> None:
    good = '{"user_id": "u", "time": 1, "country": "SE"}'
    text = "\n".join(good if line == "row" else line for line in lines) + ("\n" if ended else "")
    path = put(tmp_path_factory.mktemp("json"), "a.jsonl", text.encode())
    found = read_in_blocks(path, frame_rows=frame_rows, block_bytes=block_bytes)
    rows = found.rows["row"].to_list() if found.rows.width else []
    assert rows == [at for at, line in enumerate(lines, 1) if line == "row"]
    assert found.broken.select("row", "reason", "text").rows() == [
        (at, "not a JSON object", line) for at, line in enumerate(lines, 1) if line != "row" and line.strip()
    ]


def test_column_missing_in_the_first_lines_is_read(tmp_path: Path) -> None:
    lines = [{"user_id": "a", "time": 1, "country": "SE"}] * 200 + [{"user_id": "a", "time": 1, "done": True}]
    found = read(put(tmp_path, "a.jsonl", as_json(lines))).rows
    assert found["done"].to_list() == [None] * 200 + ["true"]


def test_byte_order_mark_is_removed(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    for name, content in (("a.csv", as_csv(ROWS)), ("a.jsonl", as_json(ROWS))):
        found = read(put(tmp_path, name, mark + content))
        assert found.rows["user_id"].to_list() == [row["user_id"] for row in ROWS]
        assert found.broken.is_empty()


def test_json_line_that_is_not_utf_8_is_broken(tmp_path: Path) -> None:
    lines = b'{"user_id": "\xff", "time": 1, "country": ""}\n{"user_id": "b", "time": 1, "country": ""}\n'
    found = read(put(tmp_path, "a.jsonl", lines))
    assert found.rows["row"].to_list() == [2]
    assert found.broken.select("row", "reason").rows() == [(1, "not UTF-8 text but probably ISO-8859-1 (Latin-1)")]


@pytest.mark.parametrize(
    "name", [name for name in FORMATS if (name not in ("a.csv", "a.tsv") and "json" not in name) or "gz" in name]
)
def test_truncated_file_is_reported(name: str, tmp_path: Path) -> None:
    whole = FORMATS[name]
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        if length or name.endswith("parquet"):
            path = put(tmp_path, name, whole[:length])
            with pytest.raises(
                LogError, match=rf"{path}: not a complete .* file \(.*\); deliver it again or remove it"
            ):
                read(path)


def test_damaged_gzip_file_is_reported(tmp_path: Path) -> None:
    whole = bytearray(FORMATS["a.json.gz"])
    whole[len(whole) // 2] ^= 0xFF
    path = put(tmp_path, "a.json.gz", bytes(whole))
    with pytest.raises(LogError, match=f"{path}: not a complete json.gz file"):
        read(path)
    with pytest.raises(LogError, match=f"{path}: not a complete json.gz file"):
        read(put(tmp_path, "a.json.gz", b"no gzip at all"))


@pytest.mark.parametrize("make", [("a.csv", as_csv), ("a.jsonl", as_json), ("a.parquet", as_parquet)])
def test_missing_columns_are_reported(make: Any, tmp_path: Path) -> None:
    path = put(tmp_path, make[0], make[1]([{"time": "1", "country": "SE", "uid": "x"}]))
    with pytest.raises(
        LogError,
        match=rf"{path}: the watches table lacks 'user_id'; it has country, time, uid "
        r"\(rename columns in \[logs\.columns\.watches\]\)",
    ):
        read(path)
    with pytest.raises(LogError, match="lacks 'who', 'when'; it has"):
        read(path, user_id="who", time="when")
    path = put(tmp_path, make[0], make[1]([{"time": "1", "user_id": "x"}]))
    with pytest.raises(LogError, match=rf"{path}: the watches table needs one of country, done; it has none"):
        read(path)


def test_unsupported_extension_is_refused(tmp_path: Path) -> None:
    for name in ("a.txt", "a.parquet.zip", "parquet"):
        with pytest.raises(LogError, match=r"the ending must be .parquet, .jsonl, .ndjson, .json, .csv or .tsv"):
            read(put(tmp_path, name, b"x"))


def test_files_without_rows(tmp_path: Path) -> None:
    header = put(tmp_path, "header.csv", b"user_id,time,country\n")
    nothing = put(tmp_path, "nothing.jsonl", b"")
    empty = [put(tmp_path, f"empty.{kind}", b"") for kind in ("csv", "csv.gz", "jsonl.gz", "json.bz2", "csv.zst")]
    blank = [put(tmp_path, f"blank.{kind}", b"\xef\xbb\xbf\n") for kind in ("csv", "jsonl")]
    rows = put(tmp_path, "rows.parquet", as_parquet(ROWS[:1])[:])
    pl.DataFrame(schema={"user_id": pl.String, "time": pl.String, "country": pl.String}).write_parquet(rows)
    for path in (header, nothing, rows, *empty, *blank):
        found = read(path)
        assert (found.rows.height, found.broken.height) == (0, 0)


def test_parquet_binary_is_read_as_text(tmp_path: Path) -> None:
    rows = [{"user_id": user, "time": 1, "country": "SE"} for user in (b"a", None)]
    assert read(put(tmp_path, "a.parquet", as_parquet(rows))).rows["user_id"].to_list() == ["a", None]
    rows[0]["user_id"] = b"\xff"
    with pytest.raises(LogError, match=r"a.parquet: the column user_id is binary but not UTF-8 text"):
        read(put(tmp_path, "a.parquet", as_parquet(rows)))


def test_nested_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for value, kind in (({"id": "u"}, "struct<id: "), (["u"], "large_list<|list<")):
        pl.DataFrame({"user_id": [value], "time": [1], "country": ["S"]}).write_parquet(path)
        with pytest.raises(
            LogError, match=rf"a.parquet: the column 'user_id' is nested \(({kind}).*must be one value per"
        ):
            read(path)
        with pytest.raises(LogError, match=r"the column 'user_id' is nested .*, but country must be one value per row"):
            read(path, country="user_id", user_id="country")
    pl.DataFrame({"user_id": ["u"], "time": [1], "country": ["S"], "other": [["x"]]}).write_parquet(path)
    assert read(path).rows.columns == ["user_id", "time", "country", "row"]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"])
def test_text_is_read_in_blocks(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "TEXT_BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(readers, "CSV_BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(readers, "FRAME_ROWS", 256)
    numbered = [{"user_id": f"u{n}", "time": str(n), "country": f"{n * 7919 % 10**6}"} for n in range(40_000)]
    content = as_csv(numbered) if ".csv" in name else as_json(numbered)
    path = put(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content)
    opened: list[Any] = []
    real = readers.FileSystems.open

    def opening(*given: Any, **named: Any) -> Any:
        opened.append(real(*given, **named))
        return opened[-1]

    monkeypatch.setattr(readers.FileSystems, "open", opening)
    frames = read_log(str(path), TABLE, {})
    height, at = next(frames).rows.height, opened[0].tell()
    assert 0 < height <= 256 and at < 0.8 * path.stat().st_size, f"{at} bytes were read for the first {height} rows"
    for frame in frames:
        assert frame.rows.height <= 256
        height += frame.rows.height
    assert height == 40_000


@pytest.mark.parametrize("name", FORMATS)
def test_hive_partitions_provide_missing_columns(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "done=no%20way" / "where=__HIVE_DEFAULT_PARTITION__" / "country=SE" / "extra=1"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(FORMATS[name])
    table = LogTable(name="watches", required=("user_id", "place"), optional=("done", "country"), any_of=("done",))
    rows = read(folder / name, table, place="where").rows
    assert rows["done"].to_list() == ["no way"] * 40 and rows["place"].to_list() == [None] * 40
    assert rows["country"].to_list() == [row["country"] for row in ROWS]  # the file has it
    assert set(rows.columns) == {"row", "user_id", "place", "done", "country"}
    with pytest.raises(LogError, match="lacks 'nowhere'"):
        read(folder / name, table, place="nowhere")


@pytest.mark.parametrize("name", FORMATS)
def test_one_column_of_a_file_for_two_of_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name])
    table = LogTable(name="watches", required=("user_id", "time", "page_id"), optional=("country", "device"))
    rows = read(tmp_path / name, table, page_id="time", device="country").rows
    assert rows["time"].to_list() == rows["page_id"].to_list() == [row["time"] for row in ROWS]
    assert rows["device"].to_list() == rows["country"].to_list() == [row["country"] for row in ROWS]


def test_messages_do_not_quote_rows() -> None:
    error = pa.ArrowInvalid("CSV parse error: Expected 3 columns, got 2: ann,v1")
    with pytest.raises(LogError) as caught, readers._damage_reported("w.csv"):
        raise error
    assert str(caught.value) == "w.csv: not a complete csv file (CSV parse error); deliver it again or remove it"


@pytest.mark.parametrize("ending", ["bz2", "zst"])
def test_uncompressed_text_with_a_compressed_extension_is_read(tmp_path: Path, ending: str) -> None:
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / f"{name}.{ending}").write_bytes(FORMATS[name])
        found = read(tmp_path / f"{name}.{ending}").rows["user_id"].to_list()
        assert found == [row["user_id"] for row in ROWS]


@given(st.integers(1, 100), st.lists(st.booleans(), min_size=1, max_size=40))
def test_rows_are_numbered_around_skipped_rows(first: int, is_skipped: list[bool]) -> None:
    rows = list(enumerate(is_skipped, first))
    expected = [number for number, skipped in rows if not skipped]
    skipped = [number for number, skipped in rows if skipped]
    assert number_rows(first, len(expected), skipped).tolist() == expected
    assert number_rows(first, len(expected), [*skipped, first + 1_000]).tolist() == expected
