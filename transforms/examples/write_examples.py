"""One user bucket's window -> its TFRecord files of training, holdout and serving records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.contracts.example_spec import MISSING, SPLITS, FeatureSpec
from transforms.core import files, progress
from transforms.core.files import FileEntry
from transforms.core.frames import GatherFrames
from transforms.core.records import Counts
from transforms.core.threads import ThreadedMap, process_cache
from transforms.examples import draw_examples, skew
from transforms.examples.draw_examples import DrawnLabels, LabelDraw
from transforms.examples.encoding import load_graph
from transforms.examples.histories import UserHistories, Vocabularies
from transforms.examples.tfrecords import write_tfrecords
from transforms.examples.vocabulary import COUNTS
from transforms.logs.event_window import BucketFiles, Window, read_users
from transforms.logs.robots import Events

_MISSING = pl.lit(MISSING, pl.Float32)


@dataclass(frozen=True, kw_only=True)
class ExampleInputs:
    """Where the parts lie that all buckets share."""

    videos: str  # path of the video vocabulary
    search_tokens: str | None  # path of the search vocabulary
    graph: str  # folder of TFT's graph
    shared_rows: int = 0  # of the videos out of vocabulary, together


@dataclass(frozen=True)
class FeatureHistograms:
    """The features of one bucket's users in training and in serving records."""

    features: skew.Histograms


def account(events: Events, pasts: UserHistories, drawn: DrawnLabels) -> dict[str, int]:
    """What became of a bucket's events, by name: `watches` are the `train_pointers` and all that begin `watches_`,
    `searches` all that begin `searches_`; a watch is counted where it was first left out.

    And how much the long tail touches: users, among those who completed a video, with one out of vocabulary, and with
    no other.
    """
    completed = pasts.watches.filter("completed").group_by("user_id").agg(cut=(pl.col("id") == 0).mean())["cut"]
    left_out = {name: value for name, value in vars(drawn).items() if name != "pointers"}
    return {
        "watches": events.watches.height + events.robot_watches,
        "watches_of_robots": events.robot_watches,
        **{f"watches_{name}": value for name, value in left_out.items()},
        "searches": events.searches.height + events.robot_searches,
        "searches_of_robots": events.robot_searches,
        "searches_without_tokens": events.searches.height - pasts.searches_used,
        "searches_used": pasts.searches_used,
        "robot_days": events.robot_days,
        "users_with_completed": completed.len(),
        "users_with_out_of_vocabulary": (completed > 0).sum(),
        "users_with_nothing_else": (completed == 1).sum(),
    }


def keep_features(pointers: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Only the columns the model of this night has, and all of them: a bucket may have no row of the users table."""
    whole = ["user_id", "time", "label", "watches_end", "tokens_end", "example_age", "label_days"]
    names = [*whole, *spec.categories, *spec.numbers]
    unknown = dict.fromkeys(spec.categories, pl.lit(None, pl.String)) | dict.fromkeys(spec.numbers, _MISSING)
    absent = {name: value for name, value in unknown.items() if name not in pointers.columns}
    return pointers.with_columns(**absent).select(names)


@dataclass
class WriteExamples(beam.PTransform):
    """Bucket files -> {`records`: a `FileEntry` a file, and `Counts` and `FeatureHistograms` a bucket; `label_counts`:
    frames `COUNTS`}.

    Files are `SPLIT/BUCKET-of-BUCKETS-ATTEMPT.tfrecord.gz` below `folder`; none for a split a bucket has no user of.
    """

    window: Window
    draw: LabelDraw
    spec: FeatureSpec
    inputs: ExampleInputs
    folder: str
    name: str
    threads: int = 1  # buckets at a time

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> dict[str, beam.PCollection]:
        write = ThreadedMap(self._write, self.threads, ("label_counts",), "records")
        found = buckets | beam.Reshuffle() | write
        found.label_counts.element_type = pl.DataFrame
        return {"records": found.records, "label_counts": found.label_counts}

    def _write(self, bucket: BucketFiles) -> Iterator[Any]:
        events, users = self.window.events(bucket), read_users(bucket)
        pasts = UserHistories.of(events.watches, events.searches, users, load_vocabularies(self.inputs))
        drawn = draw_examples.draw_labels(pasts, self.draw)
        pointers_of = {
            "train": drawn.pointers,
            "holdout": draw_examples.holdout_pointers(pasts, self.draw.holdout),
            "serving": draw_examples.serving_pointers(pasts, self.window.end),
        }
        graph = load_graph(self.inputs.graph)
        counts, compared = account(events, pasts, drawn), {}
        for split in SPLITS:
            raw = keep_features(pointers_of[split], self.spec)
            pointers = graph.encode(raw, categories=list(self.spec.categories))
            if split != "train":  # 0 days are the lowest quantile only where few events share the newest time
                pointers = pointers.with_columns(example_age=pl.lit(0.0, pl.Float32))
            counts |= {f"{split}_pointers": pointers.height, f"{split}_users": pointers["user_id"].n_unique()}
            if split in skew.SIDES:
                compared[split] = skew.last_of_users(pointers)
            if split == "train":
                yield beam.pvalue.TaggedOutput("label_counts", _label_counts(pointers))
            if split == "serving":
                counts["serving_without_history"] = pointers.filter(pl.col("watches_end") == 0).height
            if pointers.height:
                rows = draw_examples.records(pointers, pasts, max_sequence=self.draw.max_sequence)
                rows = rows if self.spec.tokens else rows.drop("tokens", "tokens_end")
                name = f"{split}/{self.name.format(bucket=bucket.bucket)}"
                yield write_tfrecords(rows, self.folder, name)
        progress.advance()
        yield Counts(counts)
        yield FeatureHistograms(skew.histograms(**compared, spec=self.spec))


def _label_counts(pointers: pl.DataFrame) -> pl.DataFrame:
    counts = pointers.group_by(token=pl.col("label").cast(pl.String)).agg(count=pl.len().cast(pl.Int64))
    return counts.match_to_schema(COUNTS)


@process_cache
def load_vocabularies(inputs: ExampleInputs) -> Vocabularies:
    """The vocabularies, once a process."""
    videos = files.read_parquet(inputs.videos)
    tokens = files.read_parquet(inputs.search_tokens) if inputs.search_tokens else pl.DataFrame(schema=COUNTS)
    return Vocabularies.of(videos, tokens, shared_rows=inputs.shared_rows)


@dataclass
class WriteLabelCounts(beam.PTransform):
    """Frames of label counts -> one Parquet file: id from 1, video_id, count, a row a vocabulary video, in id order."""

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
