"""Records from workers, in an order that does not depend on the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.records import WriteRecords, pop_records, write_records

VALUES = st.one_of(st.integers(), st.text(max_size=5), st.lists(st.none()))
RECORDS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), max_size=6)


@settings(max_examples=40)
@given(RECORDS, st.randoms(use_true_random=False))
def test_file_does_not_depend_on_the_order_of_records(
    tmp_path_factory: Any, records: list[dict[str, Any]], chance: Any
) -> None:
    path = tmp_path_factory.mktemp("records") / "records.json"
    write_records(records, str(path))
    content = path.read_bytes()
    write_records(chance.sample(records, len(records)), str(path))
    assert path.read_bytes() == content
    found = pop_records(str(path))
    assert all(found.count(record) == records.count(record) for record in (*found, *records))
    assert not path.exists()


def test_pipeline_writes_all_records_to_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "records.json")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create([{"n": n, "of": {"a": [n]}} for n in (2, 1, 3)]) | WriteRecords(path)
    assert pop_records(path) == [{"n": n, "of": {"a": [n]}} for n in (1, 2, 3)]


def test_without_records_there_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create([]) | WriteRecords(str(path))
    assert not path.exists()
    assert pop_records(str(path)) == []
