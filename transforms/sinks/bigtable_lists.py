"""Write, count and remove a night's lists as cells of a Bigtable table, with Beam's sink.

Each user has a row `PREFIX#user#USER_ID`, each default list a row `PREFIX#default#COUNTRY` ("" for all countries), and
each version a column: `list:VERSION`, and `vector:VERSION` if vectors are configured. Keys that start with the user
distribute the writes of a night over all servers of the table; keys that start with the night would all go to one.
A reader needs one cell of one row, forgetting a user removes one row, and the lists of the previous night stay.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.core.process_cache import process_cache
from transforms.core.records import Counts
from transforms.sinks.list_rows import ReadListRows
from transforms.sinks.redis_lists import encode_lists, encode_vectors

KeyRange = tuple[bytes, bytes]  # start (inclusive), end (exclusive)
Cells = dict[str, bytes]
LIST, VECTOR = "list", "vector"


@dataclass(frozen=True, kw_only=True)
class TableAddress:
    """A table, a column family, and the prefix of the keys of its rows."""

    project: str
    instance: str
    table: str
    family: str
    prefix: str

    def key(self, *parts: str) -> bytes:
        """Return the row key of some parts after the prefix."""
        return "#".join((self.prefix, *parts)).encode()

    def key_ranges(self) -> list[KeyRange]:
        """Return the ranges of all rows with lists. The character after `#` is `$`."""
        return [(self.key(kind, ""), self.key(f"{kind}$")) for kind in ("default", "user")]


@process_cache
def open_table(address: TableAddress) -> Any:
    """Return the client library's table, whose connections all threads share."""
    from google.cloud.bigtable import Client

    return Client(project=address.project).instance(address.instance).table(address.table)


def list_cells(
    rows: pl.DataFrame, address: TableAddress, version: str, *, scores: bool
) -> Iterator[tuple[bytes, Cells]]:
    """Yield the key and the cells (by column) of each row of `list_rows.ROWS`. An empty vector has no cell.

    The values are encoded as in Redis.
    """
    values = zip(encode_lists(rows, scores=scores), encode_vectors(rows["vector"]), strict=True)
    for (user, country), (listed, vector) in zip(rows.select("user_id", "country").iter_rows(), values, strict=True):
        key = address.key("user", user) if user is not None else address.key("default", country or "")
        yield key, {f"{LIST}:{version}": listed} | ({f"{VECTOR}:{version}": vector} if vector else {})


def split_ranges(ranges: Sequence[KeyRange], keys: Sequence[bytes]) -> list[KeyRange]:
    """Split ranges at the keys that are inside them, keeping their order."""
    parts = []
    for start, end in ranges:
        borders = [start, *(key for key in sorted(set(keys)) if start < key < end), end]
        parts += list(pairwise(borders))
    return parts


def tablet_ranges(address: TableAddress) -> list[KeyRange]:
    """Return ranges of all rows with lists, of about equal size according to Bigtable."""
    return split_ranges(address.key_ranges(), [sample.row_key for sample in open_table(address).sample_row_keys()])


def read_columns(
    address: TableAddress, key_range: KeyRange, versions: Sequence[str]
) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield the key and the existing columns of each row of a range that has columns of these versions.

    The server does not send the values of cells.
    """
    from google.cloud.bigtable import row_filters

    wanted = f"({LIST}|{VECTOR}):({'|'.join(map(re.escape, versions))})"
    rows = open_table(address).read_rows(
        start_key=key_range[0],
        end_key=key_range[1],
        filter_=row_filters.RowFilterChain(
            [
                row_filters.FamilyNameRegexFilter(re.escape(address.family)),
                row_filters.ColumnQualifierRegexFilter(wanted.encode()),
                row_filters.CellsColumnLimitFilter(1),
                row_filters.StripValueTransformerFilter(True),
            ]
        ),
    )
    for row in rows:
        yield row.row_key, sorted(row.cells[address.family])


@dataclass
class ApplyMutations(beam.PTransform):
    """Apply rows of mutations to the table."""

    address: TableAddress

    def expand(self, rows: beam.PCollection) -> Any:
        from apache_beam.io.gcp.bigtableio import WriteToBigTable

        return rows | WriteToBigTable(self.address.project, self.address.instance, self.address.table)


@dataclass
class WriteLists(beam.PTransform):
    """Write the lists of `ListPart`s as cells of one version.

    The timestamp of cells is that of the night, so writing again replaces the same cells.
    """

    address: TableAddress
    version: str
    night: dt.datetime
    scores: bool

    def expand(self, parts: beam.PCollection) -> Any:
        return parts | ReadListRows() | beam.FlatMap(self._rows) | ApplyMutations(self.address)

    def _rows(self, rows: pl.DataFrame) -> Iterator[Any]:
        from google.cloud.bigtable.row import DirectRow

        for key, cells in list_cells(rows, self.address, self.version, scores=self.scores):
            row = DirectRow(key)
            for column, value in cells.items():
                row.set_cell(self.address.family, column, value, timestamp=self.night)
            yield row


@dataclass
class CountRows(beam.PTransform):
    """Return `Counts` of the `rows` of each range of keys that have a list of the version."""

    address: TableAddress
    version: str

    def expand(self, ranges: beam.PCollection[KeyRange]) -> beam.PCollection[Counts]:
        return ranges | beam.Reshuffle() | beam.Map(self._count)

    def _count(self, key_range: KeyRange) -> Counts:
        column = f"{LIST}:{self.version}".encode()
        found = read_columns(self.address, key_range, [self.version])
        return Counts({"rows": sum(column in columns for _, columns in found)})


@dataclass
class RemoveVersions(beam.PTransform):
    """Remove the cells of some versions from the rows of ranges of keys."""

    address: TableAddress
    versions: tuple[str, ...]

    def expand(self, ranges: beam.PCollection[KeyRange]) -> Any:
        return ranges | beam.Reshuffle() | beam.FlatMap(self._rows) | ApplyMutations(self.address)

    def _rows(self, key_range: KeyRange) -> Iterator[Any]:
        from google.cloud.bigtable.row import DirectRow

        for key, found in read_columns(self.address, key_range, self.versions):
            row = DirectRow(key)
            row.delete_cells(self.address.family, found)
            yield row
