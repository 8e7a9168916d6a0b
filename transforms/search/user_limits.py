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
from transforms.core.process_cache import process_cache
from transforms.logs import countries
from transforms.logs.event_window import BucketFiles, Window, read_hidden, read_users
from transforms.logs.schemas import WATCH_SCHEMA
from transforms.search.diversity import CANDIDATES_PER_PLACE
from transforms.search.exact_search import Candidates
from transforms.search.exclusions import Excluded
from transforms.search.index_files import read_videos
from transforms.search.new_videos import NewVideos, read_new_videos
from transforms.search.serving_rules import RULE_COLUMNS, ServingRules, build_serving_rules
from transforms.search.top_k import Index, top_k
from transforms.search.transitions import LEAST_CANDIDATES, TransitionSource
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
    trends: int = 0  # components of a video vector, before the bias, that are trends
    as_of: dt.datetime | None = None  # videos uploaded from then on are not shown
    new: NewVideos | None = None  # videos with reserved places; None: none
    transitions: TransitionSource | None = None  # None: none are added

    @property
    def depth(self) -> int:
        """The number of videos to search for: k, or more if transitions are added or lists are re-ranked for
        diversity."""
        depth = self.k * CANDIDATES_PER_PLACE if self.diversity else self.k
        return max(depth, LEAST_CANDIDATES) if self.transitions else depth


@dataclass(frozen=True, kw_only=True)
class BucketRecords:
    """A bucket's files of the window, and its record file ("" if the bucket has no users to serve)."""

    files: BucketFiles
    records: str
    watched: tuple[str, ...] = ()  # store files with its watches of `watched_window`
    defaults: bool = False  # records of the default lists, whose ids are countries ("": any)


@process_cache
def read_candidates(inputs: SearchInputs) -> pl.DataFrame:
    """Return position (Int32), video_id, id, upload_time of all candidates, read once per process: the videos of the
    index and, after them, the new videos. The id of a new video may be null."""
    videos = read_videos(inputs.videos)
    if inputs.new is None:
        return videos
    new = read_new_videos(inputs.new).with_row_index("position", videos.height)
    return pl.concat([videos, new.select(videos.columns).cast(videos.schema)])


@process_cache
def read_rules(inputs: SearchInputs) -> ServingRules:
    """Return the rules of all candidates, built once per process.

    From the index, videos uploaded since `as_of` are hidden, and those that are new, which have places of their own.
    """
    videos, in_index = read_candidates(inputs), read_videos(inputs.videos).height
    catalogue = files.read_parquet(inputs.catalogue, list(RULE_COLUMNS)) if inputs.catalogue else None
    rules = build_serving_rules(videos, catalogue, k=inputs.k, max_share_per_channel=inputs.max_share_per_channel)
    hidden = pl.lit(False)
    if inputs.as_of is not None:
        hidden |= (pl.col("upload_time") >= inputs.as_of).fill_null(False)
    if videos.height > in_index:
        hidden |= pl.col("video_id").is_in(videos["video_id"][in_index:].implode())
    return rules.hide(videos.select((pl.col("position") < in_index) & hidden).to_series().to_numpy())


@process_cache
def read_index_rules(inputs: SearchInputs) -> ServingRules:
    """Return the rules of the positions of the index, built once per process."""
    rules, in_index = read_rules(inputs), read_videos(inputs.videos).height
    return rules if in_index == read_candidates(inputs).height else rules.select(np.arange(in_index))


@dataclass(frozen=True, kw_only=True)
class UserLimits:
    """The rules and exclusions of the users of one bucket, for all candidates or for some of them."""

    rules: ServingRules
    watched: WatchedVideos
    countries: pl.DataFrame | None  # user_id, country; None: the user ids are countries

    @classmethod
    def from_bucket(
        cls, bucket: BucketRecords, inputs: SearchInputs, positions: NDArray[np.int64] | None = None
    ) -> UserLimits:
        """Return the limits of a bucket's users. positions: the candidates that count, such as those of a shard,
        renumbered from 0; None: all candidates."""
        videos, rules = read_candidates(inputs).select("video_id", "position"), read_rules(inputs)
        if positions is not None:
            rows = pl.int_range(pl.len(), dtype=pl.Int32).alias("position")
            videos, rules = videos[positions].select("video_id", rows), rules.select(positions)
        hidden = read_hidden(bucket.files)
        return cls(
            rules=rules,
            watched=read_watched(inputs.watched_window, bucket.watched, inputs.exclude, hidden, videos),
            countries=None if bucket.defaults else _countries(bucket.files, inputs.window, rules),
        )

    def select(self, positions: NDArray[np.int64]) -> UserLimits:
        """Return the limits for some positions (ascending), renumbered from 0."""
        return replace(self, rules=self.rules.select(positions), watched=self.watched.restrict(positions))

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
