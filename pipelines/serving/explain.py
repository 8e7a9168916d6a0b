"""Explain the order of a user's ranked videos: the features with the largest effect on the expected watch time.

Computed for one user from the night's files: the store, the lists before ranking, and the ranker.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipelines import ranking
from pipelines.night import publication_file, sink_protocol, store_cleanup
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from transforms.core import files
from transforms.core.digests import bucket_of
from transforms.ranking.rank_lists import explain_candidates, score_lists
from transforms.ranking.ranker import load_ranker
from transforms.search.neighbours import LISTS

MOST = 3  # features per video


@dataclass(frozen=True, kw_only=True)
class FeatureEffect:
    """The effect of one feature on the expected watch time of one video."""

    feature: str
    times: float  # expected seconds, relative to those with the feature's mean value


def feature_effects(night: Night, kept_as: str) -> dict[str, list[FeatureEffect]]:
    """Return, for each ranked video of a user's list, the features with the largest effects, strongest first.

    kept_as: the user id as it is stored. Raises StageError if the night was not ranked, or if its events were removed.
    """
    if sink_protocol.served_stage(night) != publication_file.RANKING:
        raise StageError(f"the night of {night.date} was not ranked, so --why cannot explain the order of its lists")
    number = store_cleanup.snapshot_of(night.root, night.date)
    if number is None or not store_cleanup.snapshot_exists(night.root, number):
        raise StageError(
            f"the store no longer has the events of the night of {night.date}: run a new night, then use --why"
        )
    spec = ranking.spec_of_night(night)
    bucket = ranking.ranking_buckets(night)[bucket_of(kept_as, night.ingested.snapshot.buckets)]
    lists = pl.concat([files.read_parquet(path, LISTS.names()) for path in bucket.lists]).filter(user_id=kept_as)
    ranked = ranking.list_ranking(night)
    ranker = load_ranker(ranked.ranker)
    events = ranked.inputs.window.events_with_impressions(bucket.files)
    events = events.of_users(pl.Series([kept_as], dtype=events.watches.schema["user_id"]))
    found = dict[str, list[FeatureEffect]]()
    for _, scored in score_lists(lists, bucket, events, ranked):
        moves = explain_candidates(scored, ranker)
        strongest = np.argsort(-np.abs(moves), axis=1, kind="stable")[:, :MOST]
        for row, video in enumerate(scored.encoded.shown["video_id"]):
            moved = ((spec.features[at], float(np.exp(moves[row, at]))) for at in strongest[row])
            found[video] = [FeatureEffect(feature=feature, times=times) for feature, times in moved]
    return found
