"""JSON lines: values that polars would misread are rejected with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transforms.logs.readers import LogError, LogTable, read_log

TABLE = LogTable(name="t", required=("user_id",), optional=("title", "countries"), lists=("countries",))


def read(folder: Path, content: bytes) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]]]:
    """Return row, user_id and title of the valid rows, and row and reason of the broken ones."""
    path = folder / "a.jsonl"
    path.write_bytes(content)
    frames = list(read_log(str(path), TABLE, {}))
    names = ("row", "user_id", "title")
    valid = [row for frame in frames if frame.rows.height for row in frame.rows.select(*names).rows()]
    return valid, [row for frame in frames for row in frame.broken.select("row", "reason").rows()]


CUT = "title holds half of a surrogate pair: its text was cut within a character"


@pytest.mark.parametrize(
    ("user", "title", "reason"),
    [
        ('{"$oid": "a1"}', '"x"', "user_id is an object, not one value"),
        ('["a", "b"]', '"x"', "user_id is a list, not one value"),
        ('"a"', "{}", "title is an object, not one value"),
        ('"a"', "[]", "title is a list, not one value"),
        ("true", '"x"', "user_id cannot be read"),
        ("2.5", '"x"', "user_id cannot be read"),
        ('"a"', r'"\ud83d"', CUT),
        ('"a"', r'"x\uDE00"', CUT),
        ('"a"', r'"\ud83d\ud83d\ude00"', CUT),
    ],
)
def test_objects_lists_and_invalid_ids_are_rejected(user: str, title: str, reason: str, tmp_path: Path) -> None:
    good = '{"user_id": "b", "title": "y"}\n'
    content = good + f'{{"user_id": {user}, "title": {title}}}\n' + good
    valid, broken = read(tmp_path, content.encode())
    assert [row[0] for row in valid] == [1, 3] and broken == [(2, reason)]


@pytest.mark.parametrize(
    ("user", "title"),
    [("{a}", "[Official] video"), ("true", "{}"), ("2.5", "\U0001f600"), ("a", r"\ud83d"), ("a", "\u6771")],
)
def test_text_that_looks_like_json_is_read(user: str, title: str, tmp_path: Path) -> None:
    content = json.dumps({"user_id": user, "title": title}) + "\n"
    assert read(tmp_path, content.encode()) == ([(1, user, title)], [])


def test_lists_are_read_for_list_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"user_id":1,"countries":["DE"]}\n{"user_id":2,"countries":[["DE"]]}\n', encoding="utf-8")
    (frame,) = read_log(str(path), TABLE, {})
    assert frame.rows.select("user_id", "countries").rows() == [("1", '["DE"]')]
    assert frame.broken["reason"].to_list() == ["countries is a list of objects or lists"]


@pytest.mark.parametrize("text", ['[{"user_id": 1}]', '\n [\n{"user_id": 1},\n{"user_id": 2}\n]', "[]"])
def test_json_array_is_reported(text: str, tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"a\.jsonl: it contains a JSON array, not JSON lines"):
        read(tmp_path, text.encode())


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_are_read(end: str, tmp_path: Path) -> None:
    content = end.join(['{"user_id": 1, "title": "a"}', "", '{"user_id": 2, "title": "b"}', "junk"])
    assert read(tmp_path, content.encode()) == ([(1, "1", "a"), (3, "2", "b")], [(4, "not a JSON object")])
