"""Write the TFRecord files of training, holdout and serving records of each user bucket, and of unknown users."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.contracts.example_spec import MISSING, SPLITS, FeatureSpec
from transforms.core import files, progress
from transforms.core.files import FileEntry
from transforms.core.frames import GatherFrames
from transforms.core.process_cache import process_cache
from transforms.core.records import Counts
from transforms.core.threads import ThreadedMap
from transforms.examples import draw_examples, skew
from transforms.examples.draw_examples import DrawnLabels, LabelDraw
from transforms.examples.encoding import FeatureGraph, load_graph
from transforms.examples.histories import UserHistories, Vocabularies
from transforms.examples.tfrecords import write_tfrecords
from transforms.examples.vocabulary import COUNTS, count_tokens
from transforms.logs.event_window import BucketFiles, Events, Window, read_users
from transforms.logs.schemas import SEARCH_SCHEMA, WATCH_SCHEMA

_MISSING = pl.lit(MISSING, pl.Float32)


@dataclass(frozen=True, kw_only=True)
class ExampleInputs:
    """Paths of the inputs that all buckets share."""

    videos: str  # the video vocabulary
    search_tokens: str | None  # the search vocabulary
    graph: str  # folder of TFT's graph
    shared_rows: int = 0  # number of embedding rows that videos out of vocabulary share
    partial_watches: bool = False  # whether histories contain watches that were not completed


@dataclass(frozen=True)
class FeatureHistograms:
    """Histograms of the features of one bucket's users in training and serving records."""

    features: skew.Histograms


def count_events(events: Events, histories: UserHistories, drawn: DrawnLabels) -> dict[str, int]:
    """Count a bucket's events by what became of them.

    `watches` is the sum of `train_pointers` and all counts named `watches_*`, `searches` that of all `searches_*`. A
    watch is counted under the first rule that excluded it. The counts of users with completed watches, with any out of
    vocabulary, and with nothing else show the effect of the long tail.
    """
    by_user = histories.watches.filter("completed").group_by("user_id")
    tail_shares = by_user.agg(share=(pl.col("id") == 0).mean())["share"]
    excluded = {name: value for name, value in vars(drawn).items() if name != "pointers"}
    return {
        "watches": events.watches.height + events.robot_watches,
        "watches_of_robots": events.robot_watches,
        **{f"watches_{name}": value for name, value in excluded.items()},
        "searches": events.searches.height + events.robot_searches,
        "searches_of_robots": events.robot_searches,
        "searches_without_tokens": events.searches.height - histories.searches_used,
        "searches_used": histories.searches_used,
        "robot_days": events.robot_days,
        "users_with_completed": tail_shares.len(),
        "users_with_out_of_vocabulary": (tail_shares > 0).sum(),
        "users_with_nothing_else": (tail_shares == 1).sum(),
    }


def keep_features(pointers: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Select the model's features, adding missing ones: a bucket may have no rows of the users table."""
    common = ["user_id", "time", "label", "watches_end", "tokens_end", "example_age", "label_days", "as_of_days"]
    defaults = dict.fromkeys(spec.categories, pl.lit(None, pl.String)) | dict.fromkeys(spec.numbers, _MISSING)
    absent = {name: value for name, value in defaults.items() if name not in pointers.columns}
    return pointers.with_columns(**absent).select(*common, *spec.categories, *spec.numbers)


@dataclass
class WriteExamples(beam.PTransform):
    """Write the examples of bucket files, one file for each bucket and split that has users.

    Files are named `SPLIT/BUCKET-of-BUCKETS-ATTEMPT.tfrecord.gz` below `folder`. The outputs are `records` (a
    `FileEntry` for each file, and `Counts` and `FeatureHistograms` for each bucket) and `label_counts` (frames of
    `COUNTS`).
    """

    window: Window
    draw: LabelDraw
    spec: FeatureSpec
    inputs: ExampleInputs
    folder: str
    name: str
    threads: int = 1  # buckets processed concurrently

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> dict[str, beam.PCollection]:
        write = ThreadedMap(self._write, self.threads, ("label_counts",), "records")
        written = buckets | beam.Reshuffle() | write
        written.label_counts.element_type = pl.DataFrame
        return {"records": written.records, "label_counts": written.label_counts}

    def _write(self, bucket: BucketFiles) -> Iterator[Any]:
        events, users = self.window.events(bucket), read_users(bucket)
        histories = UserHistories.from_events(events.watches, events.searches, users, load_vocabularies(self.inputs))
        drawn = draw_examples.draw_labels(histories, self.draw)
        pointers_of = {
            "train": drawn.pointers,
            "holdout": draw_examples.holdout_pointers(histories, self.draw.holdout, days=self.spec.holdout_days or 0),
            "serving": draw_examples.serving_pointers(histories, self.window.end),
        }
        graph = load_graph(self.inputs.graph)
        counts, compared = count_events(events, histories, drawn), {}
        for split in SPLITS:
            raw = keep_features(pointers_of[split], self.spec)
            pointers = graph.encode(raw, categories=list(self.spec.categories))
            if split != "train":  # an age of 0 days is not always the lowest quantile
                pointers = pointers.with_columns(example_age=pl.lit(0.0, pl.Float32))
            counts |= {f"{split}_pointers": pointers.height, f"{split}_users": pointers["user_id"].n_unique()}
            if split in skew.SIDES:
                compared[split] = skew.last_pointers(pointers)
            if split == "train":
                yield beam.pvalue.TaggedOutput("label_counts", count_tokens(pointers["label"].cast(pl.String)))
            if split == "serving":
                counts["serving_without_history"] = pointers.filter(pl.col("watches_end") == 0).height
            if pointers.height:
                rows = draw_examples.build_records(pointers, histories, max_sequence=self.draw.max_sequence)
                rows = rows if self.spec.tokens else rows.drop("tokens", "tokens_end")
                name = f"{split}/{self.name.format(bucket=bucket.bucket)}"
                yield write_tfrecords(rows, self.folder, name)
        progress.advance()
        yield Counts(counts)
        yield FeatureHistograms(skew.histograms(**compared, spec=self.spec))


@process_cache
def load_vocabularies(inputs: ExampleInputs) -> Vocabularies:
    """Load the vocabularies once per process."""
    videos = files.read_parquet(inputs.videos)
    tokens = files.read_parquet(inputs.search_tokens) if inputs.search_tokens else pl.DataFrame(schema=COUNTS)
    return Vocabularies.from_frames(
        videos, tokens, shared_rows=inputs.shared_rows, partial_watches=inputs.partial_watches
    )


@dataclass
class WriteLabelCounts(beam.PTransform):
    """Write label counts to one Parquet file with id (from 1), video_id and count of each video in vocabulary."""

    videos: str
    folder: str
    name: str

    def expand(self, counts: beam.PCollection[pl.DataFrame]) -> beam.PCollection[FileEntry]:
        return counts | GatherFrames() | beam.Map(self._write)

    def _write(self, counts: pl.DataFrame) -> FileEntry:
        total = counts.group_by(id=pl.col("token").cast(pl.Int64)).agg(pl.col("count").sum())
        videos = files.read_parquet(self.videos).select(video_id="token").with_row_index("id", 1)
        rows = videos.cast({"id": pl.Int64}).join(total, on="id", how="left", maintain_order="left")
        return files.replace_parquet(rows.with_columns(pl.col("count").fill_null(0)), self.folder, self.name)


def default_records(countries: Sequence[str], end: dt.datetime, spec: FeatureSpec, graph: FeatureGraph) -> pl.DataFrame:
    """Return serving records at `end` of unknown users: for an unknown country (user_id ""), then for each country.

    They are built like other serving records, so the model returns what a user without events in the window gets.
    """
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
