"""The lists of users from their candidates: with transitions added, re-ranked for diversity, and with places reserved
for new videos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.search.diversity import VideoVectors, diversify, first
from transforms.search.exact_search import Candidates, ExactIndex, Floats
from transforms.search.exclusions import Excluded
from transforms.search.index_files import read_videos, to_matrix
from transforms.search.new_videos import insert_new, read_new_videos
from transforms.search.top_k import top_k
from transforms.search.tower import UserBatch
from transforms.search.transitions import add_transitions, read_transitions
from transforms.search.user_limits import BucketRecords, SearchInputs, UserLimits, read_candidates


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The search results of a batch of users, and their exclusions. Positions are those of `read_candidates`."""

    user_ids: list[str]
    vectors: Floats  # [b, dimension + 1]: [u; 1]
    excluded: Excluded  # of the positions of the index
    top: Candidates  # the lists
    without_new: Candidates  # the lists without places for new videos
    by_score: Candidates  # the k best by score: `without_new` before it is re-ranked for diversity
    by_model: Candidates  # the k best of the index by the model's scores: `by_score` before transitions are added


@dataclass(frozen=True, kw_only=True)
class UserLists:
    """Builds the lists of the users of one bucket."""

    inputs: SearchInputs
    limits: UserLimits  # for the positions of the index
    new: NewSearch | None  # None: no place is reserved

    @classmethod
    def from_bucket(cls, bucket: BucketRecords, inputs: SearchInputs) -> UserLists:
        """Read the limits of a bucket's users."""
        limits, in_index = UserLimits.from_bucket(bucket, inputs), read_videos(inputs.videos).height
        candidates = read_candidates(inputs).height
        if candidates == in_index:
            return cls(inputs=inputs, limits=limits, new=None)
        new = NewSearch.from_limits(limits, inputs, np.arange(in_index, candidates))
        return cls(inputs=inputs, limits=limits.select(np.arange(in_index)), new=new)

    def build(
        self,
        candidates: Candidates,
        video_vectors: VideoVectors,
        *,
        users: UserBatch,
        excluded: Excluded,
    ) -> SearchResult:
        """Return the lists of a batch of users from their candidates in the index, [b, inputs.depth]. excluded: their
        exclusions, as `limits` has them."""
        k, diversity, source = self.inputs.k, self.inputs.diversity, self.inputs.transitions
        by_model = first(candidates, k)
        if source is not None:
            cap, transitions = self.limits.rules.cap, read_transitions(source)
            candidates = add_transitions(candidates, users, transitions, video_vectors, excluded=excluded, cap=cap)
        without_new = by_score = first(candidates, k)
        if diversity:
            trends = self.inputs.trends
            without_new = diversify(candidates, video_vectors, k=k, diversity=diversity, trends=trends)
        return SearchResult(
            user_ids=users.user_ids,
            vectors=users.vectors,
            excluded=excluded,
            top=self.new.insert(without_new, users) if self.new else without_new,
            without_new=without_new,
            by_score=by_score,
            by_model=by_model,
        )


@dataclass(frozen=True, kw_only=True)
class NewSearch:
    """The search for the new videos of the users of one bucket: exact, because few videos are new."""

    inputs: SearchInputs
    limits: UserLimits  # for the new videos
    index: ExactIndex  # of the new videos
    all_limits: UserLimits  # for all candidates

    @classmethod
    def from_limits(cls, limits: UserLimits, inputs: SearchInputs, positions: NDArray[np.int64]) -> NewSearch | None:
        """Return the search under the limits for all candidates; None if a list of k has no reserved place."""
        assert inputs.new is not None
        if not inputs.new.places(inputs.k):
            return None
        index = ExactIndex(vectors=to_matrix(read_new_videos(inputs.new)["vector"]))
        return cls(inputs=inputs, limits=limits.select(positions), index=index, all_limits=limits)

    def insert(self, ordinary: Candidates, users: UserBatch) -> Candidates:
        """Return the lists [b, k] of a batch of users in which their best new videos have the reserved places."""
        new, k = self.inputs.new, self.inputs.k
        assert new is not None
        found = top_k(
            self.index,
            users.vectors,
            k=new.places(k),
            excluded=self.limits.excluded(users.user_ids),
            cap=self.limits.rules.cap,
        )
        shift = np.int32(read_videos(self.inputs.videos).height)
        positions = np.where(found.positions >= 0, found.positions + shift, np.int32(-1))
        placed = Candidates(positions=positions, scores=found.scores)
        return insert_new(ordinary, placed, k=k, share=new.share, cap=self.all_limits.rules.cap)
