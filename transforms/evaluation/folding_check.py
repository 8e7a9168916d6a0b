"""Folding: unrelated videos whose vectors are near each other.

Training pulls the videos of the same users together, and pushes apart only sampled negatives. Groups without common
watchers may therefore overlap by accident ("folding" in Google's course on recommendation systems), and users of one
group are then shown videos of the other. For a sample of videos, a pair of similar videos counts as *folded* if no user
of the window watched both and they differ in country or topic. For comparison, the same videos are paired at random.

files of similar videos -> draw_videos -> sample_pairs -------+
bucket files            -> collect_evidence -> merge_evidence +-> folding_counts
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core import files, progress
from transforms.core.digests import concat, id_digests, mix
from transforms.logs.event_window import BucketFiles, Window, read_users

Ints = NDArray[np.int64]
MOST_VIDEOS = 2_000
KINDS = SIMILAR, RANDOM = ("similar", "random")

_DRAWN = pl.Schema({"video_id": pl.String(), "video_ids": pl.List(pl.String())})
_WATCHERS = pl.Schema({"video_id": pl.String(), "country": pl.String(), "users": pl.Int64()})
_WATCHES, _SEARCHES = ("user_id", "time", "video_id", "country"), ("user_id", "time")  # columns of the events
_DRAW_OF_VIDEOS = 0x666F6C64696E67  # "folding"
_FIRST_WATCHERS, _LOOKUPS_AT_ONCE = 4, 1 << 20


def draw_videos(parts: Iterable[pl.DataFrame], most: int = MOST_VIDEOS) -> pl.DataFrame:
    """Return video_id, video_ids of the `most` videos with the smallest digests, by video_id.

    parts: video_id (in one part only), video_ids (similar videos). Results for parts can be parts again.
    """
    rows = concat([pl.DataFrame(schema=_DRAWN), *(part.select(_DRAWN.names()) for part in parts)])
    digests = mix(_DRAW_OF_VIDEOS, id_digests(rows["video_id"]).to_numpy())
    return rows[np.argsort(digests)[:most]].sort("video_id")


def sample_pairs(drawn: pl.DataFrame) -> pl.DataFrame:
    """Return video_id, other_id, kind: the pairs of each drawn video with its similar ones (`SIMILAR`), and the same
    pairs with the other videos shuffled (`RANDOM`), without pairs of a video with itself."""
    near = drawn.explode("video_ids", empty_as_null=False, keep_nulls=False).rename({"video_ids": "other_id"})
    shuffled = np.random.default_rng(_DRAW_OF_VIDEOS).permutation(near.height)
    far = near.with_columns(near["other_id"].gather(shuffled)).filter(pl.col("video_id") != pl.col("other_id"))
    return pl.concat([near.with_columns(kind=pl.lit(SIMILAR)), far.with_columns(kind=pl.lit(RANDOM))])


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Statistics of the pairs in some buckets. Each user is in one bucket, so the counts of several add up."""

    together: NDArray[np.bool_]  # [pairs]: whether any user watched both
    watchers: pl.DataFrame  # video_id, country, users: number of watchers of each video of the pairs by country


def collect_evidence(watches: pl.DataFrame, users: pl.DataFrame, pairs: pl.DataFrame) -> Evidence:
    """Return the evidence of one bucket.

    watches: user_id, video_id, country. users: user_id and, if the table has it, country, the default for watches
    without a country. pairs: `sample_pairs`.
    """
    of_pairs = watches.join(_involved(pairs), on="video_id", how="semi")
    if "country" in users.columns:
        homes = users.select("user_id", home="country")
        of_pairs = of_pairs.join(homes, on="user_id", how="left").with_columns(country=pl.coalesce("country", "home"))
    by_country = of_pairs.select("user_id", "video_id", "country").drop_nulls().unique()
    counted = by_country.group_by("video_id", "country").agg(users=pl.len().cast(pl.Int64))
    return Evidence(together=watched_together(of_pairs, pairs), watchers=counted.match_to_schema(_WATCHERS))


def watched_together(watches: pl.DataFrame, pairs: pl.DataFrame) -> NDArray[np.bool_]:
    """Return for each pair (video_id, other_id) whether any user watched both: bool [pairs].

    watches: user_id, video_id, in any order, repeats allowed.

    The watchers of a pair's rarer video are looked up among those of the other, a few at first and then more and more:
    for most pairs with a common watcher a few suffice. There is at most one look-up per pair and watcher of its rarer
    video.
    """
    videos = _involved(pairs).with_row_index("number")
    watchers = VideoWatchers.from_watches(watches, videos)
    counts, found = watchers.counts, np.zeros(pairs.height, np.bool_)
    rarer, other = rarer_first(_numbers(pairs["video_id"], videos), _numbers(pairs["other_id"], videos), counts)
    pending, done, size = np.flatnonzero(counts[rarer] > 0), 0, _FIRST_WATCHERS
    while len(pending):
        for part in np.array_split(pending, -(-len(pending) * size // _LOOKUPS_AT_ONCE)):
            looked_up = np.minimum(counts[rarer[part]] - done, size)
            pair = np.repeat(part, looked_up)
            rank = np.arange(len(pair)) - np.repeat(np.cumsum(looked_up) - looked_up, looked_up) + done
            common = watchers.contain(other[pair], watchers.users_at(rarer[pair], rank))
            found[pair[common]] = True
        done, size = done + size, min(4 * size, _LOOKUPS_AT_ONCE)
        pending = pending[~found[pending] & (counts[rarer[pending]] > done)]
    return found


@dataclass(frozen=True, kw_only=True)
class VideoWatchers:
    """The users who watched each of some videos; videos and users are numbered from 0."""

    keys: Ints  # video * users + user of each watcher of a video, distinct and ascending
    first: Ints  # [videos + 1]: index of the first watcher of each video in `keys`
    users: int

    @classmethod
    def from_watches(cls, watches: pl.DataFrame, videos: pl.DataFrame) -> VideoWatchers:
        """Build it from user_id, video_id in any order, repeats allowed. videos: video_id, number (from 0)."""
        users = watches.select(pl.col("user_id").unique()).with_row_index("user")
        watched = watches.join(videos, on="video_id").join(users, on="user_id")
        keys = np.unique(watched["number"].to_numpy().astype(np.int64) * users.height + watched["user"].to_numpy())
        first = np.searchsorted(keys, np.arange(videos.height + 1) * users.height)
        return cls(keys=keys, first=first, users=users.height)

    @property
    def counts(self) -> Ints:
        """The number of users who watched each video: [videos]."""
        return np.diff(self.first)

    def users_at(self, videos: Ints, rank: Ints) -> Ints:
        """Return the watcher at each rank (from 0, below the video's count) among the watchers of a video."""
        return self.keys[self.first[videos] + rank] % self.users

    def contain(self, videos: Ints, users: Ints) -> NDArray[np.bool_]:
        """Return whether each user is a watcher of the video."""
        if not len(self.keys):
            return np.zeros(len(videos), np.bool_)
        wanted = videos * self.users + users
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.asarray(self.keys[place] == wanted)


def rarer_first(one: Ints, other: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Return the videos of each pair, the one with the smaller count first."""
    swapped = counts[one] > counts[other]
    return np.where(swapped, other, one), np.where(swapped, one, other)


def _involved(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return video_id of the distinct videos of the pairs."""
    return pl.concat([pairs["video_id"], pairs["other_id"].rename("video_id")]).unique().to_frame()


def _numbers(ids: pl.Series, videos: pl.DataFrame) -> NDArray[np.int64]:
    found = ids.to_frame("video_id").join(videos, on="video_id", how="left", maintain_order="left")
    return found["number"].to_numpy().astype(np.int64)


def merge_evidence(parts: Iterable[Evidence]) -> Evidence:
    """Return the evidence of several buckets together."""
    evidence = list(parts)
    watchers = concat([pl.DataFrame(schema=_WATCHERS), *(part.watchers for part in evidence)])
    return Evidence(
        together=np.logical_or.reduce([part.together for part in evidence]) if evidence else np.zeros(0, np.bool_),
        watchers=watchers.group_by("video_id", "country").agg(pl.col("users").sum()),
    )


def home_countries(watchers: pl.DataFrame) -> pl.DataFrame:
    """Return video_id, country: the most frequent country of a video's watchers, the first by name among equals."""
    ordered = watchers.sort(["users", "country"], descending=[True, False])
    return ordered.unique("video_id", keep="first", maintain_order=True).select("video_id", "country")


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """The number of pairs of one kind, and of those with each property."""

    apart: int  # no user watched both
    folded: int  # apart, and different in country or topic
    other_country: int
    other_topic: int
    pairs: int


@dataclass(frozen=True, kw_only=True)
class FoldingCounts:
    """The number of drawn videos, and their pairs with similar and with random videos."""

    random: PairCounts
    similar: PairCounts
    videos: int


def folding_counts(pairs: pl.DataFrame, evidence: Evidence, catalogue: pl.DataFrame) -> FoldingCounts:
    """Count the pairs of each kind.

    catalogue: video_id, channel, language. Topics are compared by channel if both videos have one, else by language.
    An unknown country or topic does not count as different.
    """
    known = catalogue.join(home_countries(evidence.watchers), on="video_id", how="full", coalesce=True)
    rows = pairs.with_columns(apart=pl.Series(~evidence.together, dtype=pl.Boolean))
    for side, suffix in (("video_id", ""), ("other_id", "_of_other")):
        named = known.rename({name: f"{name}{suffix}" for name in ("channel", "language", "country")})
        rows = rows.join(named, left_on=side, right_on="video_id", how="left", maintain_order="left")
    other = {name: pl.col(name) != pl.col(f"{name}_of_other") for name in ("channel", "language", "country")}
    rows = rows.with_columns(
        other_country=other["country"].fill_null(False),
        other_topic=pl.coalesce(other["channel"], other["language"], pl.lit(False)),
    ).with_columns(folded=pl.col("apart") & (pl.col("other_country") | pl.col("other_topic")))
    similar, random = (_pair_counts(rows.filter(kind=kind)) for kind in KINDS)
    return FoldingCounts(videos=pairs["video_id"].n_unique(), similar=similar, random=random)


def _pair_counts(rows: pl.DataFrame) -> PairCounts:
    sums = {name: int(rows[name].sum()) for name in ("apart", "other_country", "other_topic", "folded")}
    return PairCounts(pairs=rows.height, **sums)


@dataclass
class CheckFolding(beam.PTransform):
    """Return one `FoldingCounts` from a collection of paths of files of similar videos, and one of `BucketFiles`."""

    window: Window
    catalogue: str | None  # path of the night's catalogue

    def expand(
        self, inputs: tuple[beam.PCollection[str], beam.PCollection[BucketFiles]]
    ) -> beam.PCollection[FoldingCounts]:
        similar, buckets = inputs
        drawn = similar | "ReadSimilar" >> beam.Map(_read_drawn).with_output_types(pl.DataFrame)
        one = drawn | "DrawVideos" >> beam.CombineGlobally(draw_videos).with_output_types(pl.DataFrame)
        pairs = beam.pvalue.AsSingleton(one | "Pairs" >> beam.Map(sample_pairs).with_output_types(pl.DataFrame))
        evidence = buckets | beam.Reshuffle() | "Evidence" >> beam.Map(self._evidence, pairs=pairs)
        merged = evidence | "Merge" >> beam.CombineGlobally(merge_evidence)
        return merged | "Count" >> beam.Map(self._count, pairs=pairs)

    def _evidence(self, bucket: BucketFiles, pairs: pl.DataFrame) -> Evidence:
        watches = self.window.unordered_events(bucket, _WATCHES, _SEARCHES).watches
        progress.advance()
        return collect_evidence(watches, read_users(bucket), pairs)

    def _count(self, evidence: Evidence, pairs: pl.DataFrame) -> FoldingCounts:
        columns = ["video_id", "channel", "language"]
        known = pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
        if self.catalogue is not None:
            everything = files.read_parquet(self.catalogue, columns)
            known = everything.join(_involved(pairs), on="video_id", how="semi")
        return folding_counts(pairs, evidence, known)


def _read_drawn(path: str) -> pl.DataFrame:
    return draw_videos([files.read_parquet(path, _DRAWN.names())])
