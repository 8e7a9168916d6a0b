"""The format of ranking records, which steps of the pipeline write and which the ranker's training and scoring read.

Imports only the standard library and numpy, so that the trainer can use it without Beam and polars.

There is one `tf.train.Example` for each user, with all impressions in order of (first time of the page, page, time,
video). Lists marked [p] have one value for each impression. Features are as of the first time of the page;
`impression_day` is that of the impression itself. Numbers are raw, in their own units. The ranker encodes them with the
TFT graph (transforms/ranking/encoding.py), so that training and serving cannot differ.

| feature        | type      | what                                                                                |
|----------------|-----------|-------------------------------------------------------------------------------------|
| user_id        | bytes [1] | id of the user                                                                      |
| record_night   | int64 [1] | date of the night that wrote the record, days since 1970-01-01                      |
| watches        | int64 [n] | watches, oldest first, ids of the ranker's videos; 0: out of vocabulary. They begin |
|                |           | with the input of the first impression                                              |
| watches_end    | int64 [p] | number of `watches` strictly before the page; the input is the last of them         |
| tokens         | int64 [m] | search tokens, oldest first, ids from 1; absent without searches (`tokens` is 0)    |
| tokens_end     | int64 [p] | the same for `tokens`                                                               |
| video          | int64 [p] | the impression's video, ids of the ranker's videos from 1; 0: out of vocabulary     |
| channel        | int64 [p] | its channel, ids from 1; 0: rare or unknown. Absent if `channels` is 0              |
| a category     | int64 [p] | 1 + index into the category's values; 0: missing or unknown                         |
| a number       | float [p] | raw; NaN: unknown                                                                   |
| clicked        | int64 [p] | 1 or 0                                                                              |
| watch_seconds  | float [p] | seconds watched after the click; 0 without a click                                  |
| page           | int64 [p] | number of the page that the impression was on, from 0 for each user                 |
| impression_day | int64 [p] | days since 1970-01-01                                                               |
| impression_    | float [p] | how many impressions it stands for: 1 / the share of unclicked impressions that are |
| weight         |           | written, for an unclicked one; 1 for a clicked one, and in the holdout              |

Scoring requests have the same features without labels: those of the query once a user, and those of the impression once
a candidate; see `trainer.ranker.export`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

# The numbers that the product can compute, and what they are, in which unit. A record has those in its spec.
NUMBERS = {
    "score": "the generator's u.v + b of the newest night before the impression",
    "rank": "position in that night's list, from 1; missing if it is not in the list",
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
    "position": "place on the page, from 1; 1 for candidates and for held-out impressions",
    "video_impressions": "impressions of the video a day, of all users, on the days before the impression's",
    "video_click_rate": "clicks an impression of the video on those days, shrunk towards its channel's",
    "video_impression_seconds": "watch seconds an impression of the video, the same way",
    "video_click_seconds": "watch seconds a click, the same way",
    "video_completed_rate": "share of the clicks that were completed, the same way",
    "video_day_trend": "watch seconds an impression on the last day, divided by the long-run ones; 1: as usual",
    "video_week_trend": "the same for the last 7 days",
    "channel_click_rate": "clicks an impression of the channel's videos, shrunk towards those of all videos",
    "channel_impression_seconds": "watch seconds an impression, the same way",
    "country_impression_seconds": "watch seconds an impression of the video in the user's country, divided by those "
    "that the video and the country alone let expect",
    "device_impression_seconds": "the same for the user's device",
    "user_watches": "the user's earlier watches",
    "user_mean_watch_seconds": "mean seconds of those",
    "age": "years since the user's year of birth",
}
# Features of the user at the time of the request: equal for all impressions of a page and all candidates of a request.
QUERY_FEATURES = ("user_watches", "user_mean_watch_seconds", "age", "device", "country", "gender", "language", "hour")


@dataclass(frozen=True, kw_only=True)
class RankingSpec:
    """The features of the records of one night, and the sizes of their id spaces.

    A feature that the logs do not have is absent here and in the records. The ranker then has fewer inputs.
    """

    videos: int  # rows of the ranker's video vocabulary: ids 1..videos
    channels: int = 0  # 0: no channels
    tokens: int = 0  # rows of the search vocabulary; 0: no searches
    watch_history: int = 50  # most recent watches in the input
    search_history: int = 50  # most recent search tokens in the input
    categories: dict[str, list[str]] = field(default_factory=dict)  # name -> values, most frequent first
    numbers: list[str] = field(default_factory=list)
    # Those of the categories and numbers that belong to the query.
    query: list[str] = field(default_factory=lambda: list(QUERY_FEATURES))

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
        """The features of the query, in the ranker's order."""
        histories = ["watches", *(["tokens"] if self.tokens else [])]
        return [*histories, *self.query_categories, *self.query_numbers]

    @property
    def impression_features(self) -> list[str]:
        """The features of an impression, in the ranker's order."""
        ids = ["video", *(["channel"] if self.channels else [])]
        return [*ids, *self.impression_categories, *self.impression_numbers]

    @property
    def features(self) -> list[str]:
        """All features of the ranker, in the order of the `moves` of its `explain` signature."""
        return [*self.query_features, *self.impression_features]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> RankingSpec:
        return cls(**json.loads(text))
