"""The metrics of one batch of held-out users: the lists of every system compared with their labels, and by slice.

Everything that all batches share is read once per process. The baselines obey the same rules as the neighbours.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.contracts.example_spec import FeatureSpec
from transforms.contracts.retrieval_metrics import UserMetrics, hits_from_ids
from transforms.core import files
from transforms.core.bootstrap import weights
from transforms.core.digests import id_digests
from transforms.core.process_cache import process_cache
from transforms.core.user_sampling import UserSample
from transforms.evaluation.baselines import lists_in_order, order_by_count
from transforms.evaluation.held_out import HeldOut
from transforms.evaluation.item_to_item import NEAR, CoWatched
from transforms.evaluation.list_statistics import VideoCounts, by_id
from transforms.evaluation.night_metrics import (
    BY_SCORE,
    EXACT_SEARCH,
    ITEM_TO_ITEM,
    LAST_DAY,
    MOST_POPULAR,
    NEIGHBOURS,
    OF_NEW,
    OVERLAP,
    RANKING,
    WATCHED,
    WITHOUT_NEW,
    Key,
    gate_figure,
)
from transforms.evaluation.slices import iterate_slices
from transforms.evaluation.user_metrics import Measured
from transforms.examples.vocabulary import COUNTS
from transforms.logs.schemas import TIME
from transforms.search.exact_search import Candidates, Positions
from transforms.search.exclusions import build_query_rules
from transforms.search.index_files import read_videos
from transforms.search.shard_search import exact_lists
from transforms.search.user_limits import SearchInputs, read_candidates, read_index_rules
from transforms.search.user_lists import SearchResult

CUTS = (10, 50, 100, 200)
USERS_AT_ONCE = 8_192  # of ranked lists: 8 MB of weights
SLICED = (NEIGHBOURS, MOST_POPULAR)  # systems that are measured by slice


def metric_cuts(k: int, *more: int) -> tuple[int, ...]:
    """Return the cuts of metrics for lists of length k: those of `CUTS` and of `more` below k, and k."""
    return tuple(sorted({*(cut for cut in (*CUTS, *more) if cut < k), k}))


@dataclass(frozen=True, kw_only=True)
class HoldoutInputs:
    """The inputs that all buckets share."""

    search: SearchInputs  # as of the start of the held-out days
    counts: str  # path of the video vocabulary
    last_day: str  # path of the `COUNTS` of the last day, "" for none
    co_watches: str  # path of `NEAR`, "" for none
    spec: str  # path of the examples' spec
    exact: UserSample | None  # users who are also searched for exactly; None: none
    ranking_cut: int | None = None  # number of first videos by which ranked lists are compared; None: none are ranked

    @property
    def cuts(self) -> tuple[int, ...]:
        """The cuts of the metrics."""
        return metric_cuts(self.search.k, *([self.ranking_cut] if self.ranking_cut else []))

    @property
    def as_of(self) -> dt.datetime:
        """The start of the held-out days."""
        assert self.search.as_of is not None
        return self.search.as_of


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The tables that all batches share. Positions are those of the index, ids those of the vocabulary."""

    spec: FeatureSpec
    videos: pl.DataFrame  # `known_videos`
    uploads: pl.Series  # of each id, from 0: `list_statistics.by_id`
    lengths: pl.Series  # of each id, from 0, in seconds: the same
    id_of: NDArray[np.int64]  # of each candidate; new videos out of vocabulary have ids after those of the vocabulary
    new_ids: NDArray[np.int64]  # of the new videos
    position_of: Positions  # of each id of the vocabulary, -1: not in the index
    popular: Positions  # all positions, the most completed first
    last_day: Positions  # all positions, the most completed of the last day first
    near: CoWatched

    @property
    def videos_with_id(self) -> int:
        return len(self.uploads) - 1


@process_cache
def read_shared(inputs: HoldoutInputs) -> Shared:
    """Return the shared tables, read once per process."""
    spec = FeatureSpec.from_json(files.read_bytes(inputs.spec).decode())
    in_index, counts = read_videos(inputs.search.videos), files.read_parquet(inputs.counts)
    candidates = _with_ids(read_candidates(inputs.search), spec.videos)
    id_of = candidates["id"].to_numpy().astype(np.int64)
    position_of = np.full(spec.videos + 1, -1, np.int32)
    position_of[id_of[: in_index.height]] = np.arange(in_index.height)
    last_day = files.read_parquet(inputs.last_day) if inputs.last_day else pl.DataFrame(schema=COUNTS)
    near = files.read_parquet(inputs.co_watches) if inputs.co_watches else pl.DataFrame(schema=NEAR)
    beyond = candidates.filter(pl.col("id") > spec.videos)
    videos = known_videos(counts, beyond, inputs.search.catalogue)
    return Shared(
        spec=spec,
        videos=videos,
        uploads=by_id(videos, "upload_time"),
        lengths=by_id(videos, "video_seconds"),
        id_of=id_of,
        new_ids=id_of[in_index.height :],
        position_of=position_of,
        popular=order_by_count(counts, in_index),
        last_day=order_by_count(last_day, in_index),
        near=CoWatched.from_frame(near, videos=spec.videos),
    )


def _with_ids(candidates: pl.DataFrame, videos: int) -> pl.DataFrame:
    """Return the candidates with ids from `videos` + 1 on, in their order, for those that have none."""
    without = pl.col("id").is_null()
    return candidates.with_columns(pl.when(without).then(videos + without.cum_sum()).otherwise("id").alias("id"))


def known_videos(counts: pl.DataFrame, further: pl.DataFrame, catalogue: str | None) -> pl.DataFrame:
    """Return video_id, id (null: out of vocabulary), upload_time and video_seconds (null: unknown) of all videos of a
    vocabulary (`COUNTS`) or of the catalogue at a path.

    further: video_id, id of videos that have an id and are not in the vocabulary.
    """
    ids = counts.select(video_id="token", id=pl.int_range(1, pl.len() + 1))
    ids = pl.concat([ids, further.select("video_id", pl.col("id").cast(pl.Int64))])
    if catalogue is None:
        unknown = {"upload_time": pl.lit(None, TIME), "video_seconds": pl.lit(None, pl.Float64)}
        return ids.with_columns(**unknown)
    columns = ["video_id", "upload_time", "video_seconds"]
    return ids.join(files.read_parquet(catalogue, columns), on="video_id", how="full", coalesce=True)


def measure_users(
    users: HeldOut, result: SearchResult, shared: Shared, inputs: HoldoutInputs
) -> Iterator[tuple[Key, Measured | VideoCounts]]:
    """Yield the contribution of a batch of users to each metric, by the keys of `night_metrics`."""
    ks, gate, drawn = inputs.cuts, gate_figure(inputs.search.k), weights(id_digests(users.user_ids).to_numpy())
    for system, top in _system_lists(users, result, shared, inputs.search):
        shown = _ids(top, shared)
        metrics = users.metrics(shown, ks)
        yield ("systems", system), Measured.from_users(metrics, drawn)
        yield ("shown", system), VideoCounts.from_ids(shown[shown > 0], videos=shared.videos_with_id)
        if system in SLICED:
            for (kind, value), rows in iterate_slices(users.kinds):
                yield ("slices", kind, value, system), Measured.from_users(metrics.select(rows), drawn[rows], [gate])
            for upload in sorted(set(users.labels["upload"])):
                part = users.metrics(shown, ks, pl.col("upload") == upload)
                yield ("slices", "upload", upload, system), Measured.from_users(part, drawn, [gate])
    if inputs.search.diversity:
        metrics = users.metrics(_ids(result.by_score, shared), ks)
        yield ("diversity", BY_SCORE), Measured.from_users(metrics, drawn)
    if inputs.search.new is not None:
        metrics = users.metrics(_ids(result.without_new, shared), ks)
        yield ("new_videos", WITHOUT_NEW), Measured.from_users(metrics, drawn)
        of_new = pl.col("id").is_in(shared.new_ids)
        yield ("new_videos", OF_NEW), Measured.from_users(users.metrics(_ids(result.top, shared), ks, of_new), drawn)
    yield ("shown", WATCHED), VideoCounts.from_ids(users.labels["id"].to_numpy(), videos=shared.videos_with_id)


def measure_ranked(
    users: HeldOut, ranked: pl.DataFrame, shared: Shared, inputs: HoldoutInputs
) -> Iterator[tuple[Key, Measured]]:
    """Yield the contribution of ranked lists to the metrics of `RANKING`, some users at a time.

    ranked: user_id, video_ids (best first), one row for each user, in the order of the users. The lists have the
    videos of the neighbours' lists, so that what does not depend on the order is not measured again.
    """
    for first, part in zip(range(0, ranked.height, USERS_AT_ONCE), ranked.iter_slices(USERS_AT_ONCE), strict=True):
        batch = users.batch(first, part.height)
        metrics = batch.metrics(_vocabulary_ids(part["video_ids"], shared, inputs.search.k), inputs.cuts)
        yield ("systems", RANKING), Measured.from_users(metrics, weights(id_digests(batch.user_ids).to_numpy()))


def _vocabulary_ids(lists: pl.Series, shared: Shared, k: int) -> NDArray[np.int64]:
    """Return the vocabulary ids of lists of videos, [lists, k], padded with -1."""
    places = (
        pl.DataFrame({"video_id": lists})
        .with_row_index("row")
        .with_columns(rank=pl.int_ranges(pl.col("video_id").list.len()))
    )
    found = places.explode("video_id", "rank", empty_as_null=False).join(shared.videos, on="video_id").drop_nulls("id")
    ids = np.full((len(lists), k), -1, np.int64)
    ids[found["row"].to_numpy(), found["rank"].to_numpy()] = found["id"].to_numpy()
    return ids


def measure_ann_loss(
    users: HeldOut, result: SearchResult, rows: NDArray[np.int64], shared: Shared, inputs: SearchInputs
) -> Iterator[tuple[Key, Measured]]:
    """Yield the contribution of some users of a batch to the metrics of `ann_loss`: of the lists in order of scores."""
    ks, drawn = metric_cuts(inputs.k), weights(id_digests(users.user_ids).to_numpy())[rows]
    true = exact_lists(
        inputs.index, result.vectors[rows], result.excluded.select(rows), read_index_rules(inputs).cap, k=inputs.k
    )
    approximate = _ids(result.by_model, shared)
    exact = np.full(approximate.shape, -1, np.int64)
    exact[rows] = _ids(true, shared)
    for system, shown in ((NEIGHBOURS, approximate), (EXACT_SEARCH, exact)):
        yield (
            ("ann_loss", system),
            Measured.from_users(users.metrics(shown, ks).select(rows), drawn, [gate_figure(inputs.k)]),
        )
    wanted = (exact[rows] > 0).sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(wanted)])
    hits = hits_from_ids(approximate[rows], offsets=offsets, labels=exact[rows][exact[rows] > 0])
    yield (
        ("ann_loss", OVERLAP),
        Measured.from_users(UserMetrics.from_hits(hits, wanted, ks=ks), drawn, [gate_figure(inputs.k)]),
    )


def _system_lists(
    users: HeldOut, result: SearchResult, shared: Shared, inputs: SearchInputs
) -> Iterator[tuple[str, Candidates]]:
    b, n = len(result.user_ids), len(shared.popular)
    rules = build_query_rules(result.excluded, read_index_rules(inputs).cap, b, n)
    yield NEIGHBOURS, result.top
    popular = lists_in_order(shared.popular, rules, k=inputs.k)
    yield MOST_POPULAR, popular
    yield LAST_DAY, lists_in_order(shared.last_day, rules, k=inputs.k)
    near = shared.near.candidates(users.recent, users=b, position_of=shared.position_of, fallback=popular.positions)
    yield ITEM_TO_ITEM, rules.first_allowed(near, inputs.k)


def _ids(top: Candidates, shared: Shared) -> NDArray[np.int64]:
    """Return the vocabulary ids of lists, [users, k], padded with -1."""
    return np.where(top.positions >= 0, shared.id_of[top.positions], -1)
