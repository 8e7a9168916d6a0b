"""What a ranking record holds: the contract between the steps that write them, the ranker's trainer and the scoring.

Imports nothing but the standard library and numpy, so the trainer may use it without Beam or polars.

One `tf.train.Example` a user, of all their impressions in order of (first moment of the page, page, time, video): lists
marked [p] have one value an impression. Features are as of the page's first moment, `impression_day` is of the
impression's own time. Numbers are raw, in their own units; what the ranker reads is made of them inside the ranker, by
TFT's graph (transforms/ranking/encoding.py), so training and serving cannot differ.

| feature        | type      | what                                                                                |
|----------------|-----------|-------------------------------------------------------------------------------------|
| user_id        | bytes [1] | the user                                                                            |
| watches        | int64 [n] | all watches, oldest first, ids of the ranker's videos; 0: out of vocabulary         |
| watches_end    | int64 [p] | how many of `watches` are strictly before the page: the input is the last of those  |
| tokens         | int64 [m] | search tokens, oldest first, ids from 1; absent without searches (`tokens` is 0)    |
| tokens_end     | int64 [p] | the same for `tokens`                                                               |
| video          | int64 [p] | the video shown, ids of the ranker's videos from 1; 0: out of vocabulary            |
| channel        | int64 [p] | its channel, ids from 1; 0: rare or unknown. Absent where `channels` is 0           |
| a category     | int64 [p] | 1 + index into the category's values; 0: missing or unknown                         |
| a number       | float [p] | raw, NaN: not known                                                                 |
| clicked        | int64 [p] | 1 or 0                                                                              |
| watch_seconds  | float [p] | watched after the click; 0 where not clicked                                        |
| page           | int64 [p] | which impressions were seen together: from 0 in the user's order                    |
| impression_day | int64 [p] | days since 1970-01-01                                                               |

What is scored has the same features without labels: those of the query once a user, those of the impression once a
candidate, see `trainer.ranker.export`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

# Numbers the project knows how to make, what they are of, and their units. A record has those its spec names.
NUMBERS = {
    "score": "the generator's u.v + b of the newest night before the impression",
    "rank": "place in that night's list, from 1; missing where it is not in the list",
    "similarity_last": "cosine of that night's vectors of the video and of the last video watched",
    "similarity_history": "cosine with the mean vector of the last watches",
    "video_watches": "the user's earlier watches of this video",
    "seconds_since_video": "since the last of them",
    "channel_watches": "the user's earlier watches of this channel",
    "seconds_since_channel": "since the last of them",
    "video_unclicked": "the user's earlier impressions of this video without a click",
    "channel_unclicked": "the user's earlier impressions of this channel without a click",
    "seconds_since_impression": "since the user was last shown this video",
    "video_age_seconds": "since its upload",
    "video_seconds": "its length",
    "user_watches": "the user's earlier watches",
    "user_mean_watch_seconds": "mean seconds of those",
    "age": "years since the user's year of birth",
}
# Of the user at the moment of the request, so the same for all that is shown on a page or scored in one go.
QUERY_FEATURES = ("user_watches", "user_mean_watch_seconds", "age", "device", "country", "gender", "language", "hour")


@dataclass(frozen=True, kw_only=True)
class RankingSpec:
    """Which features the records of one night have, and how large their id spaces are.

    What the logs do not have is absent here and from the records: the ranker shrinks, nothing is filled in.
    """

    videos: int  # rows of the ranker's video vocabulary: ids 1..videos
    channels: int = 0  # 0: no channels
    tokens: int = 0  # rows of the search vocabulary; 0: no searches
    watch_history: int = 50  # most recent watches in the input
    search_history: int = 50  # most recent search tokens in the input
    categories: dict[str, list[str]] = field(default_factory=dict)  # name -> values, most frequent first
    numbers: list[str] = field(default_factory=list)
    query: list[str] = field(default_factory=lambda: list(QUERY_FEATURES))  # of the categories and numbers: the query's

    @property
    def query_categories(self) -> list[str]:
        return [name for name in self.categories if name in self.query]

    @property
    def query_numbers(self) -> list[str]:
        return [name for name in self.numbers if name in self.query]

    @property
    def impression_categories(self) -> list[str]:
        return [name for name in self.categories if name not in self.query]

    @property
    def impression_numbers(self) -> list[str]:
        return [name for name in self.numbers if name not in self.query]

    @property
    def query_features(self) -> list[str]:
        """All that the query has, in the ranker's order: once a user."""
        histories = ["watches", *(["tokens"] if self.tokens else [])]
        return [*histories, *self.query_categories, *self.query_numbers]

    @property
    def impression_features(self) -> list[str]:
        """All that an impression has, in the ranker's order: once a candidate."""
        ids = ["video", *(["channel"] if self.channels else [])]
        return [*ids, *self.impression_categories, *self.impression_numbers]

    @property
    def features(self) -> list[str]:
        """All that the ranker reads: the order of `moves`, what each feature changed of a prediction."""
        return [*self.query_features, *self.impression_features]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> RankingSpec:
        return cls(**json.loads(text))
