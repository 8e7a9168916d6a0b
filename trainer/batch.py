"""Keys of the dictionaries of tensors that the modules of the trainer exchange.

An element of a `tf.data.Dataset` is a dictionary of tensors, which a type checker cannot look into. Every key is
defined here, and nowhere else. Categories and numbers have the names that the feature spec gives them.

| key            | dtype   | shape                   | value                                                          |
|----------------|---------|-------------------------|----------------------------------------------------------------|
| watches        | int32   | [batch, watch_history]  | ids of watched videos, the most recent in the last column,     |
|                |         |                         | padded with 0 in front                                         |
| tokens         | int32   | [batch, search_history] | ids of search tokens, in the same way; absent without searches |
| a category     | int32   | [batch]                 | 1 + index of the value; 0: missing or unknown                  |
| a number       | float32 | [batch]                 | retrieval: in [0, 1], or `MISSING`; ranking: raw, or NaN       |
| example_age    | float32 | [batch]                 | in [0, 1]; 0 at serving                                        |
| label          | int32   | [batch]                 | id of the label, from 1; in training only                      |
| as_of_days     | int32   | [batch]                 | days before the end of the window as of which trends are read; |
|                |         |                         | absent if it is 0 for all                                      |
| sequence       | int64   | [batch]                 | in batches of sequences: equal for labels that share a row     |
| position       | int32   | [batch]                 | in batches of sequences: columns of the row before the label   |
| share          | float32 | []                      | in a replica's part: the part's share of the batch's labels    |
| request        | int32   | [candidates]            | in requests to the ranker: the row of the query's features     |
| video, channel | int32   | [impressions]           | ids, from 1; 0: out of vocabulary                              |
| clicked        | float32 | [impressions]           | 0 or 1                                                         |
| watch_seconds  | float32 | [impressions]           | seconds watched after the click                                |
| page           | int32   | [impressions]           | number of the page among the user's pages                      |
| impression_day | int32   | [impressions]           | days since 1970-01-01                                          |
| impression_    | float32 | [impressions]           | in training only: how many impressions it stands for           |
| weight         |         |                         |                                                                |

A pool of users is a pair of dictionaries: `lists` with the concatenated histories of all users (`watches`, `tokens`:
int32 [1 + ids], a 0 in front), and `pointers` with the context and labels above and, for each list, two int64
[pointers]: `LIST_stop`, the index in the list behind the last id of the pointer's input, and `LIST_count`, how many ids
of the user come before it.
"""

from __future__ import annotations

from transforms.contracts.example_spec import FeatureSpec
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

Batch = dict[str, tf.Tensor]
HistorySpec = FeatureSpec | RankingSpec  # both give the lengths of the histories

WATCHES, TOKENS = "watches", "tokens"
EXAMPLE_AGE, LABEL, AS_OF_DAYS = "example_age", "label", "as_of_days"
SEQUENCE, POSITION = "sequence", "position"
SHARE = "share"
REQUEST, VIDEO, CHANNEL = "request", "video", "channel"
CLICKED, WATCH_SECONDS, PAGE, IMPRESSION_DAY = "clicked", "watch_seconds", "page", "impression_day"
RANKING_LABELS = (CLICKED, WATCH_SECONDS, PAGE, IMPRESSION_DAY)
IMPRESSION_WEIGHT = "impression_weight"
RECORD_NIGHT = "record_night"


def stop_key(history: str) -> str:
    """Return the key of the pointers' ends in the list `history`."""
    return f"{history}_stop"


def count_key(history: str) -> str:
    """Return the key of how many ids of the list `history` come before each pointer."""
    return f"{history}_count"


def is_pointer_key(key: str) -> bool:
    """Return whether a key of the pointers is about their place in a list, and so is not passed on to a batch."""
    return key in (stop_key(WATCHES), count_key(WATCHES), stop_key(TOKENS), count_key(TOKENS))


def history_keys(spec: HistorySpec) -> list[str]:
    """Return the keys of the histories that the records of a spec hold."""
    return [WATCHES, TOKENS] if spec.tokens else [WATCHES]


def moment_keys(spec: FeatureSpec) -> list[str]:
    """Return the keys of the moment of a pointer that the records of a spec have, besides the example age."""
    return [] if spec.holdout_days is None else [AS_OF_DAYS]


def feature_specs(spec: FeatureSpec) -> dict[str, tf.TensorSpec]:
    """Return dtype and shape of each input of the user tower: what serving gives it."""
    lengths = {WATCHES: spec.watch_history, TOKENS: spec.search_history}
    specs = {name: _tensor(name, tf.int32, lengths[name]) for name in history_keys(spec)}
    specs |= {name: _tensor(name, tf.int32) for name in spec.categories}
    return specs | {name: _tensor(name, tf.float32) for name in [EXAMPLE_AGE, *spec.numbers]}


def training_specs(spec: FeatureSpec, *, sequences: bool = False) -> dict[str, tf.TensorSpec]:
    """Return dtype and shape of each tensor of a training batch, of windows or of sequences."""
    specs = feature_specs(spec) | {name: _tensor(name, tf.int32) for name in [*moment_keys(spec), LABEL]}
    return specs | ({SEQUENCE: _tensor(SEQUENCE, tf.int64), POSITION: _tensor(POSITION, tf.int32)} if sequences else {})


def ranking_feature_specs(spec: RankingSpec) -> dict[str, tf.TensorSpec]:
    """Return dtype and shape of each feature that the ranker reads, in the order of `spec.features`."""
    lengths = {WATCHES: (spec.watch_history,), TOKENS: (spec.search_history,)}
    dtypes = dict.fromkeys(spec.numbers, tf.float32)
    return {name: _tensor(name, dtypes.get(name, tf.int32), *lengths.get(name, ())) for name in spec.features}


def impression_specs(spec: RankingSpec) -> dict[str, tf.TensorSpec]:
    """Return dtype and shape of each tensor of a batch of impressions to train on."""
    dtypes = {CLICKED: tf.float32, WATCH_SECONDS: tf.float32, PAGE: tf.int32, IMPRESSION_DAY: tf.int32}
    dtypes[IMPRESSION_WEIGHT] = tf.float32
    return ranking_feature_specs(spec) | {name: _tensor(name, dtype) for name, dtype in dtypes.items()}


def request_specs(spec: RankingSpec) -> dict[str, tf.TensorSpec]:
    """Return dtype and shape of each input of a request to the ranker.

    Features of the query are given once a request, [requests]; those of the impression once a candidate, [candidates].
    """
    return {REQUEST: _tensor(REQUEST, tf.int32), **ranking_feature_specs(spec)}


def _tensor(name: str, dtype: tf.DType, *shape: int) -> tf.TensorSpec:
    return tf.TensorSpec([None, *shape], dtype, name=name)
