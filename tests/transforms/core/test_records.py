"""Records come back from workers as they were, in an order that does not depend on the workers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.files import FileEntry
from transforms.core.records import RecordError, Records, WriteRecords, encode, pop_records, write_records


@dataclass(frozen=True, kw_only=True)
class Counted:
    table: str
    rows: int = 0
    share: float = 0.5
    files: tuple[FileEntry, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    value: int | float | None = None


ENTRIES = st.builds(FileEntry, name=st.text(max_size=5), rows=st.integers(), bytes=st.integers(), digest=st.just("0f"))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
COUNTED = st.builds(
    Counted,
    table=st.text(max_size=5),
    rows=st.integers(),
    share=FLOATS,
    files=st.lists(ENTRIES, max_size=2).map(tuple),
    counts=st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    value=st.none() | st.integers() | FLOATS,
)


@settings(max_examples=fewer(40))
@given(st.lists(ENTRIES | COUNTED, max_size=6), st.randoms(use_true_random=False))
def test_records_come_back_whatever_their_order(
    tmp_path_factory: Any, records: list[FileEntry | Counted], chance: Any
) -> None:
    path = tmp_path_factory.mktemp("records") / "records.json"
    write_records(map(encode, records), str(path))
    content = path.read_bytes()
    write_records(map(encode, chance.sample(records, len(records))), str(path))
    assert path.read_bytes() == content
    found = pop_records(str(path), FileEntry, Counted)
    for kind in (FileEntry, Counted):
        wanted = [record for record in records if isinstance(record, kind)]
        assert sorted(map(encode, found.of(kind))) == sorted(map(encode, wanted))  # 1 is not 1.0
    assert not path.exists()


def test_a_pipeline_leaves_all_records_in_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "records.json")
    records = [Counted(table="b", rows=2), FileEntry(name="f", rows=1, bytes=2, digest="0f"), Counted(table="a")]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(records) | WriteRecords(path)
    found = pop_records(path, FileEntry, Counted)
    assert found.of(Counted) == [records[2], records[0]] and found.of(FileEntry) == [records[1]]


def test_no_record_no_file(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create([]) | WriteRecords(str(path))
    assert not path.exists()
    assert pop_records(str(path), Counted).of(Counted) == []


def test_a_record_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    write_records([encode(Counted(table="a"))], str(path))
    with pytest.raises(RecordError, match=r"kind Counted .* expected are FileEntry") as refused:
        pop_records(str(path), FileEntry)
    assert refused.value.kind == "Counted" and path.exists()


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"rows": 1}, "table"),
        ({"table": "a", "row": 1}, "row"),
        ({"table": 1}, "table"),
        ({"table": "a", "files": [{"name": "f", "rows": 1, "bytes": 2}]}, "files.0.digest"),
        ({"table": "a", "files": [{"name": "f", "rows": 1, "bytes": 2, "digest": "0f", "x": 1}]}, "files.0.x"),
    ],
)
def test_a_record_with_other_fields_is_refused(fields: dict[str, Any], fault: str, tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    write_records([json.dumps(["Counted", fields])], str(path))
    with pytest.raises(RecordError, match=f"kind Counted .*{fault}") as refused:
        pop_records(str(path), Counted)
    assert (refused.value.kind, refused.value.fields) == ("Counted", (fault,))


def test_a_kind_that_was_not_read_is_refused() -> None:
    with pytest.raises(KeyError):
        Records([FileEntry]).of(Counted)
