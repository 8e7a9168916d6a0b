"""A night's lists as cells of a Bigtable table, written, counted and removed with Beam's own sink.

One row a user, `PREFIX#user#USER_ID`, one a default list, `PREFIX#default#COUNTRY` ("": everywhere), and in it a column
a version: `list:VERSION`, and `vector:VERSION` where asked for. Keys that begin with the user spread what a night
writes over the servers of the table as its users are spread; such that begin with the night would all go to the one
that holds its end. A reader needs one cell of one row, to forget a user removes one row, and the night before stays.
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

from transforms.core.threads import process_cache
from transforms.sinks.list_rows import ReadRows
from transforms.sinks.redis_lists import encode_lists, encode_vectors

KeyRange = tuple[bytes, bytes]  # from a key on, before the other
Cells = dict[str, bytes]
LIST, VECTOR = "list", "vector"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A table, one column family of it, and the prefix of the rows that are ours."""

    project: str
    instance: str
    table: str
    family: str
    prefix: str

    def key(self, *parts: str) -> bytes:
        return "#".join((self.prefix, *parts)).encode()

    def kinds(self) -> list[KeyRange]:
        """The ranges of all rows that hold lists. A `$` comes right after a `#`."""
        return [(self.key(kind, ""), self.key(f"{kind}$")) for kind in ("default", "user")]


@process_cache
def opened(place: Place) -> Any:
    """The client library's table; its connections serve all threads."""
    from google.cloud.bigtable import Client

    return Client(project=place.project).instance(place.instance).table(place.table)


def list_cells(rows: pl.DataFrame, place: Place, version: str, *, scores: bool) -> Iterator[tuple[bytes, Cells]]:
    """`list_rows.ROWS` -> the key and the cells, by column, of each row, with the values that Redis is given too; no
    cell for an empty vector."""
    values = zip(encode_lists(rows, scores=scores), encode_vectors(rows["vector"]), strict=True)
    for (user, country), (listed, vector) in zip(rows.select("user_id", "country").iter_rows(), values, strict=True):
        key = place.key("user", user) if user is not None else place.key("default", country or "")
        yield key, {f"{LIST}:{version}": listed} | ({f"{VECTOR}:{version}": vector} if vector else {})


def split(whole: Sequence[KeyRange], at: Sequence[bytes]) -> list[KeyRange]:
    """Ranges cut at the keys that lie inside them, in order."""
    parts = []
    for start, end in whole:
        cuts = [start, *(key for key in sorted(set(at)) if start < key < end), end]
        parts += list(pairwise(cuts))
    return parts


def tablets(place: Place) -> list[KeyRange]:
    """The rows that hold lists, in ranges that Bigtable says are of like size."""
    return split(place.kinds(), [sample.row_key for sample in opened(place).sample_row_keys()])


def columns(place: Place, of: KeyRange, versions: Sequence[str]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Each row of a range with columns of these versions, and those columns; no cell's value leaves the server."""
    from google.cloud.bigtable import row_filters

    wanted = f"({LIST}|{VECTOR}):({'|'.join(map(re.escape, versions))})"
    found = opened(place).read_rows(
        start_key=of[0],
        end_key=of[1],
        filter_=row_filters.RowFilterChain(
            [
                row_filters.FamilyNameRegexFilter(re.escape(place.family)),
                row_filters.ColumnQualifierRegexFilter(wanted.encode()),
                row_filters.CellsColumnLimitFilter(1),
                row_filters.StripValueTransformerFilter(True),
            ]
        ),
    )
    for row in found:
        yield row.row_key, sorted(row.cells[place.family])


@dataclass
class Mutate(beam.PTransform):
    """Rows of mutations -> the table."""

    place: Place

    def expand(self, rows: beam.PCollection) -> Any:
        from apache_beam.io.gcp.bigtableio import WriteToBigTable

        return rows | WriteToBigTable(self.place.project, self.place.instance, self.place.table)


@dataclass
class WriteLists(beam.PTransform):
    """`ListPart`s -> cells of one version. Written again they are the same cells: their time is that of the night."""

    place: Place
    version: str
    night: dt.datetime
    scores: bool

    def expand(self, parts: beam.PCollection) -> Any:
        return parts | ReadRows() | beam.FlatMap(self._rows) | Mutate(self.place)

    def _rows(self, rows: pl.DataFrame) -> Iterator[Any]:
        from google.cloud.bigtable.row import DirectRow

        for key, cells in list_cells(rows, self.place, self.version, scores=self.scores):
            row = DirectRow(key)
            for column, value in cells.items():
                row.set_cell(self.place.family, column, value, timestamp=self.night)
            yield row


@dataclass(frozen=True)
class RowCount:
    """How many rows of a range have a list of the version."""

    rows: int


@dataclass
class CountRows(beam.PTransform):
    """Ranges of keys -> records of how many of their rows have a list of the version."""

    place: Place
    version: str

    def expand(self, ranges: beam.PCollection[KeyRange]) -> beam.PCollection[RowCount]:
        return ranges | beam.Reshuffle() | beam.Map(self._count)

    def _count(self, of: KeyRange) -> RowCount:
        column = f"{LIST}:{self.version}".encode()
        return RowCount(sum(column in found for _, found in columns(self.place, of, [self.version])))


@dataclass
class RemoveVersions(beam.PTransform):
    """Ranges of keys -> the cells of these versions leave their rows."""

    place: Place
    versions: tuple[str, ...]

    def expand(self, ranges: beam.PCollection[KeyRange]) -> Any:
        return ranges | beam.Reshuffle() | beam.FlatMap(self._rows) | Mutate(self.place)

    def _rows(self, of: KeyRange) -> Iterator[Any]:
        from google.cloud.bigtable.row import DirectRow

        for key, found in columns(self.place, of, self.versions):
            row = DirectRow(key)
            row.delete_cells(self.place.family, found)
            yield row
