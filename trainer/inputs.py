"""From record files to batches of labels with their windows, in TensorFlow's C++ ops alone.

A record holds a user's whole past once, and for each label how much of it came before: windows are cut here, by index
arithmetic, from pools of thousands of users, so that the labels of a batch come from many users and a label costs no
bytes on disk but its own. Training, the holdout and the exported tower cut with the same `cut_windows`.

    for batch in epoch_batches(files, spec, batch_size=1024, seed=1, epochs=range(5)):
        batch["watches"]  # int32 [batch, watch_history]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.quiet import tf
from trainer.seeds import seed_of
from transforms.features import MISSING, FeatureSpec

Batch = dict[str, tf.Tensor]

# Nothing here branches on tensors, and translating Python for a start-up takes longer than tracing it.
plain = tf.autograph.experimental.do_not_convert

POOL_USERS = 4096  # users whose labels are shuffled together; also how many records a shuffle of records holds
READ_FILES = 16  # files read in turn: neighbours in a file do not meet in a pool more than chance has it
COUNT_RECORDS = 1024  # records parsed at once where nothing is shuffled


@dataclass(frozen=True, kw_only=True)
class Records:
    """Parsed records: the lists of all users end to end, and for each pointer where its input ends in them."""

    user_id: tf.Tensor  # string [users]
    lists: dict[str, tf.Tensor]  # watches, tokens: int32 [1 + all values], a 0 in front of the first
    pointers: dict[str, tf.Tensor]  # [pointers]: LIST_stop, LIST_count, example_age, categories, numbers, label
    pointer_counts: tf.Tensor  # int64 [users]
    labels: tf.RaggedTensor  # int64 [users, labels]


def record_features(spec: FeatureSpec) -> dict[str, tf.io.RaggedFeature]:
    """How `tf.io.parse_example` reads the lists of a record."""
    whole = ["watches", "watches_end", "label", *spec.categories]
    if spec.tokens:
        whole += ["tokens", "tokens_end"]
    features = {name: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64) for name in whole}
    for name in ["example_age", *spec.numbers]:
        features[name] = tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64)
    return features


def parse_records(serialized: tf.Tensor, spec: FeatureSpec, *, training: bool) -> Records:
    """Parses records [users] string. With `training` each pointer has one label, else a record's labels are a set.

    Fails on a list with another number of values than there are pointers; on a pointer behind the end of its list: it
    would reach into the next user's past; and on a number out of its range or NaN: it would ruin the tower unseen.
    """
    features = {"user_id": tf.io.FixedLenFeature([], tf.string), **record_features(spec)}
    parsed = tf.io.parse_example(serialized, features)
    splits = parsed["watches_end"].row_splits
    pointers: dict[str, tf.Tensor] = {}
    for name in ["example_age", *spec.categories, *spec.numbers, *(["label"] if training else [])]:
        checks = [_same_splits(parsed[name], splits, name)]
        if parsed[name].dtype == tf.float32:
            checks.append(_in_range(parsed[name].values, name))
        with tf.control_dependencies(checks):
            values = tf.identity(parsed[name].values)
        pointers[name] = tf.cast(values, tf.int32) if values.dtype == tf.int64 else values
    lists: dict[str, tf.Tensor] = {}
    for name in ["watches", *(["tokens"] if spec.tokens else [])]:
        lists[name] = tf.concat([[0], tf.cast(parsed[name].values, tf.int32)], axis=0)
        pointers[f"{name}_stop"], pointers[f"{name}_count"] = _ends(parsed[name], parsed[f"{name}_end"], splits, name)
    return Records(
        user_id=parsed["user_id"],
        lists=lists,
        pointers=pointers,
        pointer_counts=parsed["watches_end"].row_lengths(),
        labels=parsed["label"],
    )


def cut_windows(lists: dict[str, tf.Tensor], pointers: dict[str, tf.Tensor], spec: FeatureSpec) -> Batch:
    """The input of each pointer: `watches` [pointers, watch_history] and `tokens` [pointers, search_history] int32.

    The most recent id stands in the last column, whatever the length, so that a column means the same for all; 0 is
    padding or out of vocabulary. What else the pointers hold is passed on.
    """
    lengths = {"watches": spec.watch_history, "tokens": spec.search_history}
    batch = {name: tensor for name, tensor in pointers.items() if not name.endswith(("_stop", "_count"))}
    for name, values in lists.items():
        stop, count = pointers[f"{name}_stop"], pointers[f"{name}_count"]
        back = tf.range(lengths[name], 0, -1, dtype=tf.int64)[tf.newaxis, :]  # 1 is the most recent
        place = tf.where(back <= count[:, tf.newaxis], stop[:, tf.newaxis] - back, 0)
        batch[name] = tf.gather(values, place)
    return batch


def epoch_batches(
    files: Sequence[str], spec: FeatureSpec, *, batch_size: int, seed: int, epochs: range, pool_users: int = POOL_USERS
) -> tf.data.Dataset:
    """Batches of passes over the labels of `files`: each label once a pass, all but a pass's last of `batch_size`.

    The same for the same arguments, and a pass is the same whichever come before it. Labels are shuffled within pools
    of `pool_users` users, users across pools. One dataset of all passes, because tracing a new one costs a second.
    """
    seeds = [[*seed_of(seed, "epoch", epoch), *seed_of(seed, "files", epoch)] for epoch in epochs]
    passes = tf.data.Dataset.from_tensor_slices(tf.constant(seeds, tf.int32))
    one = plain(lambda drawn: _one_epoch(files, spec, batch_size, drawn[:2], drawn[2:], pool_users))
    return passes.flat_map(one).prefetch(4)


def _one_epoch(
    files: Sequence[str], spec: FeatureSpec, batch_size: int, shuffle: tf.Tensor, order: tf.Tensor, pool_users: int
) -> tf.data.Dataset:
    files = tf.random.experimental.stateless_shuffle(tf.constant(sorted(files)), order)
    first = tf.cast(tf.abs(shuffle[0]), tf.int64)
    records = _read(files).shuffle(pool_users, seed=first, reshuffle_each_iteration=False)

    @plain
    def pool(number: tf.Tensor, serialized: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        parsed = parse_records(serialized, spec, training=True)
        places = tf.range(tf.size(parsed.pointers["label"]))
        places = tf.random.experimental.stateless_shuffle(places, tf.stack([shuffle[1], tf.cast(number, tf.int32)]))
        return parsed.lists, {name: tf.gather(tensor, places) for name, tensor in parsed.pointers.items()}

    @plain
    def slices(lists: dict[str, tf.Tensor], pointers: dict[str, tf.Tensor]) -> tf.data.Dataset:
        starts = tf.data.Dataset.range(0, tf.size(pointers["label"], tf.int64), batch_size)
        return starts.map(
            plain(
                lambda start: cut_windows(lists, {k: v[start : start + batch_size] for k, v in pointers.items()}, spec)
            )
        )

    pools = records.batch(pool_users).enumerate().map(pool).prefetch(1)
    return pools.flat_map(slices).rebatch(batch_size)


def one_pointer_batches(files: Sequence[str], spec: FeatureSpec, *, batch_size: int, records: int) -> tf.data.Dataset:
    """(inputs, labels [users, labels] ragged, watches so far [users, watches] ragged) of records with one pointer.

    Of the first `records` records, files in turn; always in the same order.
    """

    @plain
    def parse(serialized: tf.Tensor) -> tuple[Batch, tf.RaggedTensor, tf.RaggedTensor]:
        parsed = parse_records(serialized, spec, training=False)
        stop, count = parsed.pointers["watches_stop"], parsed.pointers["watches_count"]
        places = tf.ragged.range(stop - count, stop)
        batch = cut_windows(parsed.lists, parsed.pointers, spec)
        return batch, parsed.labels, tf.gather(parsed.lists["watches"], places)

    return _read(tf.constant(sorted(files))).take(records).batch(batch_size).map(parse).prefetch(2)


def count_labels(files: Sequence[str]) -> int:
    """How many labels the training records hold: one pass over the files that reads nothing else from them."""
    features = {"label": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)}
    if not files:
        return 0
    counts = (
        _read(tf.constant(sorted(files)))
        .batch(COUNT_RECORDS)
        .map(plain(lambda serialized: tf.size(tf.io.parse_example(serialized, features)["label"].values, tf.int64)))
    )
    return int(counts.reduce(tf.constant(0, tf.int64), plain(lambda total, count: total + count)))


def _read(files: tf.Tensor) -> tf.data.Dataset:
    """Serialized records, from a few files in turn, always in the same order."""
    return tf.data.Dataset.from_tensor_slices(files).interleave(
        plain(lambda file: tf.data.TFRecordDataset(file, compression_type="GZIP")),
        cycle_length=READ_FILES,
        num_parallel_calls=2,
        deterministic=True,
    )


def _ends(values: tf.RaggedTensor, ends: tf.RaggedTensor, splits: tf.Tensor, name: str) -> tuple[tf.Tensor, tf.Tensor]:
    """For each pointer, where its input stops in the padded list of all users, and how many values it has."""
    user = tf.ragged.row_splits_to_segment_ids(splits)
    with tf.control_dependencies([_same_splits(ends, splits, f"{name}_end")]):
        count = tf.identity(ends.values)
    inside = tf.debugging.Assert(
        tf.reduce_all((count >= 0) & (count <= tf.gather(values.row_lengths(), user))),
        [f"{name}_end must lie in the record's {name}: write the examples again", count],
    )
    with tf.control_dependencies([inside]):
        return 1 + tf.gather(values.row_starts(), user) + count, count


def _in_range(values: tf.Tensor, name: str) -> tf.Operation:
    least = 0.0 if name == "example_age" else MISSING
    message = f"{name} must lie in [0, 1]" + ("" if least == 0 else f", or be {MISSING}") + ": write the examples again"
    valid = tf.reduce_all((values >= 0) & (values <= 1) | (values == least))
    return tf.debugging.Assert(valid, [message, values])


def _same_splits(values: tf.RaggedTensor, splits: tf.Tensor, name: str) -> tf.Operation:
    same = tf.reduce_all(tf.equal(values.row_splits, splits))
    message = f"{name} must have one value a pointer, as watches_end has: the records and spec.json do not match"
    return tf.debugging.Assert(same, [message, splits, values.row_splits])
