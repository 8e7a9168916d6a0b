"""What an example record holds: the contract between the steps that write records and the trainer that reads them.

Imports nothing but the standard library and numpy, so the trainer may use it without Beam or polars.

One `tf.train.Example` a user. A *pointer* is a place in the user's past at which a prediction is made: one a label in
training, exactly one in serving and holdout records. Lists marked [p] have one value a pointer, in the same order.

| feature       | type      | what                                                                               |
|---------------|-----------|------------------------------------------------------------------------------------|
| user_id       | bytes [1] | the user                                                                           |
| watches       | int64 [n] | completed watches, oldest first, vocabulary ids; out of vocabulary: 0, or one of   |
|               |           | the shared rows' ids from `videos` + 1, see transforms/examples/histories.py      |
| tokens        | int64 [m] | search tokens, oldest first, vocabulary ids from 1; absent without searches        |
| label         | int64     | train [p]: ids from 1. holdout: the distinct videos completed, 0 for those out of  |
|               |           | vocabulary. serving: empty                                                         |
| watches_end   | int64 [p] | how many of `watches` come before the pointer: the input is the last ones of those |
| tokens_end    | int64 [p] | the same for `tokens`                                                              |
| example_age   | float [p] | age of the label in the window by its quantiles, in [0, 1]; 0 at serving           |
| label_days    | int64 [p] | whole days from the label to the end of what is learned of its user, 0 the last    |
|               |           | day: tells a model of an earlier night what is new to it; 0 in other records       |
| a category    | int64 [p] | 1 + index into the category's values; 0: missing or unknown                        |
| a number      | float [p] | in [0, 1]; `MISSING` (-1): not known                                               |
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

MISSING = -1.0
SPLITS = ("train", "holdout", "serving")


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Which features the records of one night have, and how large their id spaces are.

    A table or column the logs do not have is absent here and from the records: the model shrinks, nothing is filled in.
    """

    videos: int  # rows of the video vocabulary: ids 1..videos
    tokens: int  # rows of the search vocabulary: ids 1..tokens; 0: the model has no searches
    watch_history: int  # most recent completed watches in the input
    search_history: int  # most recent search tokens in the input
    categories: dict[str, list[str]] = field(default_factory=dict)  # name -> values, most frequent first
    numbers: list[str] = field(default_factory=list)
    shared_rows: int = (
        0  # ids videos + 1..videos + shared_rows of `watches`, for videos out of vocabulary; never labels
    )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> FeatureSpec:
        return cls(**json.loads(text))
