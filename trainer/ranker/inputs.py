"""Batches of impressions with their histories from ranking records, with TensorFlow's C++ ops only.

Impressions are cut and shuffled like the examples of the retrieval model (`trainer.inputs`).

    for batch in impression_batches(files, spec, batch_size=1024, seed=1, epochs=range(3)):
        batch["watches"]  # int32 [batch, watch_history]
        batch["clicked"]  # float [batch]

`trainer.batch` lists the keys of a batch.
"""

from __future__ import annotations

from trainer.batch import (
    CHANNEL,
    CLICKED,
    IMPRESSION_DAY,
    IMPRESSION_WEIGHT,
    PAGE,
    TOKENS,
    VIDEO,
    WATCH_SECONDS,
    WATCHES,
    Batch,
    history_keys,
)
from trainer.inputs import (
    POOL_USERS,
    Pool,
    Records,
    assert_same_splits,
    cut_windows,
    end_feature,
    narrow,
    parse_histories,
    pointer_batches,
    shuffle_pointers,
)
from trainer.ranker.replay import RankingReplay
from trainer.record_files import RecordFiles, no_autograph
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf


def parse_ranking_records(serialized: tf.Tensor, spec: RankingSpec, *, lacks: frozenset[str] = frozenset()) -> Records:
    """Parse records, string [users]. There is one pointer for each impression.

    `lacks`: features of the spec that a record may lack. Their values are then unknown: NaN, or id 0.

    Fails if a list has another number of values than there are impressions; if a pointer lies behind the end of its
    list; and if a label is invalid: `clicked` other than 0 and 1; `watch_seconds` that are negative, infinite or NaN,
    or not 0 without a click; or an `impression_weight` that is not above 0 and finite.
    """
    parsed = tf.io.parse_example(serialized, _record_features(spec))
    splits, pointers = parsed[end_feature(WATCHES)].row_splits, Batch()
    for name in (end_feature(TOKENS) if feature == TOKENS else feature for feature in sorted(lacks)):
        parsed[name] = _fill_missing(parsed[name], splits, name)
    for name in [*_integer_features(spec), *spec.numbers, WATCH_SECONDS, IMPRESSION_WEIGHT]:
        with tf.control_dependencies([assert_same_splits(parsed[name], splits, name)]):
            pointers[name] = narrow(parsed[name].values)
    lists, places = parse_histories(parsed, splits, spec)
    with tf.control_dependencies([_assert_valid_labels(pointers)]):
        pointers[CLICKED] = tf.cast(pointers[CLICKED], tf.float32)
    return Records(
        user_id=parsed["user_id"],
        lists=lists,
        pointers=pointers | places,
        pointer_counts=parsed[end_feature(WATCHES)].row_lengths(),
    )


def impression_batches(
    records: RecordFiles,
    spec: RankingSpec,
    *,
    batch_size: int,
    seed: int,
    epochs: range,
    replay: RankingReplay | None = None,
    pool_users: int = POOL_USERS,
) -> tf.data.Dataset:
    """Return batches of epochs over the impressions, with the keys of `batch.impression_specs`.

    An epoch has each impression once, in batches of `batch_size`; its last batch may be smaller. The batches are the
    same for the same arguments. Impressions are shuffled within pools of `pool_users`, and users across pools. With
    `replay` an epoch has only the impressions that it keeps; `records` must be those that it keeps.
    """
    lacks = replay.lacks if replay else frozenset[str]()

    @no_autograph
    def read_pool(number: tf.Tensor, serialized: tf.Tensor, seeds: tf.Tensor) -> Pool:
        parsed = parse_ranking_records(serialized, spec, lacks=lacks)
        pointers = parsed.pointers
        if replay is not None:
            mask = replay.keeps_impressions(serialized)
            pointers = {name: tf.boolean_mask(values, mask) for name, values in pointers.items()}
        return parsed.lists, shuffle_pointers(pointers, tf.stack([seeds[1], tf.cast(number, tf.int32)]))

    return pointer_batches(
        records, spec, read_pool, batch_size=batch_size, seed=seed, epochs=epochs, pool_users=pool_users
    )


def all_impressions(serialized: tf.Tensor, spec: RankingSpec) -> tuple[Records, Batch]:
    """Parse records, string [users], and return them with a batch of all their impressions in the records' order."""
    parsed = parse_ranking_records(serialized, spec)
    return parsed, cut_windows(parsed.lists, parsed.pointers, spec)


def read_labels(records: RecordFiles, replay: RankingReplay | None = None) -> tf.data.Dataset:
    """Return (clicked, watch_seconds, impression_weight), float [n], of blocks of the impressions that an epoch has,
    and the number of their records.

    Reads the files once, and nothing else from them.
    """
    dtypes = {CLICKED: tf.int64, WATCH_SECONDS: tf.float32, IMPRESSION_WEIGHT: tf.float32}
    features = {name: tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64) for name, dtype in dtypes.items()}

    @no_autograph
    def labels(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_example(serialized, features)
        columns = [parsed[name].values for name in dtypes]
        if replay is not None:
            mask = replay.keeps_impressions(serialized)
            columns = [tf.boolean_mask(values, mask) for values in columns]
        clicked, seconds, weights = columns
        return tf.cast(clicked, tf.float32), seconds, weights, tf.size(serialized)

    return records.read_blocks().map(labels)


def _integer_features(spec: RankingSpec) -> list[str]:
    """Return the integer features that each impression has one value of."""
    return [VIDEO, *([CHANNEL] if spec.channels else []), *spec.categories, CLICKED, PAGE, IMPRESSION_DAY]


def _record_features(spec: RankingSpec) -> dict[str, tf.io.FixedLenFeature | tf.io.RaggedFeature]:
    histories = history_keys(spec)
    dtypes = dict.fromkeys([*histories, *map(end_feature, histories), *_integer_features(spec)], tf.int64)
    dtypes |= dict.fromkeys([*spec.numbers, WATCH_SECONDS, IMPRESSION_WEIGHT], tf.float32)
    ragged = {name: tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64) for name, dtype in dtypes.items()}
    return {"user_id": tf.io.FixedLenFeature([], tf.string), **ragged}


def _fill_missing(values: tf.RaggedTensor, splits: tf.Tensor, name: str) -> tf.RaggedTensor:
    """Return a feature with unknown values in the records that lack it; it is whole in all others."""
    counts, lengths = splits[1:] - splits[:-1], values.row_lengths()
    whole = tf.reduce_all((lengths == counts) | (lengths == 0))
    message = f"{name} must have one value a pointer, or none: the records and spec.json do not match"
    with tf.control_dependencies([tf.debugging.Assert(whole, [message, splits, values.row_splits])]):
        present = tf.where(tf.repeat(lengths > 0, counts))
    unknown = float("nan") if values.dtype == tf.float32 else 0
    filled = tf.fill([splits[-1]], tf.constant(unknown, values.dtype))
    filled = tf.tensor_scatter_nd_update(filled, present, values.values)
    return tf.RaggedTensor.from_row_splits(filled, splits, validate=False)


def _assert_valid_labels(pointers: Batch) -> tf.Operation:
    clicked, seconds, weights = pointers[CLICKED], pointers[WATCH_SECONDS], pointers[IMPRESSION_WEIGHT]
    valid = (seconds >= 0) & (seconds < float("inf")) & ((clicked == 1) | ((clicked == 0) & (seconds == 0)))
    message = (
        "clicked must be 0 or 1, watch_seconds finite, and 0 if clicked is 0, and impression_weight finite and above "
        "0: write the records again"
    )
    weighed = (weights > 0) & (weights < float("inf"))
    return tf.debugging.Assert(tf.reduce_all(valid & weighed), [message, seconds, weights])
