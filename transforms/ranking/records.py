"""Videos shown, as the ranker takes them: ids and numbers by its spec, and records of them to learn from.

impressions, store, earlier nights' lists and vectors -> WriteRankingExamples -> ranked/examples/{train,holdout}/*
                                                                              -> numbers for TFT's analysis
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.contracts.ranking_spec import RankingSpec
from transforms.core import files
from transforms.core.records import Counts
from transforms.core.threads import ThreadedMap, process_cache
from transforms.examples.histories import with_tokens
from transforms.examples.tfrecords import write_tfrecords
from transforms.examples.vocabulary import COUNTS
from transforms.logs.event_window import BucketFiles, Holdout, Window, read_users
from transforms.logs.schemas import VIDEO_SCHEMA
from transforms.ranking.features import CATALOGUE, CHANNEL, Features, ImpressionContext
from transforms.ranking.generator_features import GENERATOR_NUMBERS, GeneratorNight, generator_features, places
from transforms.ranking.timelines import Ints, Span, Timeline, last_of

FOLDER = "examples"  # below the stage's
LABELS = ("clicked", "watch_seconds", "page", "impression_day")


@dataclass(frozen=True, kw_only=True)
class RankingInputs:
    """Where the parts lie that all buckets share, and what the ranker takes."""

    window: Window
    spec: RankingSpec
    zone: str  # whose hours and days are meant
    videos: str  # path of the ranker's video vocabulary, `COUNTS`
    channels: str  # of its channels, "" for none
    tokens: str  # of the search vocabulary, "" for none
    catalogue: str  # path, "" for none


@dataclass(frozen=True, kw_only=True)
class RankingBucket:
    """One bucket's files, and what the generator said of its users, night by night."""

    files: BucketFiles
    nights: tuple[GeneratorNight, ...] = ()
    lists: tuple[str, ...] = ()  # paths of the lists to rank


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all buckets share."""

    videos: pl.Series
    channels: pl.Series
    tokens: pl.DataFrame  # token, id
    catalogue: pl.DataFrame


@process_cache
def _read_shared(paths: tuple[str, str, str, str]) -> Shared:
    videos, channels, tokens, catalogue = paths
    known = files.read_parquet(tokens) if tokens else pl.DataFrame(schema=COUNTS)
    return Shared(
        videos=files.read_parquet(videos)["token"],
        channels=(files.read_parquet(channels) if channels else pl.DataFrame(schema=COUNTS))["token"],
        tokens=known.select("token", id=pl.int_range(1, pl.len() + 1, dtype=pl.Int64)),
        catalogue=read_catalogue(catalogue),
    )


def read_shared(inputs: RankingInputs) -> Shared:
    """Once a process."""
    return _read_shared((inputs.videos, inputs.channels, inputs.tokens, inputs.catalogue))


def read_catalogue(path: str) -> pl.DataFrame:
    """`CATALOGUE` of the night's catalogue; without rows where there is none."""
    if path:
        return files.read_parquet(path, list(CATALOGUE))
    return pl.DataFrame(schema={name: VIDEO_SCHEMA[name] for name in CATALOGUE})


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Videos shown as the ranker takes them, in the order of `Features`; arrays by feature.

    query: [requests], but for watches and tokens, which are given as spans of `watches` and `tokens`.
    """

    shown: pl.DataFrame
    request: Ints
    user_ids: pl.Series  # of each request
    query: dict[str, NDArray[Any]]
    impressions: dict[str, NDArray[Any]]
    watches: Ints  # ids of the ranker's videos, by user and time
    watched: Span  # of each request
    tokens: Ints  # ids of search tokens, by user and time
    asked: Span

    def query_arrays(self, spec: RankingSpec) -> dict[str, NDArray[Any]]:
        """`query`, with the last watches and tokens of each request: int32 [requests, history], 0 in front."""
        found = self.query | {"watches": last_of(self.watched, self.watches, spec.watch_history)}
        if spec.tokens:
            found["tokens"] = last_of(self.asked, self.tokens, spec.search_history)
        return found


def encode(
    past: ImpressionContext, features: Features, said: dict[str, Any], shared: Shared, spec: RankingSpec
) -> Encoded:
    """Features and what the generator says (`generator_features`) -> what the ranker of `spec` takes."""
    shown = features.shown.with_columns(pl.Series(name, said[name], pl.Float32) for name in said)
    of_video = places(past.video_ids, shared.videos) + 1
    impressions: dict[str, NDArray[Any]] = {"video": of_video[features.videos]}
    if spec.channels:
        impressions[CHANNEL] = (places(past.videos["channel"], shared.channels) + 1)[features.videos]
    impressions |= {n: category_ids(shown, n, spec) for n in spec.impression_categories}
    impressions |= {n: _numbers(shown, n) for n in spec.impression_numbers}
    query: dict[str, NDArray[Any]] = {n: category_ids(features.requests, n, spec) for n in spec.query_categories}
    query |= {n: _numbers(features.requests, n) for n in spec.query_numbers}
    tokens, asked = _tokens(past, features, shared)
    return Encoded(
        shown=shown,
        request=features.request,
        user_ids=features.requests["user_id"].cast(pl.String),
        query=query,
        impressions=impressions,
        watches=of_video[past.watched],
        watched=features.watches,
        tokens=tokens,
        asked=asked,
    )


def category_ids(rows: pl.DataFrame, name: str, spec: RankingSpec) -> Ints:
    """1 + index into the category's values; 0: missing or unknown. A column the rows do not have is missing."""
    if name not in rows.columns:
        return np.zeros(rows.height, np.int64)
    return places(rows[name].cast(pl.String), pl.Series(spec.categories[name], dtype=pl.String)) + 1


def _numbers(rows: pl.DataFrame, name: str) -> NDArray[np.float32]:
    """A number, NaN where it is not known."""
    if name not in rows.columns:
        return np.full(rows.height, np.nan, np.float32)
    return rows[name].cast(pl.Float32).fill_null(np.nan).to_numpy()


def _tokens(past: ImpressionContext, features: Features, shared: Shared) -> tuple[Ints, Span]:
    """Ids of the search tokens by user and time, and which come before each request."""
    asked = with_tokens(past.events.searches, shared.tokens).explode("input", empty_as_null=False, keep_nulls=False)
    user, ids = past.numbers_of(asked), asked["input"].cast(pl.Int64).to_numpy()
    line = Timeline.of(user, asked["time"].to_physical().to_numpy(), ids)
    moments = features.requests["time"].to_physical().to_numpy()
    return ids[line.order], line.before(past.numbers_of(features.requests), moments)


def records(encoded: Encoded, spec: RankingSpec, *, zone: str) -> pl.DataFrame:
    """Labelled impressions (with page_id, clicked, watch_seconds) -> one row a user, as `ranking_spec` describes it."""
    rows = encoded.shown.select("user_id", "page_id", "clicked", "watch_seconds", "time").with_row_index("row")
    page = pl.col("row").min().over("user_id", "page_id")
    ends = {"watches_end": encoded.watched.count, **({"tokens_end": encoded.asked.count} if spec.tokens else {})}
    of_request = {**encoded.query, **ends}
    lists = rows.select(
        pl.col("user_id").cast(pl.String),
        pl.col("clicked").cast(pl.Int64),
        pl.col("watch_seconds").cast(pl.Float32),
        page=page.rank("dense").over("user_id").cast(pl.Int64) - 1,
        impression_day=pl.col("time").dt.convert_time_zone(zone).dt.date().to_physical().cast(pl.Int64),
        **{name: pl.Series(_kind(values[encoded.request])) for name, values in of_request.items()},
        **{name: pl.Series(_kind(values)) for name, values in encoded.impressions.items()},
    )
    users = lists.group_by("user_id", maintain_order=True).agg(pl.all())
    last = np.append(np.flatnonzero(np.diff(places(encoded.user_ids, users["user_id"]))), len(encoded.user_ids) - 1)
    histories = {"watches": (encoded.watched, encoded.watches)}
    if spec.tokens:
        histories["tokens"] = (encoded.asked, encoded.tokens)
    return users.with_columns(
        pl.Series(name, _lists(Span(first=of.first[last], end=of.end[last]), ids))
        for name, (of, ids) in histories.items()
    )


def _lists(span: Span, values: Ints) -> pa.LargeListArray:
    """The values of each span as a list."""
    offsets = np.concatenate([[0], np.cumsum(span.count)])
    at = np.arange(offsets[-1]) + np.repeat(span.first - offsets[:-1], span.count)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values[at].astype(np.int64)))


def _kind(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32 if np.issubdtype(values.dtype, np.floating) else np.int64)


@dataclass
class WriteRankingExamples(beam.PTransform):
    """`RankingBucket`s -> {`records`: a `FileEntry` a file and `Counts` a bucket; `numbers`: frames of the training
    impressions with the spec's numbers, for `DrawNumbers`}.

    Held-out users' impressions of the held-out days go to `holdout/`, and nothing of these days of theirs elsewhere.
    """

    inputs: RankingInputs
    holdout: Holdout
    folder: str
    name: str
    threads: int = 1  # buckets at a time

    def expand(self, buckets: beam.PCollection[RankingBucket]) -> dict[str, beam.PCollection]:
        found = buckets | beam.Reshuffle() | ThreadedMap(self._write, self.threads, ("numbers",), "records")
        found.numbers.element_type = pl.DataFrame
        return {"records": found.records, "numbers": found.numbers}

    def _write(self, bucket: RankingBucket) -> Iterator[Any]:
        inputs, spec, shared = self.inputs, self.inputs.spec, read_shared(self.inputs)
        events = inputs.window.events_with_impressions(bucket.files)
        shown = events.impressions
        late = (shown["time"] >= self.holdout.start) & self.holdout.users(shown["user_id"])
        past = ImpressionContext.of(events, read_users(bucket.files), shared.catalogue, [])
        counts = dict[str, int]()
        for split, part in (("train", shown.filter(~late)), ("holdout", shown.filter(late))):
            counts |= {f"{split}_impressions": part.height, f"{split}_clicked": int(part["clicked"].sum())}
            if part.is_empty():
                continue
            features = past.features(part, zone=inputs.zone)
            said = generator_features(features, past, bucket.nights) if _wants_generator(spec) else {}
            encoded = encode(past, features, said, shared, spec)
            rows = records(encoded, spec, zone=inputs.zone)
            name = f"{FOLDER}/{split}/{self.name.format(bucket=bucket.files.bucket)}"
            yield write_tfrecords(rows, self.folder, name)
            if split == "train":
                yield beam.pvalue.TaggedOutput("numbers", _numbers_frame(encoded, spec))
        yield Counts(counts)


def _wants_generator(spec: RankingSpec) -> bool:
    return any(name in spec.numbers for name in GENERATOR_NUMBERS)


def _numbers_frame(encoded: Encoded, spec: RankingSpec) -> pl.DataFrame:
    """user_id, video_id, time, and the spec's numbers of each impression."""
    columns = {name: encoded.query[name][encoded.request] for name in spec.query_numbers}
    columns |= {name: encoded.impressions[name] for name in spec.impression_numbers}
    ids = encoded.shown.select(pl.col("user_id").cast(pl.String), pl.col("video_id").cast(pl.String), "time")
    return ids.with_columns(pl.Series(name, columns[name]) for name in spec.numbers)
