"""What the users of a bucket must not be shown, and the inputs of the search that all buckets share.

`[neighbours] exclude`, `[logs] hidden`, countries, channels: serving and evaluation take them from here, so they cannot
differ.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core import files
from transforms.core.threads import process_cache
from transforms.logs import countries
from transforms.logs.event_window import BucketFiles, Window, read_hidden, read_users
from transforms.logs.schemas import WATCH_SCHEMA
from transforms.search.index_files import read_videos
from transforms.search.serving_rules import RULED, ServingRules, rules_of
from transforms.search.top_k import Excluded, Index, TopK, top_k
from transforms.search.watched_videos import Exclude, Seen, read_seen


@dataclass(frozen=True, kw_only=True)
class SearchInputs:
    """Where the parts lie that all buckets share, and the rules."""

    tower: str
    index: tuple[str, ...]  # folders of the candidates' index, one a shard
    videos: str  # path of its `VIDEOS`
    k: int
    exclude: Exclude
    seen: Window  # the watches that count as had
    window: Window  # the watches that say where a user is
    catalogue: str | None = None
    max_share_per_channel: float = 1.0
    as_of: dt.datetime | None = None  # what was uploaded from then on is not shown


@dataclass(frozen=True, kw_only=True)
class BucketRecords:
    """A bucket's files of the window and its record file, "" where the bucket has no user to serve."""

    files: BucketFiles
    records: str
    seen: tuple[str, ...] = ()  # files of its watches that may count as had
    defaults: bool = False  # the records are of nobody: their ids are countries, "" for any


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What was found for a batch of users, and what was left out for them."""

    user_ids: list[str]
    vectors: NDArray[np.float32]  # [b, dimension + 1]: [u; 1]
    excluded: Excluded
    top: TopK


@process_cache
def read_rules(inputs: SearchInputs) -> ServingRules:
    """The rules of all positions, once a process."""
    videos = read_videos(inputs.videos)
    catalogue = files.read_parquet(inputs.catalogue, list(RULED)) if inputs.catalogue else None
    rules = rules_of(videos, catalogue, k=inputs.k, max_share_per_channel=inputs.max_share_per_channel)
    if inputs.as_of is None:
        return rules
    return rules.without((videos["upload_time"] >= inputs.as_of).fill_null(False).to_numpy())


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the users of one bucket must not be shown, in an index or in one of its shards."""

    rules: ServingRules
    seen: Seen
    countries: pl.DataFrame | None  # user_id, country; None: the ids are the countries

    @classmethod
    def of(cls, bucket: BucketRecords, inputs: SearchInputs, shard: NDArray[np.int64] | None = None) -> Limits:
        """shard: the positions of its rows."""
        videos, rules = read_videos(inputs.videos).select("video_id", "position"), read_rules(inputs)
        if shard is not None:
            rows = pl.int_range(pl.len(), dtype=pl.Int32).alias("position")
            videos, rules = videos[shard].select("video_id", rows), rules.part(shard)
        hidden = read_hidden(bucket.files)
        return cls(
            rules=rules,
            seen=read_seen(inputs.seen, bucket.seen, inputs.exclude, hidden, videos),
            countries=None if bucket.defaults else _countries(bucket.files, inputs.window, rules),
        )

    def excluded(self, user_ids: list[str]) -> Excluded:
        """Of a batch of users."""
        offsets, positions = self.seen.of_users(user_ids)
        if not self.rules.by_country:
            return Excluded(offsets=offsets, positions=positions, hidden=self.rules.hidden)
        asked = pl.DataFrame({"user_id": user_ids}, schema={"user_id": pl.String})
        if self.countries is None:
            known = asked.select(countries.code(pl.col("user_id"))).to_series()
        else:
            known = asked.join(self.countries, on="user_id", how="left", maintain_order="left")["country"]
        group = self.rules.groups(known.to_list())
        return Excluded(offsets=offsets, positions=positions, hidden=self.rules.hidden, group=group)

    def search(self, index: Index, user_ids: list[str], vectors: NDArray[np.float32], k: int) -> SearchResult:
        excluded = self.excluded(user_ids)
        top = top_k(index, vectors, k=k, excluded=excluded, cap=self.rules.cap)
        return SearchResult(user_ids=user_ids, vectors=vectors, excluded=excluded, top=top)


def _countries(bucket: BucketFiles, window: Window, rules: ServingRules) -> pl.DataFrame:
    watches = window.unordered(bucket.watches if rules.by_country else (), WATCH_SCHEMA, ("user_id", "time", "country"))
    return countries.last_known(watches, read_users(bucket))
