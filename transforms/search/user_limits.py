"""The limits of the users of a bucket, and the inputs of the search that all buckets share.

Serving and evaluation apply `[neighbours] exclude`, `[logs] hidden`, countries and channels through this module, so
that they use the same rules.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core import files
from transforms.core.threads import process_cache
from transforms.logs import countries
from transforms.logs.event_window import BucketFiles, Window, read_hidden, read_users
from transforms.logs.schemas import WATCH_SCHEMA
from transforms.search.diversity import CANDIDATES_PER_PLACE, VideoVectors, diversify, first
from transforms.search.exact_search import Candidates
from transforms.search.exclusions import Excluded
from transforms.search.index_files import read_videos
from transforms.search.serving_rules import RULE_COLUMNS, ServingRules, build_serving_rules
from transforms.search.top_k import Index, top_k
from transforms.search.watched_videos import Exclude, WatchedVideos, read_watched


@dataclass(frozen=True, kw_only=True)
class SearchInputs:
    """The inputs that all buckets share: paths of the tower and the index, and the rules."""

    tower: str
    index: tuple[str, ...]  # folders of the candidates' index, one per shard
    videos: str  # path of its `VIDEOS`
    k: int
    exclude: Exclude
    watched_window: Window  # of the watches that `exclude` applies to
    window: Window  # of the watches that determine a user's country
    catalogue: str | None = None
    max_share_per_channel: float = 1.0
    diversity: float = 0.0  # in [0, 1): `diversity.diversify`
    as_of: dt.datetime | None = None  # videos uploaded from then on are not shown

    @property
    def depth(self) -> int:
        """The number of videos to search for: k, or more if lists are re-ranked for diversity."""
        return self.k * CANDIDATES_PER_PLACE if self.diversity else self.k


@dataclass(frozen=True, kw_only=True)
class BucketRecords:
    """A bucket's files of the window, and its record file ("" if the bucket has no users to serve)."""

    files: BucketFiles
    records: str
    watched: tuple[str, ...] = ()  # store files with its watches of `watched_window`
    defaults: bool = False  # records of the default lists, whose ids are countries ("": any)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The search results of a batch of users, and their exclusions."""

    user_ids: list[str]
    vectors: NDArray[np.float32]  # [b, dimension + 1]: [u; 1]
    excluded: Excluded
    top: Candidates
    by_score: Candidates  # the k best by score; those of `top` unless lists are re-ranked for diversity

    @classmethod
    def from_candidates(
        cls,
        candidates: Candidates,
        vectors_by_position: VideoVectors,
        inputs: SearchInputs,
        *,
        user_ids: list[str],
        vectors: NDArray[np.float32],
        excluded: Excluded,
    ) -> SearchResult:
        """Return the lists of a batch of users from their candidates [b, inputs.depth]."""
        by_score = first(candidates, inputs.k)
        top = by_score
        if inputs.diversity:
            top = diversify(candidates, vectors_by_position, k=inputs.k, diversity=inputs.diversity)
        return cls(user_ids=user_ids, vectors=vectors, excluded=excluded, top=top, by_score=by_score)


@process_cache
def read_rules(inputs: SearchInputs) -> ServingRules:
    """Return the rules of all positions, built once per process."""
    videos = read_videos(inputs.videos)
    catalogue = files.read_parquet(inputs.catalogue, list(RULE_COLUMNS)) if inputs.catalogue else None
    rules = build_serving_rules(videos, catalogue, k=inputs.k, max_share_per_channel=inputs.max_share_per_channel)
    if inputs.as_of is None:
        return rules
    return rules.hide((videos["upload_time"] >= inputs.as_of).fill_null(False).to_numpy())


@dataclass(frozen=True, kw_only=True)
class UserLimits:
    """The rules and exclusions of the users of one bucket, for an index or one of its shards."""

    rules: ServingRules
    watched: WatchedVideos
    countries: pl.DataFrame | None  # user_id, country; None: the user ids are countries

    @classmethod
    def from_bucket(
        cls, bucket: BucketRecords, inputs: SearchInputs, shard: NDArray[np.int64] | None = None
    ) -> UserLimits:
        """Return the limits of a bucket's users. shard: positions of the shard's rows; None: the whole index."""
        videos, rules = read_videos(inputs.videos).select("video_id", "position"), read_rules(inputs)
        if shard is not None:
            rows = pl.int_range(pl.len(), dtype=pl.Int32).alias("position")
            videos, rules = videos[shard].select("video_id", rows), rules.select(shard)
        hidden = read_hidden(bucket.files)
        return cls(
            rules=rules,
            watched=read_watched(inputs.watched_window, bucket.watched, inputs.exclude, hidden, videos),
            countries=None if bucket.defaults else _countries(bucket.files, inputs.window, rules),
        )

    def excluded(self, user_ids: list[str]) -> Excluded:
        """Return the exclusions of a batch of users."""
        excluded = replace(self.watched.for_users(user_ids), hidden=self.rules.hidden)
        if not self.rules.by_country:
            return excluded
        users = pl.DataFrame({"user_id": user_ids}, schema={"user_id": pl.String})
        if self.countries is None:
            user_countries = users.select(countries.country_code(pl.col("user_id"))).to_series()
        else:
            user_countries = users.join(self.countries, on="user_id", how="left", maintain_order="left")["country"]
        return replace(excluded, group=self.rules.groups(user_countries.to_list()))

    def candidates(self, index: Index, vectors: NDArray[np.float32], excluded: Excluded, k: int) -> Candidates:
        """Search an index for the k best allowed videos of a batch of users. vectors: [b, dimension + 1]."""
        return top_k(index, vectors, k=k, excluded=excluded, cap=self.rules.cap)


def _countries(bucket: BucketFiles, window: Window, rules: ServingRules) -> pl.DataFrame:
    columns = ("user_id", "time", "country")
    watches = window.read_events(bucket.watches if rules.by_country else (), WATCH_SCHEMA, columns)
    return countries.last_known_countries(watches, read_users(bucket))
