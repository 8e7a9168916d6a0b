"""The ranker's input: videos shown as ids and numbers of its spec, and records of them to train on.

impressions, store, earlier nights' lists and vectors -> WriteRankingExamples -> ranked/examples/{train,holdout}/*
                                                                              -> numbers for TFT's analysis
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.contracts.ranking_spec import RankingSpec
from transforms.core import files
from transforms.core.days import local_date, local_dates
from transforms.core.process_cache import process_cache
from transforms.core.records import Counts
from transforms.core.threads import ThreadedMap
from transforms.examples.histories import with_tokens
from transforms.examples.tfrecords import write_tfrecords
from transforms.examples.vocabulary import COUNTS
from transforms.logs.event_window import BucketFiles, Holdout, Window, read_users
from transforms.logs.schemas import VIDEO_SCHEMA
from transforms.ranking.features import CATALOGUE, CHANNEL, POSITION, Features, ImpressionContext
from transforms.ranking.generator_features import GENERATOR_NUMBERS, GeneratorNight, generator_features, lookup_rows
from transforms.ranking.outcome_features import Outcomes, outcome_features
from transforms.ranking.outcomes import day_of_file
from transforms.ranking.timelines import Ints, Span, Timeline, last_values
from transforms.ranking.unclicked import WEIGHT, sample_unclicked
from transforms.ranking.written import NOTHING, WrittenImpressions

FOLDER = "examples"  # below the folder of the stage


@dataclass(frozen=True, kw_only=True)
class RankingInputs:
    """The inputs that all buckets share: paths, and the spec of the ranker."""

    window: Window
    spec: RankingSpec
    zone: str  # time zone of hours and days
    videos: str  # path of the ranker's video vocabulary, `COUNTS`
    channels: str  # path of its channel vocabulary, "" for none
    tokens: str  # path of the search vocabulary, "" for none
    catalogue: str  # path, "" for none
    outcomes: tuple[
        str, ...
    ] = ()  # paths of `OUTCOMES`, named by their days; none if the spec has none of their numbers


@dataclass(frozen=True, kw_only=True)
class RankingBucket:
    """One bucket's files, and the generator's files for its users by night."""

    files: BucketFiles
    nights: tuple[GeneratorNight, ...] = ()
    lists: tuple[str, ...] = ()  # paths of the lists to rank


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The tables that all buckets share."""

    videos: pl.Series
    channels: pl.Series
    tokens: pl.DataFrame  # token, id
    catalogue: pl.DataFrame
    outcomes: Outcomes | None


@process_cache
def _read_shared(paths: tuple[str, str, str, str, str, tuple[str, ...]]) -> Shared:
    videos, channels, tokens, catalogue, zone, outcomes = paths
    known = files.read_parquet(tokens) if tokens else pl.DataFrame(schema=COUNTS)
    return Shared(
        videos=files.read_parquet(videos)["token"],
        channels=(files.read_parquet(channels) if channels else pl.DataFrame(schema=COUNTS))["token"],
        tokens=known.select("token", id=pl.int_range(1, pl.len() + 1, dtype=pl.Int64)),
        catalogue=read_catalogue(catalogue),
        outcomes=read_outcomes(outcomes, catalogue, zone=zone) if outcomes else None,
    )


def read_shared(inputs: RankingInputs) -> Shared:
    """Return the shared tables, read once per process."""
    paths = inputs.videos, inputs.channels, inputs.tokens, inputs.catalogue, inputs.zone, inputs.outcomes
    return _read_shared(paths)


def read_outcomes(paths: Sequence[str], catalogue: str, *, zone: str) -> Outcomes:
    """Return the outcomes of the days of some files, at least one. catalogue: path, "" for none."""
    path_of = {day_of_file(path): path for path in paths}
    return Outcomes.from_days(
        path_of, lambda day: files.read_parquet(path_of[day]), read_catalogue(catalogue), zone=zone
    )


def read_catalogue(path: str) -> pl.DataFrame:
    """Return `CATALOGUE` of the night's catalogue; without rows if the path is empty."""
    if path:
        return files.read_parquet(path, list(CATALOGUE))
    return pl.DataFrame(schema={name: VIDEO_SCHEMA[name] for name in CATALOGUE})


@dataclass(frozen=True)
class History:
    """The ids of the ranker's videos or of search tokens by user and time, and the range of each request."""

    ids: Ints
    spans: Span


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Videos shown in the form that the ranker takes, in the order of `Features`; arrays by feature."""

    shown: pl.DataFrame
    request: Ints  # row of the query for each video shown, ascending
    user_ids: pl.Series  # [requests]
    query: dict[str, NDArray[Any]]  # [requests], without histories
    histories: dict[str, History]  # watches, and tokens if the ranker has searches
    impressions: dict[str, NDArray[Any]]  # [shown]

    def query_arrays(self, spec: RankingSpec) -> dict[str, NDArray[Any]]:
        """Return `query` with the last watches and tokens of each request: int32 [requests, history], 0 in front."""
        lengths = {"watches": spec.watch_history, "tokens": spec.search_history}
        last = {
            name: last_values(history.spans, history.ids, lengths[name]) for name, history in self.histories.items()
        }
        return self.query | last


def encode(
    context: ImpressionContext,
    features: Features,
    generator: Mapping[str, NDArray[np.float32]],
    shared: Shared,
    spec: RankingSpec,
) -> Encoded:
    """Return features in the form that the ranker of `spec` takes. generator: `generator_features`, by name. Those from
    outcomes are added here.

    Rows without the column `position` are at position 1: the ranker learned how much of an impression's outcome is due
    to its position, and compares all candidates at the same one.
    """
    numbers = dict(generator)
    if shared.outcomes:
        numbers |= outcome_features(features, context, shared.outcomes)
    shown = features.shown.with_columns(pl.Series(name, numbers[name], pl.Float32) for name in numbers)
    if POSITION not in shown.columns:
        shown = shown.with_columns(pl.lit(1.0).alias(POSITION))
    ranker_ids = lookup_rows(context.video_ids, shared.videos) + 1
    impressions: dict[str, NDArray[Any]] = {"video": ranker_ids[features.videos]}
    if spec.channels:
        impressions[CHANNEL] = (lookup_rows(context.videos["channel"], shared.channels) + 1)[features.videos]
    impressions |= {n: category_ids(shown, n, spec) for n in spec.impression_categories}
    impressions |= {n: _numbers(shown, n) for n in spec.impression_numbers}
    query: dict[str, NDArray[Any]] = {n: category_ids(features.requests, n, spec) for n in spec.query_categories}
    query |= {n: _numbers(features.requests, n) for n in spec.query_numbers}
    histories = {"watches": History(ranker_ids[context.watched], features.watches)}
    if spec.tokens:
        histories["tokens"] = _search_tokens(context, features, shared)
    return Encoded(
        shown=shown,
        request=features.request,
        user_ids=features.requests["user_id"].cast(pl.String),
        query=query,
        histories=histories,
        impressions=impressions,
    )


def category_ids(rows: pl.DataFrame, name: str, spec: RankingSpec) -> Ints:
    """Return 1 + the index into the category's values; 0 if it is missing or unknown, or the column does not exist."""
    if name not in rows.columns:
        return np.zeros(rows.height, np.int64)
    return lookup_rows(rows[name].cast(pl.String), pl.Series(spec.categories[name], dtype=pl.String)) + 1


def _numbers(rows: pl.DataFrame, name: str) -> NDArray[np.float32]:
    """Return a number as float32, NaN if it is unknown or the column does not exist."""
    if name not in rows.columns:
        return np.full(rows.height, np.nan, np.float32)
    return rows[name].cast(pl.Float32).fill_null(np.nan).to_numpy()


def _search_tokens(context: ImpressionContext, features: Features, shared: Shared) -> History:
    """Return the ids of search tokens by user and time, and the range of those before each request."""
    searches = with_tokens(context.events.searches, shared.tokens)
    tokens = searches.explode("input", empty_as_null=False, keep_nulls=False)
    ids = tokens["input"].cast(pl.Int64).to_numpy()
    line = Timeline.from_events(context.user_indices(tokens), tokens["time"].to_physical().to_numpy(), ids)
    moments = features.requests["time"].to_physical().to_numpy()
    return History(ids[line.order], line.before(context.user_indices(features.requests), moments))


def to_records(encoded: Encoded, spec: RankingSpec, *, night: dt.date, zone: str) -> pl.DataFrame:
    """Return labelled impressions (with page_id, clicked, watch_seconds, impression_weight) as records, one row per
    user, with the columns of `ranking_spec`.

    A history begins with the input of the user's first impression, because no later one needs what lies before.
    night: the date of the night that writes them.
    """
    labels = ("page_id", "clicked", "watch_seconds", WEIGHT)
    rows = encoded.shown.select("user_id", "time", *labels).with_row_index("row")
    page = pl.col("row").min().over("user_id", "page_id")
    lengths = {"watches": spec.watch_history, "tokens": spec.search_history}
    users_of = lookup_rows(encoded.user_ids, encoded.user_ids.unique(maintain_order=True))
    spans = {n: _needed(history.spans, users_of, lengths[n]) for n, history in encoded.histories.items()}
    query = encoded.query | {f"{name}_end": span.count for name, span in spans.items()}
    lists = rows.select(
        pl.col("user_id").cast(pl.String),
        pl.col("clicked").cast(pl.Int64),
        pl.col("watch_seconds", WEIGHT).cast(pl.Float32),
        page=page.rank("dense").over("user_id").cast(pl.Int64) - 1,
        impression_day=local_dates(rows["time"], zone).to_physical().cast(pl.Int64),
        **{name: pl.Series(_to_record_dtype(values[encoded.request])) for name, values in query.items()},
        **{name: pl.Series(_to_record_dtype(values)) for name, values in encoded.impressions.items()},
    )
    users = lists.group_by("user_id", maintain_order=True).agg(pl.all())
    last = np.append(np.flatnonzero(np.diff(users_of)), len(encoded.user_ids) - 1)
    return users.with_columns(
        *(
            pl.Series(name, _span_lists(Span(first=span.first[last], end=span.end[last]), encoded.histories[name].ids))
            for name, span in spans.items()
        ),
        record_night=pl.concat_list(pl.lit(night).to_physical().cast(pl.Int64)),
    )


def _needed(spans: Span, users: Ints, length: int) -> Span:
    """Return the ranges of requests, ordered by user and time, without what no input of `length` of the user needs."""
    is_first = np.append(True, users[1:] != users[:-1])[: len(users)]
    first = np.maximum(spans.first, spans.end - length)[is_first]
    return Span(first=first[np.cumsum(is_first) - 1], end=spans.end)


WRITTEN_ON = "written_on_"  # prefix of the counts of training impressions by day


def _counts_by_day(records: pl.DataFrame) -> dict[str, int]:
    """Return the number of impressions of each day, by `WRITTEN_ON` and the day."""
    days = records["impression_day"].explode().cast(pl.Int32).cast(pl.Date).value_counts()
    return {f"{WRITTEN_ON}{day}": count for day, count in days.iter_rows()}


def _span_lists(span: Span, values: Ints) -> pa.LargeListArray:
    """Return the values of each range as a list."""
    offsets = np.concatenate([[0], np.cumsum(span.count)])
    index = np.arange(offsets[-1]) + np.repeat(span.first - offsets[:-1], span.count)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values[index].astype(np.int64)))


def _to_record_dtype(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32 if np.issubdtype(values.dtype, np.floating) else np.int64)


@dataclass
class WriteRankingExamples(beam.PTransform):
    """Write the records of each `RankingBucket`; return {`records`: a `FileEntry` per file and `Counts` per bucket,
    `numbers`: frames of the training impressions with the spec's numbers, for `DrawNumbers`}.

    The impressions of held-out users on held-out days go to `holdout/`, and no other file contains them. All of them
    are written, with the position of candidates, so that the ranker is measured as it is used; of the others a sample
    (`sample_unclicked`).
    """

    inputs: RankingInputs
    holdout: Holdout
    folder: str
    name: str
    threads: int = 1  # buckets processed at the same time
    unclicked: float = 1.0  # share of the unclicked training impressions that are written
    seed: int = 1  # of their sample
    written: WrittenImpressions = NOTHING  # by earlier nights: not written again

    def expand(self, buckets: beam.PCollection[RankingBucket]) -> dict[str, beam.PCollection]:
        found = buckets | beam.Reshuffle() | ThreadedMap(self._write, self.threads, ("numbers",), "records")
        found.numbers.element_type = pl.DataFrame
        return {"records": found.records, "numbers": found.numbers}

    def _write(self, bucket: RankingBucket) -> Iterator[Any]:
        inputs, spec, shared = self.inputs, self.inputs.spec, read_shared(self.inputs)
        events = inputs.window.events_with_impressions(bucket.files)
        shown = events.impressions
        late = (shown["time"] >= self.holdout.start) & self.holdout.contains(shown["user_id"])
        parts = {
            "train": sample_unclicked(self.written.drop(shown.filter(~late)), share=self.unclicked, seed=self.seed),
            "holdout": sample_unclicked(shown.filter(late), share=1.0, seed=self.seed).drop(POSITION),
        }
        users = pl.concat([part["user_id"] for part in parts.values()]).unique()
        context = ImpressionContext.from_events(events.of_users(users), read_users(bucket.files), shared.catalogue, [])
        uses_generator = any(name in spec.numbers for name in GENERATOR_NUMBERS)
        counts = dict[str, int]()
        for split, part in parts.items():
            counts |= {f"{split}_impressions": part.height, f"{split}_clicked": int(part["clicked"].sum())}
            if part.is_empty():
                continue
            features = context.features(part, zone=inputs.zone)
            generator = generator_features(features, context, bucket.nights) if uses_generator else {}
            encoded = encode(context, features, generator, shared, spec)
            rows = to_records(encoded, spec, night=local_date(inputs.window.end, inputs.zone), zone=inputs.zone)
            counts |= _counts_by_day(rows) if split == "train" else {}
            name = f"{FOLDER}/{split}/{self.name.format(bucket=bucket.files.bucket)}"
            yield write_tfrecords(rows, self.folder, name)
            if split == "train":
                yield beam.pvalue.TaggedOutput("numbers", _numbers_frame(encoded, spec))
        yield Counts(counts)


def _numbers_frame(encoded: Encoded, spec: RankingSpec) -> pl.DataFrame:
    """Return user_id, video_id, time, and the spec's numbers of each impression."""
    columns = {name: encoded.query[name][encoded.request] for name in spec.query_numbers}
    columns |= {name: encoded.impressions[name] for name in spec.impression_numbers}
    ids = encoded.shown.select(pl.col("user_id").cast(pl.String), pl.col("video_id").cast(pl.String), "time")
    return ids.with_columns(pl.Series(name, columns[name]) for name in spec.numbers)
