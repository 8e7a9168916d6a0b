"""Records of users nobody has seen: no watch, no search, nothing known but the country, or not even that.

countries -> WriteDefaultExamples -> one TFRecord file: user_id "" for any country, then each country as a user_id

They are made as serving records are, so the model's answer is the one a user gets whose window holds nothing usable.
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
    """Serving records at `end` of a user of no known country, and of one in each country: rows of `features`."""
    named = {"user_id": ["", *countries], "country": [None, *countries]}
    users, none = pl.DataFrame(named, schema=dict.fromkeys(named, pl.String)), pl.DataFrame(schema=COUNTS)
    nothing = UserHistories.of(
        pl.DataFrame(schema=WATCH_SCHEMA), pl.DataFrame(schema=SEARCH_SCHEMA), users, Vocabularies.of(none, none)
    )
    pasts = replace(nothing, active=users["user_id"])
    raw = keep_features(draw_examples.serving_pointers(pasts, end), spec)
    pointers = graph.encode(raw, categories=list(spec.categories)).with_columns(example_age=pl.lit(0.0, pl.Float32))
    rows = draw_examples.records(pointers, pasts, max_sequence=1)
    return rows if spec.tokens else rows.drop("tokens", "tokens_end")


@dataclass
class WriteDefaultExamples(beam.PTransform):
    """Lists of countries -> `default_records` as one file; gives its entry."""

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
