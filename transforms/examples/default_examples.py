"""Serving records of unknown users, without watches or searches, for each country and for an unknown country.

countries -> WriteDefaultExamples -> one TFRecord file: user_id "" for an unknown country, then each country as user_id

They are built like other serving records, so the model returns what a user without usable events in the window gets.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

import apache_beam as beam
import polars as pl

from transforms.contracts.example_spec import FeatureSpec
from transforms.core import progress
from transforms.core.files import FileEntry
from transforms.examples import draw_examples
from transforms.examples.encoding import FeatureGraph, load_graph
from transforms.examples.histories import UserHistories, Vocabularies
from transforms.examples.tfrecords import write_tfrecords
from transforms.examples.vocabulary import COUNTS
from transforms.examples.write_examples import keep_features
from transforms.logs.schemas import SEARCH_SCHEMA, WATCH_SCHEMA


def default_records(countries: Sequence[str], end: dt.datetime, spec: FeatureSpec, graph: FeatureGraph) -> pl.DataFrame:
    """Return serving records at `end` of a user without a known country and of one in each country."""
    named = {"user_id": ["", *countries], "country": [None, *countries]}
    users, empty = pl.DataFrame(named, schema=dict.fromkeys(named, pl.String)), pl.DataFrame(schema=COUNTS)
    watches, searches = pl.DataFrame(schema=WATCH_SCHEMA), pl.DataFrame(schema=SEARCH_SCHEMA)
    no_events = UserHistories.from_events(watches, searches, users, Vocabularies.from_frames(empty, empty))
    histories = replace(no_events, active=users["user_id"])
    raw = keep_features(draw_examples.serving_pointers(histories, end), spec)
    pointers = graph.encode(raw, categories=list(spec.categories)).with_columns(example_age=pl.lit(0.0, pl.Float32))
    rows = draw_examples.build_records(pointers, histories, max_sequence=1)
    return rows if spec.tokens else rows.drop("tokens", "tokens_end")


@dataclass
class WriteDefaultExamples(beam.PTransform):
    """Write `default_records` of a list of countries to one file, and return its entry."""

    end: dt.datetime
    spec: FeatureSpec
    graph: str  # folder of TFT's graph
    folder: str
    name: str

    def expand(self, countries: beam.PCollection[Sequence[str]]) -> beam.PCollection[FileEntry]:
        return countries | beam.Map(self._write)

    def _write(self, countries: Sequence[str]) -> FileEntry:
        progress.advance()
        rows = default_records(countries, self.end, self.spec, load_graph(self.graph))
        return write_tfrecords(rows, self.folder, self.name)
