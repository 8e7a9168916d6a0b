"""Batches of labels with their windows from record files, with TensorFlow's C++ ops only.

A record holds the whole history of a user once, and for each label how much of it comes before. Windows are cut here by
index arithmetic from pools of thousands of users, so that the labels of a batch come from many users and a label takes
no space on disk for its window. Training, the holdout and the exported tower use the same `cut_windows`.

    for batch in epoch_batches(files, spec, batch_size=1024, seed=1, epochs=range(5)):
        batch["watches"]  # int32 [batch, watch_history]

`trainer.batch` lists the keys of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.batch import (
    EXAMPLE_AGE,
    LABEL,
    SEQUENCE,
    TOKENS,
    WATCHES,
    Batch,
    HistorySpec,
    count_key,
    history_keys,
    is_pointer_key,
    moment_keys,
    stop_key,
)
from trainer.record_files import RecordFiles, no_autograph
from trainer.replay import Replay
from trainer.seeds import derive_seed
from trainer.sequences import share_sequences, shuffle_sequences
from transforms.contracts.example_spec import MISSING, FeatureSpec
from transforms.core.tensorflow_import import tf

Pool = tuple[Batch, Batch]  # the concatenated lists of some users, and their pointers

POOL_USERS = 4096  # users whose labels are shuffled together; also the buffer size of the shuffle of records
PARALLEL_CALLS = 2  # pools that are parsed, and batches that are cut, at the same time
PREFETCHED_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class Records:
    """Parsed records: the concatenated lists of all users, and the pointers into them (see `trainer.batch`)."""

    user_id: tf.Tensor  # string [users]
    lists: Batch
    pointers: Batch
    pointer_counts: tf.Tensor  # int64 [users]


@dataclass(frozen=True, kw_only=True)
class ExampleRecords(Records):
    """Parsed records of examples. Without `training`, a pointer has no single label."""

    labels: tf.RaggedTensor  # int64 [users, labels]


def record_features(spec: FeatureSpec) -> dict[str, tf.io.RaggedFeature]:
    """Return the features of a record, other than `user_id`, for `tf.io.parse_example`."""
    integers = [*history_keys(spec), *map(end_feature, history_keys(spec)), LABEL, *moment_keys(spec), *spec.categories]
    features = {name: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64) for name in integers}
    for name in [EXAMPLE_AGE, *spec.numbers]:
        features[name] = tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64)
    return features


def parse_records(serialized: tf.Tensor, spec: FeatureSpec, *, training: bool) -> ExampleRecords:
    """Parse records, string [users]. With `training` each pointer has one label; otherwise the labels are a set.

    Fails if a list has another number of values than there are pointers; if a pointer lies behind the end of its list,
    where the next user's history begins; and if a number is out of range or NaN, which would make the tower useless.
    """
    features = {"user_id": tf.io.FixedLenFeature([], tf.string), **record_features(spec)}
    parsed = tf.io.parse_example(serialized, features)
    splits = parsed[end_feature(WATCHES)].row_splits
    pointers: Batch = {}
    for name in [EXAMPLE_AGE, *moment_keys(spec), *spec.categories, *spec.numbers, *([LABEL] if training else [])]:
        checks = [assert_same_splits(parsed[name], splits, name)]
        if parsed[name].dtype == tf.float32:
            checks.append(_assert_in_range(parsed[name].values, name))
        with tf.control_dependencies(checks):
            pointers[name] = narrow(parsed[name].values)
    lists, places = parse_histories(parsed, splits, spec)
    return ExampleRecords(
        user_id=parsed["user_id"],
        lists=lists,
        pointers=pointers | places,
        pointer_counts=parsed[end_feature(WATCHES)].row_lengths(),
        labels=parsed[LABEL],
    )


def parse_histories(parsed: Batch, splits: tf.Tensor, spec: HistorySpec) -> tuple[Batch, Batch]:
    """Return the concatenated lists of parsed records, and where in them the input of each pointer ends.

    `splits`: int64 [users + 1], the row splits of the pointers. Fails if a pointer lies outside its user's list.
    """
    lists: Batch = {}
    places: Batch = {}
    for name in history_keys(spec):
        values, ends = parsed[name], parsed[end_feature(name)]
        lists[name] = tf.concat([[0], tf.cast(values.values, tf.int32)], axis=0)
        places[stop_key(name)], places[count_key(name)] = _pointer_ends(values, ends, splits, name)
    return lists, places


def cut_windows(lists: Batch, pointers: Batch, spec: HistorySpec) -> Batch:
    """Return the input of each pointer: `watches` int32 [pointers, watch_history], `tokens` [pointers, search_history].

    The most recent id is in the last column whatever the length of the history, so that a column has the same meaning
    in all rows; 0 is padding or out of vocabulary. Everything else that the pointers have is passed on.
    """
    lengths = {WATCHES: spec.watch_history, TOKENS: spec.search_history}
    batch = {name: tensor for name, tensor in pointers.items() if not is_pointer_key(name)}
    for name, values in lists.items():
        stop, count = pointers[stop_key(name)], pointers[count_key(name)]
        back = tf.range(lengths[name], 0, -1, dtype=tf.int64)[tf.newaxis, :]  # 1 is the most recent
        index = tf.where(back <= count[:, tf.newaxis], stop[:, tf.newaxis] - back, 0)
        batch[name] = tf.gather(values, index)
    return batch


def epoch_batches(
    files: Sequence[str] | RecordFiles,
    spec: FeatureSpec,
    *,
    batch_size: int,
    seed: int,
    epochs: range,
    sequences: bool = False,
    pool_users: int = POOL_USERS,
    drop_remainder: bool = False,
    replay: Replay | None = None,
    withheld: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> tf.data.Dataset:
    """Return batches of epochs over the labels of `files`, with the keys of `batch.training_specs`.

    An epoch has each label once, in batches of `batch_size`; its last batch may be smaller. The batches are the same
    for the same arguments, and an epoch is the same whatever epochs come before it. Labels are shuffled within pools of
    `pool_users` users, and users across pools. All epochs are one dataset, because tracing another takes a second.

    With `sequences`, `watches` are sequences instead of windows (`sequences.share_sequences`), and sequences are
    shuffled instead of labels. With `drop_remainder` an epoch lacks its smaller last batch, and shapes are static. With
    `replay` an epoch has only the labels that it keeps; `replay.count` returns how many. No epoch has the labels that
    `withheld` selects: records, string [users] -> bool [labels].
    """

    @no_autograph
    def read_pool(number: tf.Tensor, serialized: tf.Tensor, seeds: tf.Tensor) -> Pool:
        parsed = parse_records(serialized, spec, training=True)
        pointers, seed = parsed.pointers, tf.stack([seeds[1], tf.cast(number, tf.int32)])
        if replay is not None or withheld is not None:
            mask = replay.keeps(serialized, seeds[4]) if replay else tf.fill([tf.size(pointers[LABEL])], True)
            mask &= ~withheld(serialized) if withheld else True
            pointers = {name: tf.boolean_mask(values, mask) for name, values in pointers.items()}
        if sequences:
            pointers = share_sequences(pointers, length=spec.watch_history, pool=number)
            return parsed.lists, _reorder(pointers, shuffle_sequences(pointers[SEQUENCE], seed=seed))
        return parsed.lists, shuffle_pointers(pointers, seed)

    records = files if isinstance(files, RecordFiles) else RecordFiles.from_paths(files)
    return pointer_batches(
        records,
        spec,
        read_pool,
        batch_size=batch_size,
        seed=seed,
        epochs=epochs,
        pool_users=pool_users,
        drop_remainder=drop_remainder,
    )


def pointer_batches(
    records: RecordFiles,
    spec: HistorySpec,
    read_pool: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Pool],
    *,
    batch_size: int,
    seed: int,
    epochs: range,
    pool_users: int = POOL_USERS,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Return batches of epochs over the pointers that `read_pool` returns for pools of users, in its order.

    `read_pool`: (number of the pool int64, records string [users], int32 [5]: two seeds, number of the epoch) -> pool.
    """
    seeds_by_epoch = [
        [*derive_seed(seed, "epoch", epoch), *derive_seed(seed, "files", epoch), epoch] for epoch in epochs
    ]
    # The shape is given because there may be no epoch left, if a training is resumed at its end.
    seeds_dataset = tf.data.Dataset.from_tensor_slices(
        tf.reshape(tf.constant(seeds_by_epoch, tf.int32), [len(epochs), 5])
    )

    @no_autograph
    def read_epoch(seeds: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(len(records.paths)), seeds[2:4])
        first = tf.cast(tf.abs(seeds[0]), tf.int64)
        read = records.read(order).shuffle(pool_users, seed=first, reshuffle_each_iteration=False)
        parse = no_autograph(lambda number, serialized: read_pool(number, serialized, seeds))
        pools = read.batch(pool_users).enumerate().map(parse, num_parallel_calls=PARALLEL_CALLS, deterministic=True)
        cut = no_autograph(lambda lists, pointers: _window_batches(lists, pointers, spec, batch_size))
        return pools.prefetch(1).flat_map(cut).rebatch(batch_size, drop_remainder=drop_remainder)

    return seeds_dataset.flat_map(read_epoch).prefetch(PREFETCHED_BATCHES)


def shuffle_pointers(pointers: Batch, seed: tf.Tensor) -> Batch:
    """Return the pointers in an order drawn by `seed`, int32 [2]."""
    indices = tf.range(tf.size(pointers[stop_key(WATCHES)]))
    return _reorder(pointers, tf.random.experimental.stateless_shuffle(indices, seed))


def _reorder(pointers: Batch, indices: tf.Tensor) -> Batch:
    return {name: tf.gather(values, indices) for name, values in pointers.items()}


def _window_batches(lists: Batch, pointers: Batch, spec: HistorySpec, batch_size: int) -> tf.data.Dataset:
    """Return batches of at most `batch_size` of a pool's pointers, in their order, with their windows."""

    @no_autograph
    def cut(start: tf.Tensor) -> Batch:
        part = {name: values[start : start + batch_size] for name, values in pointers.items()}
        return cut_windows(lists, part, spec)

    starts = tf.data.Dataset.range(0, tf.size(pointers[stop_key(WATCHES)], tf.int64), batch_size)
    return starts.map(cut, num_parallel_calls=PARALLEL_CALLS, deterministic=True)


def one_pointer_batches(files: Sequence[str], spec: FeatureSpec, *, batch_size: int, records: int) -> tf.data.Dataset:
    """Return (inputs, labels [users, labels] ragged, watched [users, watches] ragged) of records with one pointer.

    `watched` are all watches before the pointer. Reads the first `records` records, always in the same order.
    """

    @no_autograph
    def parse(serialized: tf.Tensor) -> tuple[Batch, tf.RaggedTensor, tf.RaggedTensor]:
        parsed = parse_records(serialized, spec, training=False)
        batch = cut_windows(parsed.lists, parsed.pointers, spec)
        return batch, parsed.labels, watched_before(parsed.lists, parsed.pointers)

    return RecordFiles.from_paths(files).read().take(records).batch(batch_size).map(parse).prefetch(2)


def watched_before(lists: Batch, pointers: Batch) -> tf.RaggedTensor:
    """Return all watches before each pointer, int32 [pointers, watches]."""
    stop, count = pointers[stop_key(WATCHES)], pointers[count_key(WATCHES)]
    return tf.gather(lists[WATCHES], tf.ragged.range(stop - count, stop))


def count_labels(files: Sequence[str] | RecordFiles) -> int:
    """Return the number of labels in training records. Reads the files once, and nothing else from them."""
    features = {LABEL: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)}
    records = files if isinstance(files, RecordFiles) else RecordFiles.from_paths(files)

    @no_autograph
    def count(serialized: tf.Tensor) -> tf.Tensor:
        return tf.size(tf.io.parse_example(serialized, features)[LABEL].values, tf.int64)

    counts = records.read_blocks().map(count)
    return int(counts.reduce(tf.constant(0, tf.int64), no_autograph(lambda total, count: total + count)))


def end_feature(history: str) -> str:
    """Return the name of the record feature that has the pointers' ends in a history."""
    return f"{history}_end"


def narrow(values: tf.Tensor) -> tf.Tensor:
    """Return values as int32 if they are int64. The copy depends on the checks around it."""
    return tf.cast(values, tf.int32) if values.dtype == tf.int64 else tf.identity(values)


def _pointer_ends(
    values: tf.RaggedTensor, ends: tf.RaggedTensor, splits: tf.Tensor, name: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return for each pointer the end of its input in the padded list of all users, and how many values come before."""
    user = tf.ragged.row_splits_to_segment_ids(splits)
    with tf.control_dependencies([assert_same_splits(ends, splits, end_feature(name))]):
        count = tf.identity(ends.values)
    inside = tf.debugging.Assert(
        tf.reduce_all((count >= 0) & (count <= tf.gather(values.row_lengths(), user))),
        [f"{end_feature(name)} must lie in the record's {name}: write the examples again", count],
    )
    with tf.control_dependencies([inside]):
        return 1 + tf.gather(values.row_starts(), user) + count, count


def _assert_in_range(values: tf.Tensor, name: str) -> tf.Operation:
    least = 0.0 if name == EXAMPLE_AGE else MISSING
    message = f"{name} must lie in [0, 1]" + ("" if least == 0 else f", or be {MISSING}") + ": write the examples again"
    valid = tf.reduce_all((values >= 0) & (values <= 1) | (values == least))
    return tf.debugging.Assert(valid, [message, values])


def assert_same_splits(values: tf.RaggedTensor, splits: tf.Tensor, name: str) -> tf.Operation:
    """Return an op that fails unless a feature has as many values in each record as there are pointers."""
    same = tf.reduce_all(tf.equal(values.row_splits, splits))
    message = f"{name} must have one value a pointer, as watches_end has: the records and spec.json do not match"
    return tf.debugging.Assert(same, [message, splits, values.row_splits])
