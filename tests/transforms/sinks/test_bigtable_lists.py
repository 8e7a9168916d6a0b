"""Lists as cells of Bigtable: keys, values, mutations and the job graph. test_bigtable_sink.py runs the graph."""

from __future__ import annotations

import datetime as dt
import struct
import zlib

import apache_beam as beam
import polars as pl
import pytest
from graphs import function_of, modules, steps
from hypothesis import given
from hypothesis import strategies as st

from transforms.sinks.bigtable_lists import (
    CountRows,
    RemoveVersions,
    TableAddress,
    WriteLists,
    list_cells,
    split_ranges,
)
from transforms.sinks.list_rows import ROWS, ListPart

PLACE = TableAddress(project="my-project", instance="main", table="lists", family="recs", prefix="a.b")
NIGHT = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
VERSION = "2026-11-21-1f2e3d4c"
FRAME = pl.DataFrame(
    [
        ("ann#1", None, ["v1", "v2"], [2.0, 1.0], [9.0, 8.0], [0.25, 1.0]),
        ("用户", None, [], [], [], []),
        (None, None, ["v9"], [1.0], [], []),
        (None, "SE", ["v8"], [1.5], [], []),
    ],
    schema=ROWS,
    orient="row",
)


def test_rows_have_keys_and_cells_in_the_documented_format() -> None:
    found = dict(list_cells(FRAME, PLACE, VERSION, scores=True))
    assert list(found) == [b"a.b#user#ann#1", "a.b#user#用户".encode(), b"a.b#default#", b"a.b#default#SE"]
    cells = found[b"a.b#user#ann#1"]
    assert set(cells) == {f"list:{VERSION}", f"vector:{VERSION}"}
    assert zlib.decompress(cells[f"list:{VERSION}"]) == b"v1\nv2\n\n" + struct.pack("<2f", 2, 1)
    assert cells[f"vector:{VERSION}"] == struct.pack("<2f", 0.25, 1)
    assert set(found["a.b#user#用户".encode()]) == {f"list:{VERSION}"}
    without = dict(list_cells(FRAME, PLACE, VERSION, scores=False))
    assert zlib.decompress(without[b"a.b#default#SE"][f"list:{VERSION}"]) == b"v8"


def test_mutations_are_idempotent_by_their_timestamp() -> None:
    rows = list(WriteLists(PLACE, VERSION, NIGHT, scores=False)._rows(FRAME[:1]))
    (row,) = rows
    changes = [mutation._to_pb() for mutation in row._get_mutations()]
    micros = int(NIGHT.timestamp()) * 1_000_000
    assert [(c.set_cell.family_name, c.set_cell.column_qualifier.decode()) for c in changes] == [
        ("recs", f"list:{VERSION}"),
        ("recs", f"vector:{VERSION}"),
    ]
    assert {c.set_cell.timestamp_micros for c in changes} == {micros}
    assert zlib.decompress(changes[0].set_cell.value) == b"v1\nv2"


KEYS = st.lists(st.binary(max_size=3), max_size=20)


@given(at=KEYS, keys=KEYS)
def test_split_ranges_contain_the_same_keys_once(at: list[bytes], keys: list[bytes]) -> None:
    whole = [(b"b", b"d"), (b"e", b"f\xff")]
    parts = split_ranges(whole, at)
    for key in keys:
        assert sum(start <= key < end for start, end in parts) == sum(start <= key < end for start, end in whole)
    assert all(start < end for start, end in parts) and parts == sorted(parts)
    assert {key for part in whole for key in part} <= {key for part in parts for key in part}


@pytest.mark.parametrize("name", ["", "SE", "#", "\x00", "$", "用户"])
def test_key_ranges_contain_all_keys_of_a_prefix_and_no_others(name: str) -> None:
    (default, default_end), (user, user_end) = PLACE.key_ranges()
    assert default <= PLACE.key("default", name) < default_end <= user <= PLACE.key("user", name) < user_end
    assert not any(start <= PLACE.key("night") < end for start, end in PLACE.key_ranges())
    for prefix in ("a", "a.b.c", "a.b-", "b"):
        other = TableAddress(project="", instance="", table="", family="", prefix=prefix).key("user", name)
        assert not any(start <= other < end for start, end in PLACE.key_ranges())


def test_job_graph_contains_beam_sink_of_the_table() -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    pipeline | beam.Create([ListPart(lists="lists.parquet")]) | WriteLists(PLACE, VERSION, NIGHT, scores=True)
    ranges = pipeline | "Ranges" >> beam.Create(PLACE.key_ranges())
    ranges | RemoveVersions(PLACE, (VERSION,))
    ranges | CountRows(PLACE, VERSION)
    found = steps(pipeline)
    for name in ("WriteLists", "RemoveVersions"):
        step = found[f"{name}/ApplyMutations/WriteToBigTable/ParDo(_BigTableWriteFn)"]
        options = function_of(step).beam_options
        assert {option: options[option] for option in ("project_id", "instance_id", "table_id")} == {
            "project_id": "my-project",
            "instance_id": "main",
            "table_id": "lists",
        }
    for name in ("WriteLists/ReadListRows", "RemoveVersions", "CountRows"):
        assert f"{name}/Reshuffle" in found
    assert modules(pipeline) == {"transforms.sinks.list_rows", "transforms.sinks.bigtable_lists"}
