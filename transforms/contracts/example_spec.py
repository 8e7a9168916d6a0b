"""The format of example records, which steps of the pipeline write and the trainer reads.

Imports only the standard library and numpy, so that the trainer can use it without Beam and polars.

There is one `tf.train.Example` for each user. A *pointer* is a place in the user's history at which a prediction is
made: one for each label in training records, and exactly one in serving and holdout records. Lists marked [p] have one
value for each pointer, in the same order.

| feature       | type      | what                                                                               |
|---------------|-----------|------------------------------------------------------------------------------------|
| user_id       | bytes [1] | id of the user                                                                     |
| watches       | int64 [n] | completed watches, oldest first, vocabulary ids; out of vocabulary: 0, or the id   |
|               |           | of a shared row, from `videos` + 1; with `partial_watches` also watches that were  |
|               |           | not completed, `partial_offset` + id; see transforms/examples/histories.py          |
| tokens        | int64 [m] | search tokens, oldest first, vocabulary ids from 1; absent without searches        |
| label         | int64     | train [p]: ids from 1. holdout: the distinct completed videos, 0 if out of         |
|               |           | vocabulary. serving: empty                                                         |
| watches_end   | int64 [p] | number of `watches` before the pointer; the input is the last of them              |
| tokens_end    | int64 [p] | the same for `tokens`                                                              |
| example_age   | float [p] | quantile of the label's age in the window, in [0, 1]; 0 at serving                 |
| label_days    | int64 [p] | whole days from the label to the end of the user's training data, 0 on the last    |
|               |           | day; shows a warm start which labels are new; 0 in other records                   |
| as_of_days    | int64 [p] | whole days from the start of the label's day to the end of the window, from 1; 0   |
|               |           | at serving; from the start of the held-out days in holdout records                 |
| a category    | int64 [p] | 1 + index into the category's values; 0: missing or unknown                        |
| a number      | float [p] | in [0, 1]; `MISSING` (-1): unknown                                                 |
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

MISSING = -1.0
SPLITS = ("train", "holdout", "serving")


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """The features of the records of one night, and the sizes of their id spaces.

    A table or column that the logs do not have is absent here and in the records. The model then has fewer inputs.
    """

    videos: int  # rows of the video vocabulary: ids 1..videos
    tokens: int  # rows of the search vocabulary: ids 1..tokens; 0: the model has no searches
    watch_history: int  # most recent watches in the input
    search_history: int  # most recent search tokens in the input
    categories: dict[str, list[str]] = field(default_factory=dict)  # name -> values, most frequent first
    numbers: list[str] = field(default_factory=list)
    # Ids videos + 1..videos + shared_rows of `watches`, for videos out of vocabulary; they are never labels.
    shared_rows: int = 0
    partial_watches: bool = False  # whether `watches` contain those that were not completed, of videos in vocabulary
    holdout_days: int | None = None  # `as_of_days` of holdout records; None: no record has `as_of_days`

    @property
    def watch_ids(self) -> int:
        """The largest id in `watches`."""
        return self.partial_offset + self.partial_rows

    @property
    def partial_rows(self) -> int:
        """The number of ids of watches that were not completed."""
        return self.videos if self.partial_watches else 0

    @property
    def partial_offset(self) -> int:
        """The id in `watches` of a watch that was not completed, minus the id of its video."""
        return self.videos + self.shared_rows

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> FeatureSpec:
        return cls(**json.loads(text))
